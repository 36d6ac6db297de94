"""Shapes, order and clipping: what the documents promise, by example."""

from __future__ import annotations

import numpy as np
import pytest

from plumbline.geometry import Box, Polygon, Polyline, Quad, clip_to_canvas, order_objects, shape_from_flat


@pytest.mark.parametrize(
    ("shape", "ordered"),
    [
        (Box([[30, 40], [10, 20]]), [10, 20, 30, 40]),
        (Box([[30, 20], [10, 40]]), [10, 20, 30, 40]),
        (Quad([[10, 10], [0, 10], [0, 0], [10, 0]]), [0, 0, 10, 0, 10, 10, 0, 10]),  # was counter-clockwise
        (Quad([[5, 0], [10, 5], [5, 10], [0, 5]]), [5, 0, 10, 5, 5, 10, 0, 5]),
        (Polygon([[9, 9], [1, 1], [9, 1]]), [1, 1, 9, 1, 9, 9]),
        (Polyline([[50, 60], [10, 20], [30, 5]]), [30, 5, 10, 20, 50, 60]),
        (Polyline([[9, 5], [3, 5]]), [3, 5, 9, 5]),  # equal y: the smaller x first
    ],
)
def test_canonical_order(shape, ordered) -> None:
    assert shape.canonical().flat() == ordered


def test_a_bow_tie_keeps_its_crossing() -> None:
    bow_tie = Quad([[0, 0], [10, 10], [10, 0], [0, 10]])
    ring = bow_tie.canonical().points.tolist()
    neighbours = {frozenset((tuple(ring[i - 1]), tuple(ring[i]))) for i in range(4)}
    given = bow_tie.points.tolist()
    assert neighbours == {frozenset((tuple(given[i - 1]), tuple(given[i]))) for i in range(4)}


def test_points_are_copied_frozen_and_have_no_negative_zero() -> None:
    mine = np.array([[-0.0, 1.0], [2.0, 3.0]])
    box = Box(mine)
    mine[0, 0] = 99
    assert str(box.flat()) == "[0.0, 1.0, 2.0, 3.0]"
    with pytest.raises(ValueError, match="read-only"):
        box.points[0, 0] = 5


@pytest.mark.parametrize(
    ("kind", "numbers", "message"),
    [
        ("bbox_2d", [1, 2, 3], "do not make pairs"),
        ("bbox_2d", [1, 2], "2 points wanted"),
        ("quad", [1, 2, 3, 4, 5, 6], "4 points wanted"),
        ("poly", [1, 2, 3, 4], "at least 3"),
        ("line", [1, 2], "at least 2"),
        ("line", [1, 2, float("nan"), 4], "finite"),
        ("circle", [1, 2, 3], "unknown geometry"),
    ],
)
def test_impossible_shapes_are_refused(kind, numbers, message) -> None:
    with pytest.raises(ValueError, match=message):
        shape_from_flat(kind, numbers)


def test_object_order_policies() -> None:
    low_left, high_right = Box([[0, 10], [4, 12]]), Box([[50, 0], [60, 90]])
    assert order_objects([low_left, high_right]) == [1, 0]
    assert order_objects([low_left, high_right], "center") == [0, 1]
    assert order_objects([low_left, low_left]) == [0, 1]
    with pytest.raises(ValueError, match="unknown object ordering"):
        order_objects([], "left_to_right")


def test_a_concave_polygon_keeps_its_form_and_its_larger_arm() -> None:
    arms = Polygon([[50, 10], [150, 10], [150, 90], [50, 90], [50, 60], [130, 60], [130, 30], [50, 30]])
    clipped = clip_to_canvas(arms, 100, 100)
    assert isinstance(clipped, Polygon)
    assert clipped.flat() == [50, 60, 100, 60, 100, 90, 50, 90]  # no border segment joins it to the other arm


def test_a_quad_stays_a_quad_while_it_has_four_corners() -> None:
    assert clip_to_canvas(Quad([[-10, 10], [50, 10], [50, 40], [-10, 40]]), 100, 100) == Quad(
        [[0, 10], [50, 10], [50, 40], [0, 40]]
    )
    diamond = clip_to_canvas(Quad([[50, -20], [120, 50], [50, 120], [-20, 50]]), 100, 100)
    assert isinstance(diamond, Polygon)
    assert len(diamond.points) == 8


def test_a_line_keeps_its_longest_visible_piece_even_when_it_crosses_itself() -> None:
    away_and_back = Polyline([[10, 10], [120, 10], [120, 50], [5, 50], [5, 20]])
    assert clip_to_canvas(away_and_back, 100, 100) == Polyline([[100, 50], [5, 50], [5, 20]])
    loop = Polyline([[10, 50], [90, 50], [90, 90], [50, 90], [50, -10]])
    assert clip_to_canvas(loop, 100, 100) == Polyline([[10, 50], [90, 50], [90, 90], [50, 90], [50, 0]])


@pytest.mark.parametrize(
    ("line", "visible"),
    [
        ([[-10, 10], [10, 10], [60, 10], [60, 60]], [[0, 10], [50, 10]]),  # level: no extent in y
        ([[20, -30], [20, 30], [90, 30]], [[20, 0], [20, 30], [50, 30]]),
        ([[20, -30], [20, 30], [20, 90]], [[20, 0], [20, 50]]),  # upright: no extent in x
        ([[-10, 0], [20, 0]], [[0, 0], [20, 0]]),  # along the edge
        ([[-10, 10], [0.5, 10.2]], None),  # half a pixel long
        ([[-10, 10], [0.8, 10], [0.8, 10.9], [-9, 10.9]], [[0, 10], [0.8, 10], [0.8, 10.9], [0, 10.9]]),
    ],
)
def test_a_cut_line_is_kept_by_its_length(line, visible) -> None:
    clipped = clip_to_canvas(Polyline(line), 50, 50)
    assert clipped == (None if visible is None else Polyline(visible))


@pytest.mark.parametrize(
    "shape",
    [
        Box([[100, 10], [120, 20]]),  # touches the edge
        Box([[-30, -30], [0.4, 50]]),  # a sliver of 0.4 px
        Polyline([[-5, -5], [-1, 40]]),
        Polygon([[200, 200], [300, 200], [250, 300]]),
        Polygon([[90, -20], [130, -20], [130, 20]]),  # the bounds meet the picture, the triangle does not
    ],
)
def test_what_shows_nothing_is_dropped(shape) -> None:
    assert clip_to_canvas(shape, 100, 100) is None


def test_a_shape_inside_comes_back_itself() -> None:
    thin = Polygon([[10, 10], [90, 10.1], [10, 10.2]])
    assert clip_to_canvas(thin, 100, 100) is thin
