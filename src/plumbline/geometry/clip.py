"""Cutting shapes at the picture's edge, exactly; and telling self-crossing outlines.

Polygons go through shapely, so that concave ones keep their form and no edge is invented along the border. Lines are
cut segment by segment: an overlay would also split a line where it crosses itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import shapely

from plumbline.geometry.shapes import Box, Polygon, Polyline, Quad, Shape

SLIVER_PX = 1.0
"""What the edge has cut down to less than this, in x or in y, shows nothing: it is dropped."""


def clip_to_canvas(shape: Shape, width: float, height: float) -> Shape | None:
    """What is visible of `shape` in the picture [0, width] x [0, height]; None when that is nothing or a sliver.

    A shape inside comes back as it is. Of a polygon cut into pieces the largest stays, of a line the longest. A quad
    that keeps four corners stays a quad, otherwise it becomes a polygon. A self-crossing outline that has to be cut is
    first split into its simple parts.
    """
    x1, y1, x2, y2 = shape.bounds()
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return shape
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return None
    if isinstance(shape, Box):
        clipped: Shape | None = Box(np.array([[max(x1, 0.0), max(y1, 0.0)], [min(x2, width), min(y2, height)]]))
    elif isinstance(shape, Polyline):
        clipped = _clip_line(shape, width, height)
    else:
        clipped = _clip_ring(shape, width, height)
    return None if clipped is None or _is_sliver(clipped, shape) else clipped


def visible_fraction(shape: Shape, width: float, height: float) -> float:
    """Exact share of the area (of the length, for a line) inside the picture, all pieces counted: 0 to 1.

    A shape without extent counts as 1 inside and 0 outside.
    """
    geometry = _as_shapely(shape)
    canvas = shapely.box(0, 0, width, height)
    measure = shapely.length if isinstance(shape, Polyline) else shapely.area
    whole = float(measure(geometry))
    if whole == 0:
        return float(shapely.intersects(geometry, canvas))
    return min(1.0, float(measure(shapely.intersection(geometry, canvas))) / whole)


def is_self_crossing(points: Sequence[Sequence[float]]) -> bool:
    """Whether the closed outline through `points` [N, 2] crosses or touches itself (a bow-tie, for example)."""
    if len(points) == 4:
        turns = [_turn(points[i - 2], points[i - 1], points[i]) for i in range(4)]
        if all(turns):  # 4:0 is convex, 3:1 concave, 2:2 a bow-tie
            return sum(turn > 0 for turn in turns) == 2
    return not shapely.is_simple(shapely.linearrings(np.asarray(points, dtype=np.float64)))


def is_flat(points: Sequence[Sequence[float]]) -> bool:
    """Whether all `points` [N, 2] lie on one straight line, so that no outline through them encloses anything."""
    x1, y1 = points[0]
    x2, y2 = next(((x, y) for x, y in points if (x, y) != (x1, y1)), (x1, y1))
    return all(_turn((x1, y1), (x2, y2), point) == 0 for point in points)


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def _is_sliver(clipped: Shape, whole: Shape) -> bool:
    """Thinner than SLIVER_PX in x or y because of the cut; a shape that was thin before is not blamed for it."""
    extent = np.ptp(clipped.points, axis=0)
    return bool(np.any((extent < SLIVER_PX) & (extent < np.ptp(whole.points, axis=0))))


def _as_shapely(shape: Shape) -> shapely.Geometry:
    if isinstance(shape, Polyline):
        return shapely.linestrings(shape.points)
    if isinstance(shape, Box):
        return shapely.box(*shape.bounds())
    return shapely.make_valid(shapely.polygons(shape.points))


def _clip_ring(shape: Shape, width: float, height: float) -> Quad | Polygon | None:
    visible = shapely.intersection(_as_shapely(shape), shapely.box(0, 0, width, height))
    pieces = [part for part in shapely.get_parts(visible) if isinstance(part, shapely.Polygon) and part.area > 0]
    if not pieces:
        return None
    ring = shapely.get_coordinates(max(pieces, key=shapely.area).exterior)[:-1]
    points = np.clip(ring, 0.0, (width, height))  # the overlay's rounding may step over the edge by an ulp
    kind = Quad if isinstance(shape, Quad) and len(points) == 4 else Polygon
    return kind(points).canonical()


def _clip_line(line: Polyline, width: float, height: float) -> Polyline | None:
    pieces = [Polyline(np.array(piece)) for piece in _visible_pieces(line.points.tolist(), width, height)]
    longest = max(pieces, key=Polyline.length, default=None)
    return longest if longest is not None and longest.length() > 0 else None


def _visible_pieces(points: list[list[float]], width: float, height: float) -> Iterator[list[list[float]]]:
    """Maximal chains of `points` inside the canvas; a chain ends where the line leaves it."""
    chain: list[list[float]] = []
    for start, end in pairwise(points):
        span = _segment_inside(start, end, width, height)
        if chain and (span is None or span[0] > 0):
            yield chain
            chain = []
        if span is None:
            continue
        enter, leave = span
        chain = chain or [_point_at(enter, start, end, width, height)]
        chain.append(_point_at(leave, start, end, width, height))
        if leave < 1:
            yield chain
            chain = []
    if chain:
        yield chain


def _point_at(share: float, start: list[float], end: list[float], width: float, height: float) -> list[float]:
    """The point at `share` of the segment; rounding may not carry it over the edge."""
    x, y = end if share == 1 else [a + share * (b - a) for a, b in zip(start, end, strict=True)]
    return [min(max(x, 0.0), width), min(max(y, 0.0), height)]


def _segment_inside(start: list[float], end: list[float], width: float, height: float) -> tuple[float, float] | None:
    """(enter, leave) in 0..1 along the segment inside the canvas, or None (Liang and Barsky, 1984)."""
    enter, leave = 0.0, 1.0
    for axis, limit in enumerate((width, height)):
        step = end[axis] - start[axis]
        for distance, slope in ((start[axis], -step), (limit - start[axis], step)):
            if slope == 0:
                if distance < 0:
                    return None
            elif slope > 0:
                leave = min(leave, distance / slope)
            else:
                enter = max(enter, distance / slope)
    return (enter, leave) if enter < leave else None
