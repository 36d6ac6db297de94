"""Operations that change the canvas: resizing, widening, padding, cropping. They join the one map like the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from plumbline.augment.ops.affine import Probability
from plumbline.augment.plan import AugmentationStep, ObjectRule, Rewriting, Skip, View, between, choose
from plumbline.config.limits import Length, Range
from plumbline.geometry import Polyline
from plumbline.geometry.clip import visible_fraction
from plumbline.geometry.group import Bounds, ShapeGroup, overlaps
from plumbline.geometry.maps import IDENTITY, scaling, then, translation

Multiple = Annotated[int, Range(ge=1, le=1024)]
_ROUNDING_PX = 1e-6
"""A corner that rounding has carried this far over the edge is not outside."""


def _aligned(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)


def _padded(side: float, multiple: int) -> int:
    # A side that is a multiple up to rounding noise must not grow by a whole one.
    return max(1, math.ceil(side / multiple - 1e-9)) * multiple


def _floored(side: float, multiple: int) -> int:
    return max(multiple, math.floor(side / multiple + 1e-9) * multiple)


@dataclass(frozen=True, kw_only=True)
class ResizeByScale:
    """Enlarge or shrink the picture and its canvas together."""

    factor: Annotated[tuple[float, float], Range(gt=0, le=10)] = (0.8, 1.2)
    """Range of the factor."""
    multiple: Multiple = 1
    """Both sides become the nearest multiple of this many pixels."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        factor = between(rng, *self.factor)
        width, height = (_aligned(side * factor, self.multiple) for side in (view.width, view.height))
        return AugmentationStep(scaling(width / view.width, height / view.height), width, height)


@dataclass(frozen=True, kw_only=True)
class ExpandToFitAffine:
    """Make the canvas hold what turns and slants have moved off it: the source, or what the last crop kept of it."""

    multiple: Multiple = 1
    """Both sides become a multiple of this many pixels."""
    max_pixels: Annotated[int, Range(ge=1)] | None = None
    """Largest area of the wider canvas: beyond it the picture shrinks with it. At least one `multiple` a side."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        kept = view.kept_corners
        low, high = kept.min(0), kept.max(0)
        if low.min() >= -_ROUNDING_PX and (high <= (view.width + _ROUNDING_PX, view.height + _ROUNDING_PX)).all():
            width, height = _padded(view.width, self.multiple), _padded(view.height, self.multiple)
            if (width, height) == (view.width, view.height):
                return Skip("everything fits already")
            return AugmentationStep(IDENTITY, width, height)
        width, height = (_padded(side, self.multiple) for side in (high - low).tolist())
        moved = translation(*(-low + ((width, height) - (high - low)) / 2))
        return self._within(AugmentationStep(moved, width, height))

    def _within(self, step: AugmentationStep) -> AugmentationStep:
        """The step, its canvas no larger than `max_pixels`; the picture keeps its proportions and its centre."""
        area = step.width * step.height
        if self.max_pixels is None or area <= self.max_pixels:
            return step
        shrink = math.sqrt(self.max_pixels / area)
        width, height = (_floored(side * shrink, self.multiple) for side in (step.width, step.height))
        factor = min(width / step.width, height / step.height)
        centred = translation((width - factor * step.width) / 2, (height - factor * step.height) / 2)
        return AugmentationStep(then(then(step.matrix, scaling(factor, factor)), centred), width, height)


@dataclass(frozen=True, kw_only=True)
class PadToMultiple:
    """Pad at the right and at the bottom, so that both sides are multiples."""

    multiple: Multiple = 32
    """Pixels."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        return AugmentationStep(IDENTITY, _padded(view.width, self.multiple), _padded(view.height, self.multiple))


@dataclass(frozen=True, kw_only=True)
class CropRules:
    """What a crop does to the objects, and when it rather does not act."""

    min_coverage: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Least visible share of an object's area (of a line's length) to keep it; the strictest crop counts."""
    min_objects: Annotated[int, Range(ge=0)] = 1
    """The crop is skipped when it would leave fewer objects (a record with fewer to begin with must keep them all)."""
    line_policy: Literal["cut", "drop", "skip"] = "cut"
    """A line that the edge cuts keeps its longest visible piece, is dropped, or makes the crop skip."""
    completeness_threshold: Annotated[float, Range(gt=0, le=1)] | None = None
    """Below this visible share `complete_text` in `desc` becomes `partial_text`; nothing else in it changes."""
    complete_text: str | None = None
    """The attribute that says an object is wholly visible, e.g. 显示完整."""
    partial_text: str | None = None
    """What it becomes when the crop cuts the object, e.g. 只显示部分."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def problems(self) -> list[tuple[str, str]]:
        """(what, fix) of parameters that do not fit each other."""
        texts = (self.complete_text, self.partial_text)
        if self.completeness_threshold is not None and None in texts:
            return [("completeness_threshold is set without both texts", "set complete_text and partial_text")]
        if self.completeness_threshold is None and texts != (None, None):
            return [("complete_text and partial_text do nothing alone", "set completeness_threshold")]
        return []

    def rule(self) -> ObjectRule:
        lines = "drop" if self.line_policy == "drop" else "cut"
        if self.completeness_threshold is None:
            return ObjectRule(self.min_coverage, lines)
        rewriting = Rewriting(self.completeness_threshold, self.complete_text or "", self.partial_text or "")
        return ObjectRule(self.min_coverage, lines, (rewriting,))

    def crop(self, view: View, x: int, y: int, width: int, height: int) -> AugmentationStep | Skip:
        """The step that cuts this window (pixels of the canvas) out, unless the rules speak against it."""
        rule = view.rule.joined(self.rule())
        step = AugmentationStep(translation(-x, -y), width, height, rule)
        if not view.record.objects:
            return step
        window = (x, y, x + width, y + height)
        bounds = view.bounds
        whole = [_holds(window, own) for own in bounds]
        kept, needed = sum(whole), min(self.min_objects, len(whole))
        if kept >= needed and self.line_policy != "skip":
            return step
        touched = [index for index, own in enumerate(bounds) if not whole[index] and overlaps(window, own)]
        if self.line_policy == "skip" and any(_is_cut_line(view.group, index, window) for index in touched):
            return Skip("a line would be cut")
        for index in touched:
            if kept >= needed:
                break
            kept += _keeps(view.group, index, window, rule)
        return step if kept >= needed else Skip("too few objects would be left")


def _keeps(group: ShapeGroup, index: int, window: Bounds, rule: ObjectRule) -> bool:
    if rule.lines == "drop" and _is_cut_line(group, index, window):
        return False
    share = _visible_share(group, index, window)
    return share > 0 and share >= rule.min_coverage


def _holds(window: Bounds, bounds: Bounds) -> bool:
    return bounds[0] >= window[0] and bounds[1] >= window[1] and bounds[2] <= window[2] and bounds[3] <= window[3]


def _is_cut_line(group: ShapeGroup, index: int, window: Bounds) -> bool:
    return isinstance(group.sources[index], Polyline) and 0 < _visible_share(group, index, window) < 1


def _visible_share(group: ShapeGroup, index: int, window: Bounds) -> float:
    """Exact share of a shape inside the window."""
    left, top, right, bottom = window
    shape = group.shape(index)
    return visible_fraction(shape.with_points(shape.points - (left, top)), right - left, bottom - top)


@dataclass(frozen=True, kw_only=True)
class CenterCrop(CropRules):
    """Keep the middle of the canvas."""

    share: Annotated[float, Range(gt=0, le=1)] = 0.9
    """Share of each side that is kept."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        width, height = (max(1, round(side * self.share)) for side in (view.width, view.height))
        return self.crop(view, (view.width - width) // 2, (view.height - height) // 2, width, height)


@dataclass(frozen=True, kw_only=True)
class RandomCrop(CropRules):
    """Keep a window of random area, form and place (Szegedy et al. 2015, arXiv 1409.4842, section 6)."""

    area: Annotated[tuple[float, float], Range(gt=0, le=1)] = (0.6, 1.0)
    """Range of the window's share of the canvas area."""
    aspect: Annotated[tuple[float, float], Range(gt=0, le=10)] = (0.8, 1.25)
    """Range of the window's width over height, relative to the canvas."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        area = between(rng, *self.area)
        ratio = math.exp(between(rng, *map(math.log, self.aspect)))
        width = min(view.width, max(1, round(view.width * math.sqrt(area * ratio))))
        height = min(view.height, max(1, round(view.height * math.sqrt(area / ratio))))
        x = choose(rng, view.width - width + 1)
        return self.crop(view, x, choose(rng, view.height - height + 1), width, height)


@dataclass(frozen=True, kw_only=True)
class RoiCrop(CropRules):
    """Keep a window around one object of a chosen class, with room around it."""

    classes: Annotated[tuple[str, ...], Length(least=1)]
    """Objects whose `desc` begins with one of these, e.g. [BBU设备]."""
    context: Annotated[tuple[float, float], Range(ge=1, le=20)] = (1.5, 3.0)
    """Range of the window's sides over the object's sides."""
    min_side: Annotated[int, Range(ge=1)] = 112
    """Least side of the window in pixels, as far as the canvas reaches."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        canvas = (0.0, 0.0, float(view.width), float(view.height))
        anchors = [
            bounds
            for item, bounds in zip(view.record.objects, view.bounds, strict=True)
            if item.desc.startswith(self.classes) and overlaps(bounds, canvas)
        ]
        if not anchors:
            return Skip("no object of the classes")
        x1, y1, x2, y2 = anchors[choose(rng, len(anchors))]
        factor = between(rng, *self.context)
        width = _side((x2 - x1) * factor, self.min_side, view.width)
        height = _side((y2 - y1) * factor, self.min_side, view.height)
        x = _start((x1 + x2) / 2, width, view.width, (x2 - x1) * 0.5, rng)
        return self.crop(view, x, _start((y1 + y2) / 2, height, view.height, (y2 - y1) * 0.5, rng), width, height)


def _side(wanted: float, least: int, most: int) -> int:
    return min(most, max(least, math.ceil(wanted)))


def _start(middle: float, side: int, canvas: int, half: float, rng: np.random.Generator) -> int:
    """Where a window of `side` begins, so that it lies on the canvas with `middle` not always in its middle."""
    slack = max(0.0, side / 2 - half)
    return round(min(max(middle - side / 2 + between(rng, -slack, slack) / 2, 0), canvas - side))
