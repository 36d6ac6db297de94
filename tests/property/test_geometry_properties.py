"""Canonical order and clipping on random shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from plumbline.geometry import Box, Polygon, Polyline, Quad, Shape, clip_to_canvas, order_objects, shape_from_flat
from plumbline.geometry.clip import SLIVER_PX, is_flat, is_self_crossing, visible_fraction

WIDTH, HEIGHT = 100, 60
coarse = st.integers(-4, 4).map(float)
fine = st.floats(-300, 300, allow_nan=False, width=32)
coordinate = st.one_of(coarse, fine)


def points(least: int, most: int, of: st.SearchStrategy[float] = coordinate) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(of, min_size=2, max_size=2), min_size=least, max_size=most)


shapes = st.one_of(points(2, 2).map(Box), points(4, 4).map(Quad), points(3, 9).map(Polygon), points(2, 9).map(Polyline))


@st.composite
def star_polygons(draw: st.DrawFn) -> Polygon:
    """Simple outlines, mostly concave, anywhere around the canvas."""
    count = draw(st.integers(3, 9))
    turns = np.cumsum(draw(st.lists(st.floats(0.2, 1), min_size=count, max_size=count)))
    radii = np.array(draw(st.lists(st.floats(5, 90), min_size=count, max_size=count)))
    assume(np.diff(turns, append=turns[0] + turns[-1]).max() < turns[-1] / 2)  # the centre stays inside
    angles = turns / turns[-1] * 2 * math.pi
    centre = draw(st.tuples(st.floats(-40, 140), st.floats(-40, 100)))
    return Polygon(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + centre)


@st.composite
def monotone_lines(draw: st.DrawFn) -> Polyline:
    """Lines that run to the right and so never cross themselves."""
    tenths = st.integers(-500, 1100).map(lambda value: value / 10)
    steps = draw(st.lists(st.tuples(st.floats(1, 40), tenths), min_size=2, max_size=8))
    xs = np.cumsum([step for step, _ in steps]) - draw(st.integers(0, 120))
    return Polyline(np.stack([xs, [y for _, y in steps]], axis=1))


@st.composite
def staircases(draw: st.DrawFn) -> Polyline:
    """Lines of level and upright pieces that run to the right and so never cross themselves; some along an edge."""
    x, y = float(draw(st.integers(-40, 110))), draw(st.sampled_from([0.0, HEIGHT, 20.0, -5.0, HEIGHT + 5.0]))
    corners = [[x, y]]
    for right, level in draw(st.lists(st.tuples(st.integers(1, 60), st.integers(-20, 80)), min_size=1, max_size=5)):
        corners.append([corners[-1][0] + right, corners[-1][1]])
        if level != corners[-1][1]:
            corners.append([corners[-1][0], float(level)])
    return Polyline(corners)


def cyclic(ring: list[list[float]]) -> set[tuple[tuple[float, ...], ...]]:
    rows = [tuple(row) for row in ring]
    return {tuple(way[i:] + way[:i]) for way in (rows, rows[::-1]) for i in range(len(rows))}


@given(shapes)
def test_canonical_order_is_stable_and_changes_no_coordinate(shape: Shape) -> None:
    canonical = shape.canonical()
    assert canonical.canonical() == canonical
    assert canonical.bounds() == shape.bounds()
    if isinstance(shape, Quad | Polygon):
        assert cyclic(canonical.points.tolist()) == cyclic(shape.points.tolist())
        assert canonical.area() == pytest.approx(shape.area(), abs=1e-6)
    elif isinstance(shape, Polyline):
        assert canonical.points.tolist() in (shape.points.tolist(), shape.points.tolist()[::-1])


@given(st.one_of(points(4, 4).map(Quad), points(3, 9).map(Polygon)), st.integers(0, 8), st.booleans())
def test_a_ring_has_one_canonical_form_whatever_its_start_and_direction(ring: Quad, start: int, turn: bool) -> None:
    moved = np.roll(ring.points, start, axis=0)
    assert ring.with_points(moved[::-1] if turn else moved).canonical() == ring.canonical()


@given(points(3, 9, fine).map(Polygon))
def test_a_ring_starts_at_the_top_and_runs_clockwise_on_screen(polygon: Polygon) -> None:
    ring = polygon.canonical().points
    first = min((y, x) for x, y in ring.tolist())
    assert (ring[0, 1], ring[0, 0]) == first
    if polygon.area() > 1e-3:
        assert shapely.Polygon(ring * (1, -1)).exterior.is_ccw is False or not shapely.Polygon(ring).is_valid


@given(points(2, 9).map(Polyline))
def test_a_line_starts_at_its_upper_left_end(line: Polyline) -> None:
    ring = line.canonical().points.tolist()
    assert (ring[0][1], ring[0][0]) <= (ring[-1][1], ring[-1][0])


@given(st.lists(shapes, max_size=6), st.randoms())
def test_object_order_does_not_depend_on_the_given_order(items: list[Shape], random) -> None:
    items = [item.canonical() for item in items]
    keys = [(item.points[0, 1], item.points[0, 0]) for item in items]
    assert [keys[i] for i in order_objects(items)] == sorted(keys)
    shuffled = random.sample(items, len(items))
    assert sorted(order_objects(shuffled)) == list(range(len(items)))


@given(st.one_of(shapes, star_polygons(), monotone_lines()))
def test_clipping_stays_in_the_picture_without_slivers_and_is_done_once(shape: Shape) -> None:
    clipped = clip_to_canvas(shape, WIDTH, HEIGHT)
    if clipped is None:
        return
    x1, y1, x2, y2 = clipped.bounds()
    assert x1 >= 0
    assert y1 >= 0
    assert x2 <= WIDTH
    assert y2 <= HEIGHT
    if isinstance(shape, Polyline):
        assert clipped.length() >= min(shape.length(), SLIVER_PX)
    else:
        whole = np.ptp(shape.points, axis=0)
        assert all(np.ptp(clipped.points, axis=0) >= np.minimum(whole, SLIVER_PX))
    assert clip_to_canvas(clipped, WIDTH, HEIGHT) is clipped


@given(star_polygons())
def test_a_clipped_polygon_is_the_largest_visible_piece_exactly(polygon: Polygon) -> None:
    outline = shapely.Polygon(polygon.points)
    assume(outline.is_valid)
    visible = outline.intersection(shapely.box(0, 0, WIDTH, HEIGHT))
    assert visible_fraction(polygon, WIDTH, HEIGHT) == pytest.approx(visible.area / outline.area, abs=1e-9)
    clipped = clip_to_canvas(polygon, WIDTH, HEIGHT)
    largest = max((part.area for part in shapely.get_parts(visible)), default=0.0)
    if clipped is None:
        assert (
            largest == 0
            or min(np.ptp(shapely.get_coordinates(visible), axis=0)) < SLIVER_PX
            or (visible.geom_type != "Polygon")
        )
        return
    assert clipped.area() == pytest.approx(largest, rel=1e-9, abs=1e-9)
    assert shapely.Polygon(clipped.points).is_valid  # no crossing that was not there


@given(st.one_of(monotone_lines(), staircases()), st.booleans())
def test_a_clipped_line_is_its_longest_visible_piece(line: Polyline, mirrored: bool) -> None:
    """What is visible of a line above the sliver limit is never lost, whichever way the line runs."""
    line = Polyline(line.points[::-1]) if mirrored else line
    visible = shapely.line_merge(shapely.LineString(line.points).intersection(shapely.box(0, 0, WIDTH, HEIGHT)))
    longest = max((part.length for part in shapely.get_parts(visible)), default=0.0)
    assume(abs(longest - SLIVER_PX) > 1e-6)
    clipped = clip_to_canvas(line, WIDTH, HEIGHT)
    if longest < SLIVER_PX:
        assert clipped is None
    else:
        assert clipped is not None and clipped.length() == pytest.approx(longest, rel=1e-6, abs=1e-6)


@given(points(4, 4, coarse), st.integers(5, 9).flatmap(lambda n: points(n, n, coarse)))
def test_self_crossing_agrees_with_shapely(quad: list[list[float]], ring: list[list[float]]) -> None:
    for outline in (quad, ring):
        assert is_self_crossing(outline) == (not shapely.is_simple(shapely.LinearRing(outline)))


@given(points(3, 6, coarse))
def test_flat_means_an_empty_hull(outline: list[list[float]]) -> None:
    assert is_flat(outline) == (shapely.MultiPoint(outline).convex_hull.area == 0)


@given(shapes)
def test_flat_numbers_give_the_shape_back(shape: Shape) -> None:
    assert shape_from_flat(shape.kind, shape.flat()) == shape
