"""Several shapes as one array of points, so that a map costs one product whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from plumbline.geometry.maps import IDENTITY, Map, is_upright, map_pieces, map_points
from plumbline.geometry.shapes import SHAPES, Box, Points, Quad, Shape

Bounds = tuple[float, float, float, float]
Form = tuple[str, int]
"""Kind and number of points of a shape as it is written."""
Outline = tuple[str, Sequence[float]]
"""Kind and [x1, y1, x2, y2, ...] of a shape."""


class _Slices(Sequence[Shape]):
    """Shapes over one array of points, each made on access; a box has its four corners there."""

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

    sources: the shapes before it; forms: what each is written as after it; points: float64 [P, 2] after it, a box as
    its four corners; starts: where each shape begins; corners: float64 [K, 4] of bounds (x1, y1, x2, y2) by shape;
    extent: bounds of all; upright: whether boxes are boxes still; moved: False for the sources themselves.
    """

    sources: Sequence[Shape]
    forms: Sequence[Form]
    points: Points
    starts: Sequence[int]
    corners: NDArray[np.float64]
    extent: Bounds
    upright: bool = True
    moved: bool = False

    @classmethod
    def of(cls, shapes: Sequence[Shape]) -> Self:
        """The shapes as they are."""
        (joined,) = _joined([[(shape.kind, shape.flat()) for shape in shapes]])
        return cls(shapes, *joined)

    @classmethod
    def of_outlines(cls, outlines: Sequence[Sequence[Outline]]) -> list[Self]:
        """Groups of new shapes, which are known to be right.

        The shapes of all groups are slices of one array of points: several times cheaper than an array for each.
        """
        return [cls(_Slices(*joined[:3]), *joined) for joined in _joined(outlines)]

    def __len__(self) -> int:
        return len(self.sources)

    def mapped(self, matrix: Map) -> ShapeGroup:
        """The same shapes under `matrix`, which maps the sources; ValueError for a point behind its horizon."""
        return map_groups([self], [matrix])[0]

    def lies_inside(self, width: float, height: float) -> bool:
        """Whether all shapes lie on a canvas of this size."""
        x1, y1, x2, y2 = self.extent
        return x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height

    @cached_property
    def bounds(self) -> list[Bounds]:
        """(x1, y1, x2, y2) of each shape."""
        return list(map(tuple, self.corners.tolist()))

    def bounds_under(self, matrix: Map) -> list[Bounds]:
        """The `bounds` of `mapped(matrix)`, at a third of its price."""
        if matrix is IDENTITY or not self.sources:
            return self.bounds
        return list(map(tuple, _corners(map_points(self.points, matrix), self.starts).tolist()))

    def shape(self, index: int) -> Shape:
        """One shape: the source itself while nothing has moved; a box that is not upright any more is a quad."""
        if not self.moved:
            return self.sources[index]
        (kind, count), start = self.forms[index], self.starts[index]
        if kind == Box.kind:
            return Box.trusted(self.corners[index].reshape(2, 2))
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
    bounds = _bounds(points, begins, [groups[at].starts for at in moving])
    for at, begin, end, (corners, extent) in zip(moving, begins, ends, bounds, strict=True):
        group, upright = groups[at], is_upright(matrices[at])
        forms = group.forms if upright else [_QUAD if form[0] == Box.kind else form for form in group.forms]
        mapped[at] = ShapeGroup(group.sources, forms, points[begin:end], group.starts, corners, extent, upright, True)
    return mapped


_Joined = tuple[list[Form], Points, list[int], NDArray[np.float64], Bounds]


def _joined(groups: Sequence[Sequence[Outline]]) -> Iterator[_Joined]:
    """Of each group: forms; its points [P, 2], a box as its four corners; where each outline begins; corners; extent.

    -0.0 becomes 0.0.
    """
    numbers: list[float] = []
    forms: list[list[Form]] = []
    starts: list[list[int]] = []
    begins: list[int] = [0]
    count = 0
    for outlines in groups:
        begin = count
        own: list[Form] = []
        places: list[int] = []
        for kind, outline in outlines:
            places.append(count - begin)
            if kind == Box.kind:
                x1, y1, x2, y2 = outline
                numbers += (x1, y1, x2, y1, x2, y2, x1, y2)
                count += 4
                own.append(_BOX)
            else:
                numbers += outline
                length = len(outline) // 2
                count += length
                own.append((kind, length))
        forms.append(own)
        starts.append(places)
        begins.append(count)
    points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    points += 0.0
    points.setflags(write=False)
    pieces = [points[begin:end] for begin, end in pairwise(begins)]
    for kinds, piece, places, bounds in zip(forms, pieces, starts, _bounds(points, begins, starts), strict=True):
        yield kinds, piece, places, *bounds


def _bounds(
    points: Points, begins: Sequence[int], starts: Sequence[Sequence[int]]
) -> Iterator[tuple[NDArray[np.float64], Bounds]]:
    """Of each group over one array of points: bounds [K, 4] of its shapes, and of all of them (0 where there is none).

    begins: where each group begins among the points; starts: where each of its shapes begins in the group.
    """
    corners = _corners(points, [begin + start for begin, own in zip(begins, starts, strict=False) for start in own])
    corners.setflags(write=False)
    ends = list(accumulate(map(len, starts)))
    filled = [(begin, end) for begin, end in pairwise([0, *ends]) if end > begin]
    extents: Iterator[Bounds] = iter(())
    if filled:
        firsts = [begin for begin, _ in filled]
        low, high = np.minimum.reduceat(corners, firsts)[:, :2], np.maximum.reduceat(corners, firsts)[:, 2:]
        extents = map(tuple, np.concatenate([low, high], axis=1).tolist())
    for begin, end in pairwise([0, *ends]):
        yield corners[begin:end], next(extents) if end > begin else (0.0, 0.0, 0.0, 0.0)


def _corners(points: Points, starts: Sequence[int]) -> NDArray[np.float64]:
    """(x1, y1, x2, y2) [K, 4] of the shapes that begin at `starts`."""
    if not starts:
        return np.empty((0, 4))
    return np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)


def overlaps(a: Bounds, b: Bounds) -> bool:
    """Whether two upright boxes share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
