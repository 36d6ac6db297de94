"""What one picture adds to every figure, as a row of numbers: figures of any set of pictures are sums of rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from plumbline.evaluate.descriptions import MAX_LEVELS, class_of, compare_descriptions
from plumbline.evaluate.matching import BUDGET_AT, ERROR_KINDS, THRESHOLDS, Errors, find_errors, hits_at_all, match
from plumbline.evaluate.pairs import Pair
from plumbline.evaluate.similarity import Matrix, similarities

COLUMNS = (
    "pictures",
    "truth",
    "found",
    *(f"hits_{threshold:.2f}" for threshold in THRESHOLDS),
    "places",
    *ERROR_KINDS,
    *(f"{kind}_mendable" for kind in ("localisation", "class", "both")),
    "pairs",
    "exact",
    *(f"level_{level}" for level in range(1, MAX_LEVELS + 1)),
    *(f"level_{level}_right" for level in range(1, MAX_LEVELS + 1)),
    "attributes_right",
    "attributes_truth",
    "attributes_found",
    "ghost_mentions",
    "ghost_pictures",
    "empty",
    "empty_alarms",
    "replies",
    "replies_whole",
)
COLUMN = {name: index for index, name in enumerate(COLUMNS)}

SIZES = ((32**2, "small"), (96**2, "medium"), (float("inf"), "large"))
"""By the area of the upright box around an object, as COCO divides them."""


@dataclass
class PictureCounts:
    """One picture.

    Attributes:
        row: float64 [K], by `COLUMNS`.
        groups: (dimension, name) -> [annotated, found, right] at IoU 0.5; dimensions: class, kind, size.
        confusion: (annotated class, described class) of objects in the same place; "" where one side has none.
        keys: Attribute key -> [right, annotated].
        errors: Of every object, for the gallery.
    """

    row: Matrix
    groups: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    keys: dict[str, list[int]] = field(default_factory=dict)
    errors: Errors | None = None


def count_picture(pair: Pair) -> PictureCounts:
    """Everything that is counted on one picture."""
    truth, found = pair.truth, pair.found
    classes_t, classes_f = ([class_of(item.desc) for item in side] for side in (truth, found))
    similarity = similarities([item.shape for item in truth], [item.shape for item in found], pair.diagonal)
    same = np.array([[mine == theirs for theirs in classes_f] for mine in classes_t], dtype=bool)
    same = same.reshape(len(truth), len(found))
    counts = PictureCounts(np.zeros(len(COLUMNS)))
    _add(counts, pictures=1, truth=len(truth), found=len(found), replies=1, replies_whole=pair.status == "ok")
    counts.errors = find_errors(similarity, same)
    _count_hits(counts, similarity, same)
    _count_errors(counts, counts.errors)
    places = match(similarity, np.ones_like(same), BUDGET_AT)
    _count_places(counts, pair, places, (classes_t, classes_f))
    _count_groups(counts, pair, (classes_t, classes_f))
    _count_ghosts(counts, classes_t, classes_f)
    return counts


def _add(counts: PictureCounts, **amounts: float) -> None:
    for name, amount in amounts.items():
        counts.row[COLUMN[name]] += amount


def _count_hits(counts: PictureCounts, similarity: Matrix, same: np.ndarray) -> None:
    start = COLUMN[f"hits_{BUDGET_AT:.2f}"]
    counts.row[start : start + len(THRESHOLDS)] = hits_at_all(similarity, same)


def _count_errors(counts: PictureCounts, errors: Errors) -> None:
    _add(counts, missed=len(errors.missed))
    for kind, partner in zip(errors.kinds, errors.partners, strict=True):
        if kind:
            _add(counts, **{kind: 1})
        if partner >= 0:
            _add(counts, **{f"{kind}_mendable": 1})


def _count_places(
    counts: PictureCounts,
    pair: Pair,
    places: tuple[np.ndarray, np.ndarray],
    classes: tuple[list[str], list[str]],
) -> None:
    """Descriptions and confusions of the objects in the same place, whatever their class."""
    rows, columns = (side.tolist() for side in places)
    _add(counts, places=len(rows), pairs=len(rows))
    for row, column in zip(rows, columns, strict=True):
        counts.confusion[classes[0][row], classes[1][column]] += 1
        compared = compare_descriptions(pair.truth[row].desc, pair.found[column].desc)
        _add(counts, exact=compared.is_exact)
        for level, (annotated, right) in enumerate(compared.levels, 1):
            _add(counts, **{f"level_{level}": annotated, f"level_{level}_right": right})
        right, annotated, described = compared.attributes
        _add(counts, attributes_right=right, attributes_truth=annotated, attributes_found=described)
        for key, is_right in compared.keys:
            known = counts.keys.setdefault(key, [0, 0])
            known[0] += is_right
            known[1] += 1
    for row in set(range(len(classes[0]))) - set(rows):
        counts.confusion[classes[0][row], ""] += 1
    for column in set(range(len(classes[1]))) - set(columns):
        counts.confusion["", classes[1][column]] += 1


def _count_groups(counts: PictureCounts, pair: Pair, classes: tuple[list[str], list[str]]) -> None:
    """Annotated, found and right objects by class, kind of geometry and size."""
    assert counts.errors is not None
    right = [set(side.tolist()) for side in counts.errors.matched]
    for number, (side, names) in enumerate(zip((pair.truth, pair.found), classes, strict=True)):
        for index, (item, name) in enumerate(zip(side, names, strict=True)):
            x1, y1, x2, y2 = item.shape.bounds()
            size = next(label for limit, label in SIZES if (x2 - x1) * (y2 - y1) < limit)
            for key in (("class", name), ("kind", item.shape.kind), ("size", size)):
                group = counts.groups.setdefault(key, [0, 0, 0])
                group[number] += 1
                # Counted on the annotated side: kinds and sizes of a pair may differ.
                group[2] += number == 0 and index in right[0]


def _count_ghosts(counts: PictureCounts, truth: list[str], found: list[str]) -> None:
    """Objects whose class is nowhere on the picture (CHAIR), and objects on pictures without any."""
    ghosts = sum(name not in truth for name in found)
    _add(counts, ghost_mentions=ghosts, ghost_pictures=ghosts > 0)
    if not truth:
        _add(counts, empty=1, empty_alarms=bool(found))
