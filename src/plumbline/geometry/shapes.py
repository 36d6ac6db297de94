"""Box, quad, polygon and polyline: frozen values over float64 points [N, 2] in pixels.

A later 3x3 map needs only `points` and `with_points`: every kind follows from its points. (A box under a map that does
not keep its sides upright becomes a quad; that belongs to the map, not to this file.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shape:
    """A geometry of one object. `points`: float64 [N, 2], (x, y) in pixels, read-only.

    Raises ValueError when the points are not finite, not [N, 2], or too few (or too many) for the kind.
    """

    kind: ClassVar[str]
    least: ClassVar[int]
    most: ClassVar[int | None]

    points: Points

    def __post_init__(self) -> None:
        points = np.array(self.points, dtype=np.float64) + 0.0  # a copy; + 0.0 turns -0.0 into 0.0
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"{self.kind}: points must have the shape [N, 2], got {list(points.shape)}")
        if len(points) < self.least or (self.most is not None and len(points) > self.most):
            wanted = self.least if self.most == self.least else f"at least {self.least}"
            raise ValueError(f"{self.kind}: {wanted} points wanted, got {len(points)}")
        if not np.isfinite(points).all():
            raise ValueError(f"{self.kind}: points must be finite")
        points.setflags(write=False)
        object.__setattr__(self, "points", points)

    @classmethod
    def trusted(cls, points: Points) -> Self:
        """The shape over points that are known to be right: float64 [N, 2], finite, enough of them, never written to.

        Skips the checks and the copy of the constructor; the points are what a map or a cut of a sound shape gave.
        """
        shape = object.__new__(cls)
        shape.__dict__["points"] = points
        return shape

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self.kind == other.kind and np.array_equal(self.points, other.points)

    def __hash__(self) -> int:
        return hash((self.kind, self.points.tobytes()))

    def with_points(self, points: ArrayLike) -> Self:
        """The same kind over other points."""
        return type(self)(np.asarray(points, dtype=np.float64))

    def flat(self) -> list[float]:
        """[x1, y1, x2, y2, ...]: how the record writes the geometry."""
        return self.points.ravel().tolist()

    def bounds(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) of the smallest upright box around the shape."""
        xs, ys = self.points.T.tolist()
        return min(xs), min(ys), max(xs), max(ys)

    def area(self) -> float:
        """Enclosed area in square pixels; a line encloses none. Of a self-crossing outline: the net area."""
        raise NotImplementedError

    def canonical(self) -> Self:
        """The same shape with its vertices in the one agreed order. Idempotent; coordinates are never touched."""
        points = np.array(self.canonical_points(), dtype=np.float64)
        points.setflags(write=False)
        return self.trusted(points)

    def canonical_points(self) -> list[list[float]]:
        """The points of `canonical` as plain numbers."""
        raise NotImplementedError


class Box(Shape):
    """An upright rectangle given by two opposite corners; canonical: top-left, then bottom-right."""

    kind = "bbox_2d"
    least = 2
    most = 2

    def area(self) -> float:
        x1, y1, x2, y2 = self.bounds()
        return (x2 - x1) * (y2 - y1)

    def canonical_points(self) -> list[list[float]]:
        x1, y1, x2, y2 = self.bounds()
        return [[x1, y1], [x2, y2]]


class _Ring(Shape):
    """A closed outline. Canonical: clockwise on screen (y down), from the top-most, then left-most vertex."""

    def area(self) -> float:
        return abs(_twice_signed_area(self.points.tolist())) / 2

    def canonical_points(self) -> list[list[float]]:
        return canonical_ring(self.points.tolist())


class Quad(_Ring):
    """Four corners, any angle."""

    kind = "quad"
    least = 4
    most = 4


class Polygon(_Ring):
    """Three or more corners; may be concave."""

    kind = "poly"
    least = 3
    most = None


class Polyline(Shape):
    """An open chain of points; canonical: it starts at its end with the smaller (y, x)."""

    kind = "line"
    least = 2
    most = None

    def area(self) -> float:
        return 0.0

    def length(self) -> float:
        """Length in pixels."""
        steps = np.diff(self.points, axis=0)
        return float(np.hypot(steps[:, 0], steps[:, 1]).sum())

    def canonical_points(self) -> list[list[float]]:
        forward = self.points.tolist()
        (x1, y1), (x2, y2) = forward[0], forward[-1]
        if (y1, x1) != (y2, x2):
            return forward if (y1, x1) < (y2, x2) else forward[::-1]
        # Comparing whole chains settles closed lines, whose two ends are equal.
        return min(forward, forward[::-1], key=_reading_order)


SHAPES: dict[str, type[Shape]] = {shape.kind: shape for shape in (Box, Quad, Polygon, Polyline)}
KINDS: tuple[str, ...] = tuple(SHAPES)


def shape_from_flat(kind: str, numbers: Sequence[float]) -> Shape:
    """The shape of `kind` ("bbox_2d", "quad", "poly" or "line") from [x1, y1, x2, y2, ...] in pixels.

    Raises ValueError for an unknown kind, an odd or wrong count, or a number that is not finite.
    """
    if kind not in SHAPES:
        raise ValueError(f"unknown geometry {kind!r}: one of {', '.join(KINDS)}")
    if len(numbers) % 2:
        raise ValueError(f"{kind}: {len(numbers)} numbers do not make pairs")
    return SHAPES[kind](np.asarray(numbers, dtype=np.float64).reshape(-1, 2))


def _reading_order(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    return [(y, x) for x, y in points]


def _twice_signed_area(points: Sequence[Sequence[float]]) -> float:
    """Shoelace sum relative to the first vertex: positive when clockwise on screen.

    The terms are exactly antisymmetric and `fsum` does not depend on their order, so that reversing a ring flips the
    sign exactly: the canonical direction of a thin ring cannot flip back on a second call.
    """
    x0, y0 = points[0]
    ax, ay = points[-1][0] - x0, points[-1][1] - y0
    terms = []
    for x, y in points:
        bx, by = x - x0, y - y0
        terms.append(ax * by - bx * ay)
        ax, ay = bx, by
    return math.fsum(terms)


def canonical_ring(points: list[list[float]]) -> list[list[float]]:
    """A closed outline clockwise on screen, from its top-most, then left-most vertex."""
    keys = [(y, x) for x, y in points]
    first = min(keys)
    starts = [index for index, key in enumerate(keys) if key == first]
    rings = [points[start:] + points[:start] for start in starts]
    area = _twice_signed_area(rings[0])
    if area <= 0:
        reversed_rings = [[ring[0], *ring[:0:-1]] for ring in rings]
        # Without an area there is no clockwise: the smaller reading order of both directions decides.
        rings = reversed_rings if area < 0 else rings + reversed_rings
    return rings[0] if len(rings) == 1 else min(rings, key=_reading_order)
