"""Maps: inverses, composition, boxes to quads, and what an edge leaves of mapped shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import Augmentation
from plumbline.data.record import DataObject, Record
from plumbline.geometry import Box, Polygon, Polyline, Quad, Shape
from plumbline.geometry.clip import SLIVER_PX, cut_at_canvas, is_self_crossing
from plumbline.geometry.group import ShapeGroup, map_groups
from plumbline.geometry.maps import (
    Map,
    about,
    affine,
    canvas_corners,
    horizontal_flip,
    inverse,
    is_upright,
    map_points,
    map_shape,
    rectangle_to_quad,
    rotation,
    scaling,
    shear,
    then,
    translation,
    vertical_flip,
)

WIDTH, HEIGHT = 640.0, 480.0
COORDINATE = st.floats(-100, 740, allow_nan=False, width=32)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=8).map(np.array)


def _perspective(shifts: list[float]) -> Map:
    corners = canvas_corners(WIDTH, HEIGHT) + np.reshape(shifts, (4, 2)) * (WIDTH, HEIGHT)
    return rectangle_to_quad(WIDTH, HEIGHT, corners.tolist())


AFFINE = st.one_of(
    st.just(horizontal_flip(WIDTH)),
    st.just(vertical_flip(HEIGHT)),
    st.floats(-180, 180).map(lambda degrees: about((WIDTH / 2, HEIGHT / 2), rotation(degrees))),
    st.floats(0.3, 3).map(lambda factor: about((WIDTH / 2, HEIGHT / 2), scaling(factor, factor))),
    st.tuples(st.floats(-40, 40), st.floats(-20, 20)).map(lambda angles: about((320.0, 240.0), shear(*angles))),
    st.tuples(st.floats(-200, 200), st.floats(-200, 200)).map(lambda move: translation(*move)),
)
MAPS = AFFINE | st.lists(st.floats(-0.1, 0.1), min_size=8, max_size=8).map(_perspective)
INSIDE = st.lists(st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)), min_size=1, max_size=8).map(np.array)


@given(MAPS, INSIDE)
def test_the_inverse_undoes_a_map(matrix: Map, points: np.ndarray) -> None:
    assert np.allclose(map_points(map_points(points, matrix), inverse(matrix)), points, atol=1e-6)


@given(MAPS, AFFINE, AFFINE, INSIDE)
def test_composition_is_associative_and_is_one_map_after_the_other(
    first: Map, second: Map, third: Map, points: np.ndarray
) -> None:
    assert np.allclose(then(then(first, second), third), then(first, then(second, third)), atol=1e-6)
    step_by_step = map_points(map_points(points, first), second)
    assert np.allclose(map_points(points, then(first, second)), step_by_step, atol=1e-6)


def test_literal_maps() -> None:
    point = np.array([[10.0, 20.0]])
    assert map_points(point, horizontal_flip(100)).tolist() == [[90, 20]]
    assert map_points(point, vertical_flip(100)).tolist() == [[10, 80]]
    # Counter-clockwise on screen: what points right then points up, and up is towards smaller y.
    assert map_points(np.array([[1.0, 0.0]]), rotation(90)).tolist() == [[0, -1]]
    assert map_points(np.array([[0.0, 10.0]]), shear(45, 0)).round(9).tolist() == [[10, 10]]


def test_a_point_behind_the_horizon_and_a_flat_map_are_refused() -> None:
    tilt = affine(1, 0, 0, 0, 1, 0)
    tilt[2] = (-0.01, 0, 1)
    with pytest.raises(ValueError, match="horizon"):
        map_points(np.array([[200.0, 0.0]]), tilt)
    with pytest.raises(ValueError, match="no inverse"):
        inverse(affine(1, 1, 0, 1, 1, 0))
    with pytest.raises(ValueError, match="one line"):
        rectangle_to_quad(1, 1, [(0, 0), (1, 1), (2, 2), (3, 3)])


@given(st.lists(st.floats(-0.2, 0.2), min_size=8, max_size=8))
def test_a_perspective_map_takes_corners_to_corners(shifts: list[float]) -> None:
    wanted = canvas_corners(WIDTH, HEIGHT) + np.reshape(shifts, (4, 2)) * (WIDTH, HEIGHT)
    assert np.allclose(map_points(canvas_corners(WIDTH, HEIGHT), _perspective(shifts)), wanted, atol=1e-6)


@given(st.tuples(*[st.floats(0, 400)] * 2), st.tuples(*[st.floats(1, 200)] * 2), MAPS)
def test_a_box_becomes_a_quad_unless_the_map_keeps_it_upright(start, sides, matrix: Map) -> None:
    box = Box(np.array([start, np.add(start, sides)]))
    moved = map_shape(box, matrix)
    assert isinstance(moved, Box if is_upright(matrix) else Quad)
    corners = map_points(canvas_corners(*sides) + start, matrix)
    assert np.allclose(moved.bounds(), [*corners.min(0), *corners.max(0)])


SHAPES = st.one_of(
    st.tuples(COORDINATE, COORDINATE, st.floats(0.5, 300), st.floats(0.5, 300)).map(
        lambda n: Box(np.array([[n[0], n[1]], [n[0] + n[2], n[1] + n[3]]]))
    ),
    st.lists(st.tuples(COORDINATE, COORDINATE), min_size=4, max_size=4).map(lambda p: Quad(np.array(p))),
    st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9).map(lambda p: Polygon(np.array(p))),
    st.lists(st.tuples(COORDINATE, COORDINATE), min_size=2, max_size=9).map(lambda p: Polyline(np.array(p))),
)


@given(st.lists(SHAPES, max_size=6), MAPS.filter(is_upright) | AFFINE)
def test_a_group_maps_as_its_shapes_do(shapes: list[Shape], matrix: Map) -> None:
    group = ShapeGroup.of(shapes).mapped(matrix)
    for index, shape in enumerate(shapes):
        alone = map_shape(shape, matrix)
        assert group.shape(index).kind == alone.kind
        assert np.allclose(group.shape(index).canonical().points, alone.canonical().points)
        assert np.allclose(group.bounds[index], alone.bounds())


def _ring(shape: Shape) -> shapely.Geometry:
    points = (
        canvas_corners(*np.ptp(shape.points, axis=0)) + shape.points.min(0) if shape.kind == "bbox_2d" else shape.points
    )
    return shapely.make_valid(shapely.polygons(points))


def _measures(shape: Shape) -> tuple[float, float]:
    """(inside, whole) by shapely: areas, or lengths segment by segment (an overlay would count a retraced one once)."""
    canvas = shapely.box(0, 0, WIDTH, HEIGHT)
    if isinstance(shape, Polyline):
        segments = shapely.linestrings(np.stack([shape.points[:-1], shape.points[1:]], axis=1))
        return float(shapely.length(segments & canvas).sum()), float(shapely.length(segments).sum())
    return float(shapely.area(_ring(shape) & canvas)), float(shapely.area(_ring(shape)))


@given(SHAPES)
def test_cutting_equals_shapely(shape: Shape) -> None:
    visible, share = cut_at_canvas(shape, WIDTH, HEIGHT)
    if visible is shape:
        assert share == 1.0
        return
    x1, y1, x2, y2 = shape.bounds()
    is_line = isinstance(shape, Polyline)  # a line along the edge is to be seen, an area that touches it is not
    if not is_line and (x2 <= 0 or y2 <= 0 or x1 >= WIDTH or y1 >= HEIGHT):
        assert (visible, share) == (None, 0.0)
        return
    inside, whole = _measures(shape)
    if whole > 1e-3:
        assert share == pytest.approx(inside / whole, abs=1e-6)
    if visible is not None:
        x1, y1, x2, y2 = visible.bounds()
        assert x1 >= 0 and y1 >= 0 and x2 <= WIDTH and y2 <= HEIGHT
        crosses = isinstance(shape, Quad | Polygon) and is_self_crossing(shape.points.tolist())
        if is_line or crosses:
            return  # of a self-crossing outline the visible piece may have holes, which a polygon cannot tell
        if isinstance(_ring(shape) & shapely.box(0, 0, WIDTH, HEIGHT), shapely.Polygon):
            assert float(shapely.area(_ring(visible))) == pytest.approx(inside, rel=1e-6, abs=1e-3)


@given(st.floats(0, 360), st.floats(-150, 150), st.floats(-100, 100))
def test_a_concave_polygon_keeps_its_form(degrees: float, dx: float, dy: float) -> None:
    letter = np.array([[200, 100], [440, 100], [440, 160], [270, 160], [270, 320], [440, 320], [440, 380], [200, 380]])
    matrix = then(about((320.0, 240.0), rotation(degrees)), translation(dx, dy))
    moved = map_shape(Polygon(letter.astype(float)), matrix)
    visible, _ = cut_at_canvas(moved, WIDTH, HEIGHT)
    inside = shapely.polygons(moved.points) & shapely.box(0, 0, WIDTH, HEIGHT)
    assert visible is not None
    largest = max(shapely.get_parts(inside), key=shapely.area)
    assert float((shapely.polygons(visible.points) ^ largest).area) < 1e-3
    assert not is_self_crossing(visible.points.tolist())


@given(SHAPES, st.integers(0, 7), st.booleans(), MAPS, AFFINE)
def test_the_canonical_order_does_not_depend_on_how_the_points_were_given(
    shape: Shape, turn: int, back: bool, first: Map, second: Map
) -> None:
    """Nor does it under any map, for boxes as for others, and whether it is restored between two maps or not."""
    points = shape.points
    if isinstance(shape, Quad | Polygon):
        points = np.roll(points, turn, axis=0)
    again = shape.with_points(points[::-1] if back else points)
    assert shape.canonical() == again.canonical()
    once = map_shape(shape, first)
    assert map_shape(again, first).canonical() == once.canonical()
    assert map_shape(once.canonical(), second).canonical() == map_shape(once, second).canonical()


def _random_shapes(rng: np.random.Generator, count: int, inside: bool = False) -> list[Shape]:
    """Boxes, scribbled lines, and quads and polygons that are stars around their middle: simple, often concave.

    inside: the picture, as the objects of a record are.
    """
    middles = rng.uniform((-50, -50), (WIDTH + 50, HEIGHT + 50), (count, 1, 2))
    reaches = rng.uniform(1, 250, (count, 1, 1))
    if inside:
        middles = rng.uniform((1, 1), (WIDTH - 1, HEIGHT - 1), (count, 1, 2))
        reaches = np.minimum(reaches, np.minimum(middles, (WIDTH, HEIGHT) - middles).min(-1, keepdims=True))
    scribbles = middles + reaches * rng.uniform(-1, 1, (count, 9, 2))
    kinds, corners = rng.integers(4, size=count).tolist(), rng.integers(3, 10, count).tolist()
    shapes: list[Shape] = []
    for index, (kind, corner) in enumerate(zip(kinds, corners, strict=True)):
        if kind == 0:
            shapes.append(Box.trusted(np.sort(scribbles[index, :2], axis=0)))
        elif kind == 1:
            shapes.append(Polyline.trusted(scribbles[index, : corner - 1]))
        else:
            corner = 4 if kind == 2 else corner
            angles, radii = np.sort(rng.uniform(0, 2 * np.pi, corner)), rng.uniform(0.3, 1, (corner, 1))
            star = middles[index] + reaches[index] * radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            shapes.append((Quad if kind == 2 else Polygon).trusted(star))
    return shapes


def _random_map(rng: np.random.Generator) -> Map:
    """A turn, a zoom, a slant and a tilt at once."""
    middle = (WIDTH / 2, HEIGHT / 2)
    factor = rng.uniform(0.5, 2)
    turned = then(about(middle, rotation(rng.uniform(-180, 180))), about(middle, scaling(factor, factor)))
    slanted = then(turned, about(middle, shear(rng.uniform(-45, 45), rng.uniform(-40, 40))))
    return then(_perspective(rng.uniform(-0.05, 0.05, 8).tolist()), slanted)


Kept = tuple[Shape, Shape, tuple[float, float], float]
"""(shape as it was mapped, what is left of it, (width, height) of the canvas, visible share)."""


def _cut_directly(rng: np.random.Generator, count: int) -> Iterator[Kept]:
    group = ShapeGroup.of(_random_shapes(rng, count)).mapped(_random_map(rng))
    for shape in map(group.shape, range(count)):
        visible, share = cut_at_canvas(shape, WIDTH, HEIGHT)
        if visible is not None:
            yield shape, visible, (WIDTH, HEIGHT), share


CHAIN = Augmentation(
    (
        OPERATIONS["rotate"](max_deg=180.0),
        OPERATIONS["shear"](max_x_deg=45.0, max_y_deg=40.0, prob=0.5),
        OPERATIONS["perspective"](max_shift=0.2, prob=0.5),
        OPERATIONS["resize_by_scale"](factor=(0.5, 2.0), prob=0.5),
        OPERATIONS["random_crop"](area=(0.3, 0.9), min_coverage=0.0, prob=0.5),
    )
)


def _cut_by_a_plan(rng: np.random.Generator, count: int) -> Iterator[Kept]:
    shapes = _random_shapes(rng, count, inside=True)
    objects = tuple(DataObject("a", shape) for shape in shapes)
    size = (int(WIDTH), int(HEIGHT))
    plan = CHAIN.plan(Record(("a",), *size, objects), size, rng)
    assert len(plan.kept_indices) + len(plan.dropped) == count
    group = ShapeGroup.of(shapes).mapped(plan.matrix)
    for index, item, share in zip(plan.kept_indices, plan.record.objects, plan.coverages, strict=True):
        yield group.shape(index), item.shape, (plan.width, plan.height), share


@pytest.mark.parametrize("seed", range(20))
def test_groups_made_together_are_those_made_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [_random_shapes(rng, count) for count in (3, 0, 1, 17, 0)]
    outlines = [[(shape.kind, shape.flat()) for shape in own] for own in shapes]
    together, matrices = ShapeGroup.of_outlines(outlines), [_random_map(rng) for _ in shapes]
    for group, own, matrix, mapped in zip(together, shapes, matrices, map_groups(together, matrices), strict=True):
        assert list(group.sources) == own
        alone = ShapeGroup.of(own)
        assert group.bounds == alone.bounds == [shape.bounds() for shape in own]
        assert group.extent == alone.extent
        moved = alone.mapped(matrix)
        assert [mapped.shape(index) for index in range(len(own))] == [moved.shape(index) for index in range(len(own))]
        assert mapped.bounds == moved.bounds == group.bounds_under(matrix)
        assert mapped.extent == moved.extent
        if own:
            low, high = np.array(mapped.bounds)[:, :2].min(0), np.array(mapped.bounds)[:, 2:].max(0)
            assert mapped.extent == (*low, *high)


@pytest.mark.slow
def test_a_hundred_thousand_random_shapes_stay_sound() -> None:
    """Nothing outside the canvas, no NaN, no sliver made by the cut, no crossing that was not there."""
    rng = np.random.default_rng(3)
    for cutting in (_cut_directly, _cut_by_a_plan):
        kept = [item for _ in range(50) for item in cutting(rng, 1000)]
        before, after = (ShapeGroup.of([item[side] for item in kept]) for side in (0, 1))
        assert np.isfinite(after.points).all()
        bounds, sizes, shares = np.array(after.bounds), *(np.array([item[part] for item in kept]) for part in (2, 3))
        assert ((shares >= 0) & (shares <= 1)).all()
        assert (bounds >= 0).all() and (bounds[:, :2] <= sizes).all() and (bounds[:, 2:] <= sizes).all()
        whole, left = (np.subtract(*np.hsplit(np.array(group.bounds), 2)[::-1]) for group in (before, after))
        lines = np.array([[isinstance(item[1], Polyline)] for item in kept])
        assert ((left >= SLIVER_PX) | (left >= whole - 1e-9) | lines).all()
        for shape, visible in [item[:2] for item in kept if isinstance(item[1], Polyline)]:
            assert visible.length() >= min(SLIVER_PX, shape.length()) - 1e-9
        cut = [(shape, visible) for shape, visible, _, share in kept if share < 1]
        assert len(cut) > 5000
        for shape, visible in cut:
            if isinstance(visible, Quad | Polygon) and is_self_crossing(visible.points.tolist()):
                assert is_self_crossing(shape.points.tolist()), (shape.points.tolist(), visible.points.tolist())


@pytest.mark.slow
def test_no_plan_loses_a_line_of_which_enough_is_visible() -> None:
    """Crops, maps and fits against shapely: a line is dropped only where its longest visible piece is a sliver."""
    rng = np.random.default_rng(4)
    size, dropped = (int(WIDTH), int(HEIGHT)), 0
    for _ in range(2000):
        lines = [shape for shape in _random_shapes(rng, 40, inside=True) if isinstance(shape, Polyline)]
        plan = CHAIN.plan(Record(("a",), *size, tuple(DataObject("a", line) for line in lines)), size, rng)
        group, canvas = ShapeGroup.of(lines).mapped(plan.matrix), shapely.box(0, 0, plan.width, plan.height)
        lost = [group.shape(index) for index in range(len(lines)) if index not in plan.kept_indices]
        for line in lost:
            visible = shapely.LineString(line.points).intersection(canvas)
            longest = max((part.length for part in shapely.get_parts(shapely.line_merge(visible))), default=0.0)
            assert longest < SLIVER_PX + 1e-6 or not shapely.LineString(line.points).is_simple
        dropped += len(lost)
    assert dropped > 100


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=8))
def test_self_crossing_equals_shapely_on_a_coarse_grid(points: list[tuple[int, int]]) -> None:
    """On a grid of seven everything degenerate happens: repeated points, collinear edges, touching corners."""
    outline = [list(map(float, point)) for point in points]
    assert is_self_crossing(outline) == (not shapely.is_simple(shapely.linearrings(outline)))
