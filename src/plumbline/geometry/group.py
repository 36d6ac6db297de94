"""Several shapes as one array of points, so that a map costs one product whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from plumbline.geometry.maps import IDENTITY, Map, is_upright, map_points
from plumbline.geometry.shapes import Box, Points, Quad, Shape

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class ShapeGroup:
    """Shapes under a common map.

    sources: the shapes before it; points: float64 [P, 2] after it, a box as its four corners; starts: where each shape
    begins; boxes: which of the points are corners of boxes, bool [P]; upright: whether boxes are boxes still; moved:
    False for the sources themselves.
    """

    sources: Sequence[Shape]
    points: Points
    starts: NDArray[np.intp]
    boxes: NDArray[np.bool_]
    upright: bool = True
    moved: bool = False

    @classmethod
    def of(cls, shapes: Sequence[Shape]) -> Self:
        """The shapes as they are."""
        numbers: list[float] = []
        starts: list[int] = []
        boxes: list[bool] = []
        for shape in shapes:
            starts.append(len(numbers) // 2)
            if isinstance(shape, Box):
                (x1, y1), (x2, y2) = shape.points.tolist()
                numbers += (x1, y1, x2, y1, x2, y2, x1, y2)
                boxes += (True,) * 4
            else:
                numbers += shape.points.ravel().tolist()
                boxes += (False,) * len(shape.points)
        points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
        return cls(shapes, points, np.array(starts, dtype=np.intp), np.array(boxes, dtype=bool))

    def __len__(self) -> int:
        return len(self.sources)

    def mapped(self, matrix: Map) -> Self:
        """The same shapes under `matrix`, which maps the sources; ValueError for a point behind its horizon."""
        if matrix is IDENTITY or not self.sources:
            return self
        # + 0.0 turns -0.0 into 0.0, as the constructor of a shape does.
        points = map_points(self.points, matrix) + 0.0
        points.setflags(write=False)
        return type(self)(self.sources, points, self.starts, self.boxes, is_upright(matrix), True)

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
        if not self.sources:
            return True
        (x1, y1), (x2, y2) = self.points.min(axis=0).tolist(), self.points.max(axis=0).tolist()
        return x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height

    @cached_property
    def bounds(self) -> list[Bounds]:
        """(x1, y1, x2, y2) of each shape."""
        return [(x1, y1, x2, y2) for (x1, y1), (x2, y2) in self._corners.tolist()] if self.sources else []

    @cached_property
    def forms(self) -> list[tuple[str, int]]:
        """(kind, number of points) of each shape as it is told."""
        if self.upright:
            return [(source.kind, len(source.points)) for source in self.sources]
        return [
            ("quad", 4) if isinstance(source, Box) else (source.kind, len(source.points)) for source in self.sources
        ]

    def told_points(self, places: Sequence[int]) -> Points:
        """The points of some shapes as they are told, [N, 2]; an upright box has two."""
        return np.concatenate([self.shape(place).points for place in places])

    def shape(self, index: int) -> Shape:
        """One shape: the source itself while nothing has moved; a box that is not upright any more is a quad."""
        source = self.sources[index]
        if not self.moved:
            return source
        if isinstance(source, Box) and self.upright:
            return Box.trusted(self._corners[index])
        start = self.starts[index]
        if isinstance(source, Box):
            return Quad.trusted(self.points[start : start + 4])
        return source.trusted(self.points[start : start + len(source.points)])


def overlaps(a: Bounds, b: Bounds) -> bool:
    """Whether two upright boxes share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
