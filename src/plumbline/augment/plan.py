"""What a plan is: final canvas, one 3x3 map, the objects after it, the colour operations. No pixels are touched here.

An operation draws its numbers from the keyed generator and answers with an `AugmentationStep` (a map, a canvas, what it
demands of the objects) or with a `Skip` and its reason. Steps multiply into one map, so that the picture is
interpolated once and the objects are cut once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np

from plumbline.data.record import DataObject, Record
from plumbline.geometry.group import Bounds, ShapeGroup, map_groups
from plumbline.geometry.maps import IDENTITY, Map, canvas_corners, map_points
from plumbline.geometry.shapes import Points


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Where less than the share `below` of an object is visible, `whole_text` in its `desc` becomes `part_text`."""

    below: float
    whole_text: str
    part_text: str


@dataclass(frozen=True, slots=True)
class ObjectRule:
    """What crops demand of the objects.

    min_coverage: least visible share of an object's area (of its length, for a line) to be kept. lines: "cut" keeps the
    visible piece, "drop" removes every line that was cut. rewritings: in the order in which they act.
    """

    min_coverage: float = 0.0
    lines: str = "cut"
    rewritings: tuple[Rewriting, ...] = ()

    def joined(self, later: ObjectRule) -> ObjectRule:
        """What this rule and a later crop's demand together: nothing that either asks for is given up."""
        if self is NO_RULE:
            return later
        return ObjectRule(
            max(self.min_coverage, later.min_coverage),
            "drop" if "drop" in (self.lines, later.lines) else "cut",
            (*self.rewritings, *(own for own in later.rewritings if own not in self.rewritings)),
        )


NO_RULE = ObjectRule()


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of the picture shown a second time.

    rect: (x1, y1, x2, y2) in pixels of the source; matrix: source to canvas; indices: the objects inside it.
    """

    rect: tuple[float, float, float, float]
    matrix: Map
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AugmentationStep:
    """One operation, drawn. matrix: from the canvas before to the canvas after; width, height: the canvas after.

    rule: of a crop, which gives up everything outside its canvas: what it and the crops before it demand.
    """

    matrix: Map
    width: int
    height: int
    rule: ObjectRule | None = None
    patch: Patch | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """An operation that could not act on this record, and why (a short fixed phrase: reasons are counted)."""

    reason: str


class View:
    """What an operation sees of the plan so far: the canvas, the map from the source, the objects on the canvas.

    source: (width, height) of the source in pixels; matrix: source to canvas; rule: what the crops so far demand.
    """

    def __init__(self, record: Record, source: tuple[int, int]):
        self.record = record
        self.source = source
        self.width, self.height = source
        self.matrix = IDENTITY
        self.patches: tuple[Patch, ...] = ()
        self.rule = NO_RULE
        self._kept = source
        self._since_crop: Map | None = None
        self._at_start = record.group
        self._group: ShapeGroup | None = self._at_start

    @property
    def unmoved(self) -> ShapeGroup:
        """The record's objects on the source."""
        return self._at_start

    @property
    def is_cropped(self) -> bool:
        """Whether a crop has acted."""
        return self._since_crop is not None

    @property
    def kept_corners(self) -> Points:
        """What is meant to be seen: the corners [4, 2] of the last crop's window, or of the source, on this canvas."""
        return map_points(canvas_corners(*self._kept), self.matrix if self._since_crop is None else self._since_crop)

    @property
    def group(self) -> ShapeGroup:
        """The record's objects on the present canvas, not cut at its edge."""
        if self._group is None:
            self._group = self._at_start.mapped(self.matrix)
        return self._group

    @property
    def bounds(self) -> list[Bounds]:
        """(x1, y1, x2, y2) of each of them: all that a crop needs to know of most."""
        return self._at_start.bounds_under(self.matrix) if self._group is None else self._group.bounds

    @staticmethod
    def map_all(views: Iterable[View]) -> None:
        """Make the `group` of every view together: many times cheaper than each by itself."""
        waiting = [view for view in views if view._group is None]
        groups = map_groups([view._at_start for view in waiting], [view.matrix for view in waiting])
        for view, group in zip(waiting, groups, strict=True):
            view._group = group

    def copied(self, patch: Patch) -> ShapeGroup:
        """The objects of `patch` as it shows them, in the order of its indices."""
        return ShapeGroup.of([self.record.objects[index].shape for index in patch.indices]).mapped(patch.matrix)

    def advance(self, step: AugmentationStep) -> None:
        """Take over a step."""
        if step.matrix is not IDENTITY:
            self.matrix = step.matrix.dot(self.matrix)
            if self._since_crop is not None:
                self._since_crop = step.matrix.dot(self._since_crop)
            if self.patches:
                moved = [Patch(patch.rect, step.matrix @ patch.matrix, patch.indices) for patch in self.patches]
                self.patches = tuple(moved)
            self._group = None
        if step.patch is not None:
            self.patches = (*self.patches, step.patch)
        if step.rule is not None:
            self.rule = step.rule
            self._kept, self._since_crop = (step.width, step.height), IDENTITY
        self.width, self.height = step.width, step.height


class Operation(Protocol):
    """Common to all operations: a frozen dataclass that is its own configuration. prob: chance that it acts."""

    prob: float


class GeometricOp(Operation, Protocol):
    """Moves pixels and points."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip: ...


class ColourOp(Operation, Protocol):
    """Changes values, never places.

    `draw` gives the numbers of one application; `apply` is pure: uint8 RGB [H, W, 3] in, a new array of the same shape
    out.
    """

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]: ...
    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class VisibleObjects:
    """The objects that a canvas shows, before they are made: a length needs none of them.

    record: the record without augmentation; group: its shapes on the canvas. items: for each object its place in the
    group, or the object itself where the canvas's edge changed it, or where it is pasted.
    """

    record: Record
    group: ShapeGroup
    items: tuple[int | DataObject, ...]

    @classmethod
    def whole(cls, record: Record) -> Self:
        """All objects of a record as they are."""
        return cls(record, record.group, tuple(range(len(record.objects))))

    @property
    def made(self) -> list[DataObject]:
        """Those that are not as the group has them."""
        return [item for item in self.items if isinstance(item, DataObject)]

    def on_canvas(self, width: int, height: int) -> Record:
        """The record with these objects, on a canvas of this size."""
        before, shape = self.record.objects, self.group.shape
        objects = tuple(
            item if isinstance(item, DataObject) else DataObject(before[item].desc, shape(item)) for item in self.items
        )
        return self.record.on_canvas(objects, width, height)


@dataclass(frozen=True)
class AugmentationPlan:
    """What will be done to one picture of a record, and what the record says afterwards.

    source: (width, height) of the picture it is for; width, height: the final canvas; all in pixels. matrix: source
    pixels to canvas pixels; patches: pieces shown twice.
    visible: the objects inside the canvas. kept_indices: for each of them the
    index it had in the source (a pasted copy repeats its original's); coverages: their exact visible shares.
    dropped: (index, reason) of the objects that are gone. colour: (operation, numbers) in order. applied, skipped:
    names of operations, with the reason where one was skipped.
    """

    source: tuple[int, int]
    width: int
    height: int
    matrix: Map
    visible: VisibleObjects
    kept_indices: tuple[int, ...]
    coverages: tuple[float, ...]
    dropped: tuple[tuple[int, str], ...] = ()
    patches: tuple[Patch, ...] = ()
    colour: tuple[tuple[Any, tuple[float, ...]], ...] = ()
    applied: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @cached_property
    def record(self) -> Record:
        """Objects inside the canvas, `width` and `height` of the canvas."""
        return self.visible.on_canvas(self.width, self.height)

    @property
    def moves(self) -> bool:
        """Whether the canvas or the place of any pixel differs from the source's."""
        return bool(self.patches) or self.matrix is not IDENTITY or self.source != (self.width, self.height)


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Evenly from [low, high): `rng.uniform` for one number, at a quarter of its price."""
    return low + (high - low) * rng.random()


def choose(rng: np.random.Generator, count: int) -> int:
    """Evenly from 0 to count - 1."""
    return int(rng.random() * count)
