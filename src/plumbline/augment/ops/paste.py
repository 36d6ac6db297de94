"""Small objects shown a second time, larger, in an empty place of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from plumbline.augment.ops.affine import Probability
from plumbline.augment.plan import AugmentationStep, Patch, Skip, View, between, choose
from plumbline.config.limits import Range
from plumbline.geometry import Box
from plumbline.geometry.group import Bounds, overlaps
from plumbline.geometry.maps import IDENTITY, inverse, is_upright, map_shape, scaling, translation

TRIES = 20
"""Places tried before the operation gives up."""


@dataclass(frozen=True, kw_only=True)
class SmallObjectZoomPaste:
    """Copy one small object with its surroundings, enlarged, to a place where it hides no other object.

    It comes before turns and slants in the chain, so that the copied window is a rectangle of the source.
    """

    max_area: Annotated[float, Range(gt=0, le=0.25)] = 0.01
    """An object is small when its bounds take at most this share of the canvas."""
    zoom: Annotated[tuple[float, float], Range(ge=1, le=8)] = (1.5, 3.0)
    """Range of the enlargement."""
    context: Annotated[float, Range(ge=0, le=2)] = 0.25
    """Surroundings copied along on every side, as a share of the object's larger side."""
    classes: tuple[str, ...] = ()
    """Only objects whose `desc` begins with one of these; all when empty."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        if view.patches:
            return Skip("a patch is there already")
        if not is_upright(view.matrix):
            return Skip("the picture is turned already")
        bounds = view.bounds
        small = [index for index in range(len(bounds)) if self._is_candidate(view, bounds, index)]
        if not small:
            return Skip("no small object that can be copied")
        index = small[choose(rng, len(small))]
        window = self._window(view, bounds[index])
        zoom = between(rng, *self.zoom)
        place = _free_place(view, window, zoom, bounds, rng)
        if place is None:
            return Skip("no free place")
        to_copy = translation(*place) @ scaling(zoom, zoom) @ translation(-window[0], -window[1])
        back = inverse(view.matrix)
        rect = map_shape(Box(np.reshape(window, (2, 2))), back).bounds()
        inside = tuple(i for i, other in enumerate(bounds) if _contains(window, other))
        return AugmentationStep(IDENTITY, view.width, view.height, patch=Patch(rect, to_copy @ view.matrix, inside))

    def _is_candidate(self, view: View, bounds: Sequence[Bounds], index: int) -> bool:
        x1, y1, x2, y2 = bounds[index]
        desc = view.record.objects[index].desc
        if (x2 - x1) * (y2 - y1) > self.max_area * view.width * view.height or x1 == x2 or y1 == y2:
            return False
        if self.classes and not desc.startswith(self.classes):
            return False
        window = self._window(view, bounds[index])
        # The canvas holds the window, and what is in it is in it whole: a cut neighbour would be copied without a name.
        whole = _contains((0, 0, view.width, view.height), window) and _contains(window, bounds[index])
        return whole and all(_contains(window, other) or not overlaps(window, other) for other in bounds)

    def _window(self, view: View, bounds: Bounds) -> Bounds:
        x1, y1, x2, y2 = bounds
        room = self.context * max(x2 - x1, y2 - y1)
        return max(x1 - room, 0), max(y1 - room, 0), min(x2 + room, view.width), min(y2 + room, view.height)


def _free_place(
    view: View, window: Bounds, zoom: float, bounds: Sequence[Bounds], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Where the enlarged window overlaps no object; whole pixels."""
    width, height = (window[2] - window[0]) * zoom, (window[3] - window[1]) * zoom
    if width > view.width or height > view.height:
        return None
    for _ in range(TRIES):
        x = choose(rng, int(view.width - width) + 1)
        y = choose(rng, int(view.height - height) + 1)
        if not any(overlaps((x, y, x + width, y + height), other) for other in bounds):
            return x, y
    return None


def _contains(outer: Bounds, inner: Bounds) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]
