"""Cutting shapes at the picture's edge, exactly; and detecting self-crossing outlines.

Outlines that an edge would cut into pieces go through shapely, so that concave ones keep their form and no edge is
invented along the border. Lines are cut segment by segment: an overlay would also split a line where it crosses itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from plumbline.geometry.shapes import Box, Polygon, Polyline, Quad, Shape, canonical_ring

Ring = list[list[float]]

SLIVER_PX = 1.0
"""What the edge has cut down to less than this shows nothing and is dropped: an outline in x or y, a line in length."""


def clip_to_canvas(shape: Shape, width: float, height: float) -> Shape | None:
    """What is visible of `shape` in the picture [0, width] x [0, height]; None when that is nothing or a sliver.

    A shape inside comes back as it is. Of a polygon cut into pieces the largest stays, of a line the longest. A quad
    that keeps four corners stays a quad, otherwise it becomes a polygon. A self-crossing outline that has to be cut is
    first split into its simple parts.
    """
    return cut_at_canvas(shape, width, height)[0]


def visible_fraction(shape: Shape, width: float, height: float) -> float:
    """Exact share of the area (of the length, for a line) inside the picture, all pieces counted: 0 to 1.

    A shape without extent counts as 1 inside and 0 outside.
    """
    return cut_at_canvas(shape, width, height)[1]


def cut_at_canvas(shape: Shape, width: float, height: float) -> tuple[Shape | None, float]:
    """`clip_to_canvas` and `visible_fraction` in one pass."""
    x1, y1, x2, y2 = shape.bounds()
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return shape, 1.0
    if is_outside(shape.kind, (x1, y1, x2, y2), width, height):
        return None, 0.0
    return cut_crossing(shape, (x1, y1, x2, y2), width, height)


def is_outside(kind: str, bounds: tuple[float, float, float, float], width: float, height: float) -> bool:
    """Whether nothing of a shape can be in the picture. A line may run along the edge, an outline there has no area."""
    x1, y1, x2, y2 = bounds
    if kind == Polyline.kind:
        return x2 < 0 or y2 < 0 or x1 > width or y1 > height
    return x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height


def cut_crossing(
    shape: Shape, bounds: tuple[float, float, float, float], width: float, height: float
) -> tuple[Shape | None, float]:
    """`cut_at_canvas` of a shape that is known to be neither inside nor outside. bounds: of the shape."""
    points, visible, whole = _cut_points(shape, width, height)
    share = min(1.0, visible / whole) if whole > 0 else float(bool(points))
    if not points or _is_sliver(shape, points, bounds):
        return None, share
    clamped = [[min(max(x, 0.0), width), min(max(y, 0.0), height)] for x, y in points]
    if isinstance(shape, Box | Polyline):
        return shape.trusted(np.array(clamped, dtype=np.float64)), share
    kind = Quad if isinstance(shape, Quad) and len(points) == 4 else Polygon
    return kind.trusted(np.array(canonical_ring(clamped), dtype=np.float64)), share


def _cut_points(shape: Shape, width: float, height: float) -> tuple[Ring, float, float]:
    """(points of the largest visible piece, measure of all visible pieces, measure of the whole): area, or length.

    The intersection's rounding may step over the edge by an ulp.
    """
    points = shape.points.tolist()
    if isinstance(shape, Box):
        (x1, y1), (x2, y2) = points
        x1, y1, x2, y2 = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        corners = [[max(x1, 0.0), max(y1, 0.0)], [min(x2, width), min(y2, height)]]
        inside = (corners[1][0] - corners[0][0]) * (corners[1][1] - corners[0][1])
        return corners, inside, (x2 - x1) * (y2 - y1)
    if isinstance(shape, Polyline):
        pieces = list(_visible_pieces(points, width, height))
        lengths = [_length(piece) for piece in pieces]
        longest = max(range(len(pieces)), key=lengths.__getitem__, default=None)
        kept = [] if longest is None or lengths[longest] == 0 else _without_needless(pieces[longest])
        return kept, sum(lengths), _length(points)
    convex = _is_convex(points)
    ring = _cut_ring(points, width, height, convex) if convex or not is_self_crossing(points) else None
    if ring is None:
        return _cut_any(shape, width, height)
    return ring if len(ring) > 2 else [], _area(ring), _area(points)


def _cut_any(shape: Shape, width: float, height: float) -> tuple[Ring, float, float]:
    """The same for outlines that cross themselves or fall into pieces, by shapely."""
    import shapely  # only here: most commands never cut such an outline

    outline = shapely.make_valid(shapely.polygons(shape.points))
    inside = shapely.intersection(outline, shapely.box(0, 0, width, height))
    pieces = [part for part in shapely.get_parts(inside) if isinstance(part, shapely.Polygon) and part.area > 0]
    largest = max(pieces, key=shapely.area, default=None)
    ring = [] if largest is None else shapely.get_coordinates(largest.exterior)[:-1].tolist()
    return ring, float(shapely.area(inside)), float(shapely.area(outline))


def _without_needless(line: Ring) -> Ring:
    """The line without vertices on a straight stretch: what a cut leaves is as short as it can be."""
    kept = line[:1]
    for before, point, after in zip(line, line[1:], line[2:], strict=False):
        ahead = (point[0] - before[0]) * (after[0] - point[0]) + (point[1] - before[1]) * (after[1] - point[1]) > 0
        if not ahead or _turn(before, point, after) != 0:
            kept.append(point)
    return [*kept, line[-1]]


def _length(points: Ring) -> float:
    return sum(math.dist(a, b) for a, b in pairwise(points))


def is_self_crossing(points: Sequence[Sequence[float]]) -> bool:
    """Whether the closed outline through `points` [N, 2] crosses or touches itself (a bow-tie, for example)."""
    if len(points) == 4:
        turns = [_turn(points[i - 2], points[i - 1], points[i]) for i in range(4)]
        if all(turns):  # 4:0 is convex, 3:1 concave, 2:2 a bow-tie
            return sum(turn > 0 for turn in turns) == 2
    if _winds_once_around_its_middle(points):
        return False
    if len(points) <= _FEW:
        crosses = _has_crossing_edges(points)
        if crosses is not None:
            return crosses
    import shapely

    return not shapely.is_simple(shapely.linearrings(np.asarray(points, dtype=np.float64)))


def _winds_once_around_its_middle(points: Sequence[Sequence[float]]) -> bool:
    """Whether every edge turns the same way around the mean of the vertices, and all together once.

    Then the outline cannot cross itself. Most drawn outlines are like that, and this check costs a tenth of a full one.
    """
    cx = sum(x for x, _ in points) / len(points)
    cy = sum(y for _, y in points) / len(points)
    ax, ay = points[-1][0] - cx, points[-1][1] - cy
    way = 0.0
    sides = 0
    for x, y in points:
        bx, by = x - cx, y - cy
        turn = ax * by - ay * bx
        if turn == 0 or turn * way < 0:
            return False
        way = turn
        sides += (ay < 0) != (by < 0)
        ax, ay = bx, by
    return sides == 2


_FEW = 10
"""Vertices up to which comparing every pair of edges costs less than handing the outline to shapely."""


def _has_crossing_edges(points: Sequence[Sequence[float]]) -> bool | None:
    """Whether two edges cross or touch; None where fractions make that a question of rounding, for shapely to judge."""
    ring = [*points, points[0]]
    count = len(points)
    for (ax, ay), (bx, by), (cx, cy) in zip([points[-1], *points], points, ring[1:], strict=False):
        ux, uy, vx, vy = bx - ax, by - ay, cx - bx, cy - by
        turn = ux * vy - uy * vx
        if turn == 0:
            if not isinstance(turn, int):
                return None
            if ux * vx + uy * vy <= 0:  # straight back over the edge before
                return True
    for first in range(count - 2):
        (ax, ay), (bx, by) = ring[first], ring[first + 1]
        ux, uy = bx - ax, by - ay
        for second in range(first + 2, count - (first == 0)):
            (cx, cy), (dx, dy) = ring[second], ring[second + 1]
            one = ux * (cy - ay) - uy * (cx - ax)
            two = ux * (dy - ay) - uy * (dx - ax)
            if (one > 0 and two > 0) or (one < 0 and two < 0):
                continue
            vx, vy = dx - cx, dy - cy
            three = vx * (ay - cy) - vy * (ax - cx)
            four = vx * (by - cy) - vy * (bx - cx)
            if (three > 0 and four > 0) or (three < 0 and four < 0):
                continue
            if one and two and three and four:
                return True
            if not isinstance(one, int):
                return None
            # On one line, or a vertex on the other edge's line: they meet where their bounds do.
            if max(min(ax, bx), min(cx, dx)) <= min(max(ax, bx), max(cx, dx)) and max(min(ay, by), min(cy, dy)) <= min(
                max(ay, by), max(cy, dy)
            ):
                return True
    return False


def is_flat(points: Sequence[Sequence[float]]) -> bool:
    """Whether all `points` [N, 2] lie on one straight line, so that no outline through them encloses anything."""
    x1, y1 = points[0]
    x2, y2 = next(((x, y) for x, y in points if (x, y) != (x1, y1)), (x1, y1))
    return all(_turn((x1, y1), (x2, y2), point) == 0 for point in points)


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def _is_sliver(shape: Shape, points: Ring, bounds: tuple[float, float, float, float]) -> bool:
    """Below SLIVER_PX because of the cut; a shape that was as thin, or a line as short, before is not blamed for it.

    points: what is left of the shape; bounds: of the whole.
    """
    if isinstance(shape, Polyline):
        left = _length(points)
        return left < SLIVER_PX and left < _length(shape.points.tolist())
    for axis in (0, 1):
        values = [point[axis] for point in points]
        extent = max(values) - min(values)
        if extent < SLIVER_PX and extent < bounds[axis + 2] - bounds[axis]:
            return True
    return False


def _is_convex(points: Ring) -> bool:
    """Whether a ring turns one way only, and once around (a star turns one way too, but more often)."""
    sign = 0.0
    flips = 0
    before = points[-1][0] - points[-2][0]
    for i, (x, y) in enumerate(points):
        px, py = points[i - 1]
        qx, qy = points[i - 2]
        turn = (px - qx) * (y - py) - (py - qy) * (x - px)
        if turn == 0 or turn * sign < 0:
            return False
        sign = turn
        step = x - px
        flips += step * before < 0
        before = step or before
    return flips <= 2


def _cut_ring(points: Ring, width: float, height: float, convex: bool) -> Ring | None:
    """A simple ring cut at the four edges in turn (Sutherland and Hodgman, 1974); empty when nothing is inside.

    None when a concave ring crosses or touches an edge so often that its pieces could fall apart or meet in a point.
    """
    for axis, limit, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        distances = [sign * (point[axis] - limit) for point in points]
        if min(distances, default=0.0) >= 0:
            continue
        if not convex and not _is_left_once(distances):
            return None
        points = _cut_half(points, distances, axis, limit)
    return points


def _is_left_once(distances: list[float]) -> bool:
    """Whether a closed walk at these distances from a line is behind it for one stretch, and never on it."""
    returns = sum(before < 0 < after for before, after in zip(distances, distances[1:] + distances[:1], strict=True))
    return returns <= 1 and 0.0 not in distances


def _cut_half(points: Ring, distances: list[float], axis: int, limit: float) -> Ring:
    """The part of a ring on the side of an edge where the distances are not negative."""
    kept: Ring = []
    last, there = points[-1], distances[-1]
    for point, here in zip(points, distances, strict=True):
        if here < 0 < there or there < 0 < here:
            share = there / (there - here)
            along = last[1 - axis] + share * (point[1 - axis] - last[1 - axis])
            kept.append([along, limit] if axis else [limit, along])
        if here >= 0:
            kept.append(point)
        last, there = point, here
    return kept


def _area(points: Ring) -> float:
    """Enclosed area of a simple ring."""
    if len(points) < 3:
        return 0.0
    x0, y0 = points[0]
    twice = 0.0
    for (ax, ay), (bx, by) in pairwise(points):
        twice += (ax - x0) * (by - y0) - (bx - x0) * (ay - y0)
    return abs(twice) / 2


def _visible_pieces(points: Ring, width: float, height: float) -> Iterator[Ring]:
    """Maximal chains of `points` inside the canvas; a chain ends where the line leaves it."""
    chain: Ring = []
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
