"""Which found object is which true one, and what every other one is: the error budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from plumbline.evaluate.similarity import LEAST, Matrix

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
BUDGET_AT = THRESHOLDS[0]
BACKGROUND = LEAST
"""Below this similarity to everything, a found object is a ghost."""

ERROR_KINDS = ("missed", "ghost", "duplicate", "localisation", "class", "both")

Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Errors:
    """What went wrong on one picture at `BUDGET_AT`.

    Attributes:
        matched: (indices of true objects, indices of found ones) that are right.
        kinds: Error of each found object; "" where it is right.
        partners: Index of the true object that an error belongs to, -1 where none is left for it.
        missed: Indices of the true objects that nothing stands for.
    """

    matched: Pairs
    kinds: tuple[str, ...]
    partners: tuple[int, ...]
    missed: tuple[int, ...]


def match(similarity: Matrix, allowed: NDArray[np.bool_], threshold: float) -> Pairs:
    """The most pairs of at least `threshold`, of those the most alike (Hungarian method).

    Args:
        similarity: float64 [T, F].
        allowed: bool [T, F], pairs that may be; those of one class, say.
        threshold: Least similarity of a pair.

    Returns:
        Indices of true and of found objects, a pair per position.
    """
    able = allowed & (similarity >= threshold)
    if not able.any():
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    if able.sum(axis=0).max() == 1 and able.sum(axis=1).max() == 1:
        rows, columns = np.nonzero(able)
        return rows, columns
    # One pair more outweighs any gain in similarity.
    rows, columns = linear_sum_assignment(np.where(able, similarity + len(similarity), 0.0), maximize=True)
    kept = able[rows, columns]
    return rows[kept], columns[kept]


def hits_at_all(similarity: Matrix, allowed: NDArray[np.bool_]) -> list[int]:
    """How many pairs `match` finds at each of `THRESHOLDS`."""
    able = allowed & (similarity >= BUDGET_AT)
    if not able.any():
        return [0] * len(THRESHOLDS)
    if able.sum(axis=0).max() == 1 and able.sum(axis=1).max() == 1:  # nothing to choose, at no threshold
        return (similarity[able][:, None] >= THRESHOLDS).sum(axis=0).tolist()
    return [len(match(similarity, allowed, threshold)[0]) for threshold in THRESHOLDS]


def find_errors(similarity: Matrix, same_class: NDArray[np.bool_]) -> Errors:
    """Sort every found and every true object of a picture.

    A found object that is not right is a `duplicate` (of a true one that another stands for), or by what it is most
    alike: of another `class` in the right place, of the right class at the wrong place (`localisation`), `both`, or a
    `ghost`. A true object that neither a right one nor one of these stands for is `missed`. The kinds are those of
    TIDE (Bolya et al. 2020), the places in order of similarity, each true object in one error at most.
    """
    truths, founds = similarity.shape
    matched = match(similarity, same_class, BUDGET_AT)
    taken = set(matched[0].tolist())
    kinds = ["" if index in set(matched[1].tolist()) else "ghost" for index in range(founds)]
    partners = [-1] * founds
    open_ones = [index for index in range(founds) if kinds[index]]
    for index in open_ones:
        if any(similarity[row, index] >= BUDGET_AT and same_class[row, index] for row in taken):
            kinds[index] = "duplicate"
    close = [
        (-similarity[row, index], row, index)
        for index in open_ones
        if kinds[index] == "ghost"
        for row in range(truths)
        if similarity[row, index] >= BACKGROUND
    ]
    standing: set[int] = set()
    for negative, row, index in sorted(close):
        name = _kind(-negative, bool(same_class[row, index]))
        if kinds[index] == "ghost":
            kinds[index] = name  # what it is most alike, should no true object be left for it
        if partners[index] < 0 and row not in taken and row not in standing:
            kinds[index], partners[index] = name, row
            standing.add(row)
    missed = tuple(row for row in range(truths) if row not in taken and row not in standing)
    return Errors(matched, tuple(kinds), tuple(partners), missed)


def _kind(similarity: float, is_same_class: bool) -> str:
    if similarity >= BUDGET_AT:
        return "class"
    return "localisation" if is_same_class else "both"
