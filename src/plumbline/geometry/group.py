"""Several shapes as one array of points, so that a map costs one product whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from plumbline.geometry.maps import IDENTITY, Map, is_upright, map_pieces
from plumbline.geometry.shapes import SHAPES, Box, Points, Quad, Shape

Bounds = tuple[float, float, float, float]
Form = tuple[str, int]
"""Kind and number of points of a shape as it is told."""


class _Slices(Sequence[Shape]):
    """Shapes over one array of points, each made when it is asked for; a box has its four corners there."""

    __slots__ = ("_forms", "_points", "_starts")

    def __init__(self, forms: Sequence[Form], points: Points, starts: Sequence[int]):
        self._forms = forms
        self._points = points
        self._starts = starts

    def __len__(self) -> int:
        return len(self._forms)

    @overload
    def __getitem__(self, index: int) -> Shape: ...
    @overload
    def __getitem__(self, index: slice) -> list[Shape]: ...
    def __getitem__(self, index: int | slice) -> Shape | list[Shape]:
        if isinstance(index, slice):
            return list(self)[index]
        (kind, count), start = self._forms[index], self._starts[index]
        corners = slice(start, start + 3, 2) if kind == Box.kind else slice(start, start + count)
        return SHAPES[kind].trusted(self._points[corners])

    def __iter__(self) -> Iterator[Shape]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True)
class ShapeGroup:
    """Shapes under a common map.

    sources: the shapes before it; forms: what each is told as after it; points: float64 [P, 2] after it, a box as its
    four corners; starts: where each shape begins; extent: bounds of all points; upright: whether boxes are boxes still;
    moved: False for the sources themselves.
    """

    sources: Sequence[Shape]
    forms: Sequence[Form]
    points: Points
    starts: Sequence[int]
    extent: Bounds
    upright: bool = True
    moved: bool = False

    @classmethod
    def of(cls, shapes: Sequence[Shape]) -> Self:
        """The shapes as they are."""
        forms, points, starts, extent = _joined([(shape.kind, shape.flat()) for shape in shapes])
        return cls(shapes, forms, points, starts, extent)

    @classmethod
    def of_outlines(cls, outlines: Sequence[tuple[str, Sequence[float]]]) -> Self:
        """New shapes from (kind, [x1, y1, x2, y2, ...]), which are known to be right.

        The shapes are slices of the group's points: one array for all is several times cheaper than one for each.
        """
        forms, points, starts, extent = _joined(outlines)
        return cls(_Slices(forms, points, starts), forms, points, starts, extent)

    def __len__(self) -> int:
        return len(self.sources)

    def mapped(self, matrix: Map) -> ShapeGroup:
        """The same shapes under `matrix`, which maps the sources; ValueError for a point behind its horizon."""
        return map_groups([self], [matrix])[0]

    @cached_property
    def _corners(self) -> NDArray[np.float64]:
        """Top-left and bottom-right corner [K, 2, 2] of each shape."""
        corners = np.empty((len(self.sources), 2, 2))
        np.minimum.reduceat(self.points, self.starts, out=corners[:, 0])
        np.maximum.reduceat(self.points, self.starts, out=corners[:, 1])
        corners.setflags(write=False)
        return corners

    def lies_inside(self, width: float, height: float) -> bool:
        """Whether all shapes lie on a canvas of this size."""
        x1, y1, x2, y2 = self.extent
        return x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height

    @cached_property
    def bounds(self) -> list[Bounds]:
        """(x1, y1, x2, y2) of each shape."""
        return [(x1, y1, x2, y2) for (x1, y1), (x2, y2) in self._corners.tolist()] if self.sources else []

    def shape(self, index: int) -> Shape:
        """One shape: the source itself while nothing has moved; a box that is not upright any more is a quad."""
        if not self.moved:
            return self.sources[index]
        (kind, count), start = self.forms[index], self.starts[index]
        if kind == Box.kind:
            return Box.trusted(self._corners[index])
        return SHAPES[kind].trusted(self.points[start : start + count])


_BOX: Form = (Box.kind, 2)
_QUAD: Form = (Quad.kind, 4)


def map_groups(groups: Sequence[ShapeGroup], matrices: Sequence[Map]) -> list[ShapeGroup]:
    """`ShapeGroup.mapped` of each group under its own matrix, with few calls for all of them together."""
    moving = [at for at, group in enumerate(groups) if matrices[at] is not IDENTITY and group.sources]
    mapped = list(groups)
    if not moving:
        return mapped
    ends = list(accumulate([len(groups[at].points) for at in moving]))
    before = np.concatenate([groups[at].points for at in moving])
    # + 0.0 turns -0.0 into 0.0, as the constructor of a shape does.
    points = map_pieces(before, ends, [matrices[at] for at in moving]) + 0.0
    points.setflags(write=False)
    begins = [0, *ends[:-1]]
    low, high = np.minimum.reduceat(points, begins).tolist(), np.maximum.reduceat(points, begins).tolist()
    for at, begin, end, (x1, y1), (x2, y2) in zip(moving, begins, ends, low, high, strict=True):
        group, upright = groups[at], is_upright(matrices[at])
        forms = group.forms if upright else [_QUAD if form[0] == Box.kind else form for form in group.forms]
        extent = (x1, y1, x2, y2)
        mapped[at] = ShapeGroup(group.sources, forms, points[begin:end], group.starts, extent, upright, True)
    return mapped


def _joined(outlines: Sequence[tuple[str, Sequence[float]]]) -> tuple[list[Form], Points, list[int], Bounds]:
    """Forms; all points in one array [P, 2], a box as its four corners; where each outline begins; bounds of all."""
    numbers: list[float] = []
    forms: list[Form] = []
    starts: list[int] = []
    count = 0
    for kind, own in outlines:
        starts.append(count)
        if kind == Box.kind:
            x1, y1, x2, y2 = own
            numbers += (x1, y1, x2, y1, x2, y2, x1, y2)
            count += 4
            forms.append(_BOX)
        else:
            numbers += own
            told = len(own) // 2
            count += told
            forms.append((kind, told))
    points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    points += 0.0  # turns -0.0 into 0.0
    points.setflags(write=False)
    xs, ys = numbers[::2] or [0.0], numbers[1::2] or [0.0]
    return forms, points, starts, (min(xs), min(ys), max(xs), max(ys))


def overlaps(a: Bounds, b: Bounds) -> bool:
    """Whether two upright boxes share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
