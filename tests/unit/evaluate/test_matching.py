"""Which object is which, and what the others are."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from plumbline.evaluate.matching import THRESHOLDS, find_errors, hits_at_all, match

SAME = np.array([[True]])

matrices = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.2, 0.5, 0.6, 0.72, 0.95, 1.0])),
        arrays(np.bool_, shape),
    )
)


def most_pairs(able: np.ndarray) -> int:
    """By trying every assignment."""
    wide = able if able.shape[0] <= able.shape[1] else able.T
    rows, columns = wide.shape
    return max(sum(wide[row, order[row]] for row in range(rows)) for order in permutations(range(columns), rows))


@given(matrices)
def test_no_assignment_has_more_pairs(given_matrix: tuple[np.ndarray, np.ndarray]) -> None:
    similarity, allowed = given_matrix
    for threshold, hits in zip(THRESHOLDS, hits_at_all(similarity, allowed), strict=True):
        rows, columns = match(similarity, allowed, threshold)
        assert hits == len(rows) == most_pairs(allowed & (similarity >= threshold))
        assert len({*rows.tolist()}) == len({*columns.tolist()}) == len(rows)
        assert (similarity[rows, columns] >= threshold).all() and allowed[rows, columns].all()


@given(matrices)
def test_every_object_has_one_place_in_the_budget(given_matrix: tuple[np.ndarray, np.ndarray]) -> None:
    similarity, same = given_matrix
    errors = find_errors(similarity, same)
    right_rows, right_columns = (set(side.tolist()) for side in errors.matched)
    assert {index for index, kind in enumerate(errors.kinds) if not kind} == right_columns
    partners = [row for row in errors.partners if row >= 0]
    assert len(set(partners)) == len(partners), "a true object in one error at most"
    assert sorted([*right_rows, *partners, *errors.missed]) == list(range(len(similarity)))


def test_the_better_of_two_is_right_and_the_other_a_duplicate() -> None:
    errors = find_errors(np.array([[0.7, 0.9]]), np.array([[True, True]]))
    assert errors.kinds == ("duplicate", "") and errors.missed == ()


def test_kinds_by_place_and_class() -> None:
    for similarity, same, kind in (
        (0.8, False, "class"),
        (0.3, True, "localisation"),
        (0.3, False, "both"),
        (0.05, True, "ghost"),
    ):
        errors = find_errors(np.array([[similarity]]), np.array([[same]]))
        assert errors.kinds == (kind,)
        assert errors.missed == ((0,) if kind == "ghost" else ())


def test_a_second_wrong_one_takes_no_truth() -> None:
    errors = find_errors(np.array([[0.4, 0.3]]), np.array([[True, True]]))
    assert errors.kinds == ("localisation", "localisation") and errors.partners == (0, -1)


def test_what_is_not_described_is_missed() -> None:
    assert find_errors(np.zeros((2, 0)), np.zeros((2, 0), dtype=bool)).missed == (0, 1)
