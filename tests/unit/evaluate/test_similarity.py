"""How alike two shapes are."""

from __future__ import annotations

import numpy as np
import pytest

from plumbline.evaluate.similarity import TUBE, similarities
from plumbline.geometry import Box, Polygon, Polyline, Quad, Shape

DIAGONAL = 1000.0


def alike(one: Shape, two: Shape) -> float:
    return float(similarities([one], [two], DIAGONAL)[0, 0])


def box(*numbers: float) -> Box:
    return Box(np.reshape(numbers, (2, 2)))


def ring(kind: type[Shape], *numbers: float) -> Shape:
    return kind(np.reshape(numbers, (-1, 2)))


def test_boxes_have_the_iou_of_their_areas() -> None:
    assert alike(box(0, 0, 10, 10), box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert alike(box(0, 0, 10, 10), box(10, 0, 20, 10)) == 0
    assert alike(box(10, 10, 0, 0), box(0, 0, 10, 10)) == 1, "corners in any order"


def test_a_box_and_a_quad_around_the_same_area_are_the_same() -> None:
    quad = ring(Quad, 0, 0, 10, 0, 10, 10, 0, 10)
    assert alike(box(0, 0, 10, 10), quad) == pytest.approx(1)
    assert alike(quad, box(0, 0, 10, 5)) == pytest.approx(0.5)


def test_a_concave_outline_counts_what_it_encloses() -> None:
    notched = ring(Polygon, 0, 0, 10, 0, 10, 10, 5, 5, 0, 10)  # three quarters of its box
    assert alike(notched, box(0, 0, 10, 10)) == pytest.approx(0.75)


def test_an_outline_that_crosses_itself_encloses_its_parts() -> None:
    bow = ring(Quad, 0, 0, 10, 10, 10, 0, 0, 10)  # two triangles of a quarter each
    assert alike(bow, box(0, 0, 10, 10)) == pytest.approx(0.5)


def test_a_line_is_the_same_in_both_directions_and_with_more_points() -> None:
    line = ring(Polyline, 0, 0, 100, 0)
    assert alike(line, ring(Polyline, 100, 0, 50, 0, 0, 0)) == pytest.approx(1)


def test_lines_agree_within_the_tube_and_not_beyond() -> None:
    tube = TUBE * DIAGONAL
    line = ring(Polyline, 0, 0, 400, 0)
    assert alike(line, ring(Polyline, 0, 0.9 * tube, 400, 0.9 * tube)) > 0.98
    assert alike(line, ring(Polyline, 0, 1.1 * tube, 400, 1.1 * tube)) == 0


def test_half_a_line_has_full_precision_and_half_recall() -> None:
    line, half = ring(Polyline, 0, 0, 400, 0), ring(Polyline, 0, 0, 200, 0)
    covered = (200 + TUBE * DIAGONAL) / 400
    assert alike(line, half) == pytest.approx(2 * covered / (1 + covered), rel=1e-3)


def test_lines_and_areas_are_never_alike() -> None:
    assert alike(ring(Polyline, 0, 0, 10, 10), box(0, 0, 10, 10)) == 0
    assert alike(box(0, 0, 10, 10), ring(Polyline, 0, 0, 10, 10)) == 0


def test_a_matrix_is_the_pairs_one_by_one_and_its_transpose_the_other_way() -> None:
    rng = np.random.default_rng(0)
    kinds: list[tuple[type[Shape], int]] = [(Box, 2), (Quad, 4), (Polygon, 6), (Polyline, 3)]
    shapes = [kind(rng.uniform(0, 60, (count, 2))) for kind, count in kinds * 4]
    whole = similarities(shapes, shapes[::-1], DIAGONAL)
    singly = np.array([[alike(one, two) for two in shapes[::-1]] for one in shapes])
    np.testing.assert_allclose(whole, singly, atol=1e-12)
    np.testing.assert_allclose(whole, similarities(shapes[::-1], shapes, DIAGONAL).T, atol=1e-9)
    assert ((whole >= 0) & (whole <= 1 + 1e-12)).all()


def test_nothing_against_something_is_an_empty_matrix() -> None:
    assert similarities([], [box(0, 0, 1, 1)], DIAGONAL).shape == (0, 1)
