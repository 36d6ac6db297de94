"""Evaluation of a file of predictions: pair, count on every core, measure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from plumbline.data.summary_items import read_statistics
from plumbline.errors import DataError, Problem
from plumbline.evaluate.coco import coco_boxes
from plumbline.evaluate.counts import PictureCounts, count_picture
from plumbline.evaluate.figures import BOOTSTRAPS, Difference, Figure, FiguresOf, compare, dense_figures, measure
from plumbline.evaluate.pairs import NO_ROW, Pair, PairedFile, pair_files
from plumbline.evaluate.scale import wrong_scale
from plumbline.evaluate.similarity import Matrix
from plumbline.evaluate.summaries import count_summary, summary_figures
from plumbline.forked import cores, forked_map, paused_collection
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown_path

Mode = Literal["dense", "summary"]
Key = TypeVar("Key")
_CHUNK = 64
_LEAST_PER_PROCESS = 200
"""Pictures below which a second process costs more than it saves."""


@dataclass(frozen=True)
class ScoredGroup:
    """One class, kind of geometry or size at IoU 0.5: annotated, found and right objects."""

    name: str
    truth: int
    found: int
    right: int

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.truth + self.found)


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        mode: `dense` or `summary`.
        files: Both sides, by picture.
        counts: float64 [P, K], a row per picture of `files`; what bootstraps and comparisons are made of.
        figures: By name, with intervals over pictures.
        pictures: Details of every picture, dense mode only.
        groups: Dimension (class, kind, size) -> its groups, most annotated first.
        confusion: (annotated class, described class) in the same place; "" for none.
        keys: Attribute key -> (right, annotated).
        coco: AP and AR of upright boxes.
        notes: What a reader must know before the figures.
    """

    mode: Mode
    files: PairedFile
    counts: Matrix
    figures: dict[str, Figure]
    pictures: tuple[PictureCounts, ...] = ()
    groups: dict[str, tuple[ScoredGroup, ...]] = field(default_factory=dict)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    coco: dict[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def figures_of(self) -> FiguresOf:
        return dense_figures if self.mode == "dense" else summary_figures

    def as_dict(self) -> JsonObject:
        """Plain values for JSON."""
        return {
            "mode": self.mode,
            "truth": str(self.files.truth),
            "predictions": str(self.files.predictions),
            "pictures": len(self.files.pairs),
            "missing": self.files.missing,
            "left_out": dict(self.files.left_out),
            "extra": len(self.files.extra),
            "figures": {name: figure.as_dict() for name, figure in self.figures.items()},
            "groups": {
                dimension: {
                    group.name: {"truth": group.truth, "found": group.found, "right": group.right, "f1": group.f1}
                    for group in groups
                }
                for dimension, groups in self.groups.items()
            },
            "confusion": [[*classes, count] for classes, count in self.confusion.most_common()],
            "attribute_keys": {key: {"right": right, "truth": truth} for key, (right, truth) in self.keys.items()},
            "coco_boxes": self.coco,
            "notes": list(self.notes),
        }


def evaluate_file(
    truth: Path,
    predictions: Path,
    *,
    mode: Mode | None = None,
    limit: int | None = None,
    bootstraps: int = BOOTSTRAPS,
    seed: int = 0,
) -> Evaluation:
    """Measure predictions against annotations.

    Args:
        truth: JSONL of the contract.
        predictions: Rows of `plumbline infer`, or records of another tool.
        mode: What the answers are; found out from both files when left out.
        limit: Only the first records.
        bootstraps: Draws of the intervals; 0 for none.
        seed: Of the draws.

    Raises:
        DataError: The files do not belong together, or hold nothing of the mode.
    """
    with paused_collection():
        files = pair_files(truth, predictions, limit=limit)
    mode = mode or _mode_of(files)
    if mode == "summary":
        return _evaluate_summaries(files, bootstraps, seed)
    return _evaluate_objects(files, bootstraps, seed)


def compare_evaluations(
    mine: Evaluation, other: Evaluation, bootstraps: int = BOOTSTRAPS, seed: int = 0
) -> dict[str, Difference]:
    """Paired differences, mine less other. Raises DataError unless both measured the same pictures the same way."""
    if mine.mode != other.mode or [pair.key for pair in mine.files.pairs] != [pair.key for pair in other.files.pairs]:
        what = f"measures other pictures or another mode than {shown_path(mine.files.predictions)}"
        raise DataError(Problem(shown_path(other.files.predictions), what, "compare predictions of one file"))
    return compare(mine.counts, other.counts, mine.figures_of, bootstraps, seed)


def _mode_of(files: PairedFile) -> Mode:
    """Summaries are annotated and the replies are no objects; otherwise objects."""
    if any(pair.found for pair in files.pairs) or not any(pair.summary for pair in files.pairs):
        return "dense"
    texts = [pair.text.strip() for pair in files.pairs if pair.text.strip()]
    objects = sum(text.startswith("{") and read_statistics(text) is None for text in texts)
    return "summary" if texts and 2 * objects < len(texts) else "dense"


def _evaluate_summaries(files: PairedFile, bootstraps: int, seed: int) -> Evaluation:
    bare = sum(pair.summary is None for pair in files.pairs)
    pairs = tuple(pair for pair in files.pairs if pair.summary is not None)
    if not pairs:
        raise DataError(Problem(shown_path(files.truth), "has no summary to compare with", "leave --mode out"))
    left_out = files.left_out + Counter({"records without a summary": bare})
    files = PairedFile(pairs, files.truth, files.predictions, left_out, files.extra)
    counts = np.array([count_summary(pair) for pair in pairs])
    return Evaluation(
        "summary", files, counts, measure(counts, summary_figures, bootstraps, seed), notes=tuple(_notes(files))
    )


def _evaluate_objects(files: PairedFile, bootstraps: int, seed: int) -> Evaluation:
    pictures = tuple(_count_all(files.pairs))
    counts = np.array([picture.row for picture in pictures])
    groups: dict[tuple[str, str], list[int]] = {}
    keys: dict[str, list[int]] = {}
    confusion: Counter[tuple[str, str]] = Counter()
    for picture in pictures:
        confusion.update(picture.confusion)
        _add_up(groups, picture.groups)
        _add_up(keys, picture.keys)
    notes = _notes(files)
    if (scale := wrong_scale(files.pairs)) is not None:
        notes.insert(0, f"the coordinates look like {scale}: check `emit_norm` of the model that wrote them")
    return Evaluation(
        "dense",
        files,
        counts,
        measure(counts, dense_figures, bootstraps, seed),
        pictures,
        _grouped(groups),
        confusion,
        {key: (right, truth) for key, (right, truth) in sorted(keys.items(), key=lambda item: -item[1][1])},
        coco_boxes(files.pairs),
        tuple(notes),
    )


def _count_all(pairs: tuple[Pair, ...]) -> list[PictureCounts]:
    processes = min(cores(), len(pairs) // _LEAST_PER_PROCESS)
    chunks = range(0, len(pairs), _CHUNK)

    def count(start: int) -> list[PictureCounts]:
        return [count_picture(pair) for pair in pairs[start : start + _CHUNK]]

    return [counts for chunk in forked_map(count, chunks, processes) for counts in chunk]


def _add_up(into: dict[Key, list[int]], own: dict[Key, list[int]]) -> None:
    for key, amounts in own.items():
        known = into.setdefault(key, [0] * len(amounts))
        for index, amount in enumerate(amounts):
            known[index] += amount


def _grouped(groups: dict[tuple[str, str], list[int]]) -> dict[str, tuple[ScoredGroup, ...]]:
    found: dict[str, list[ScoredGroup]] = {"class": [], "kind": [], "size": []}
    for (dimension, name), (truth, predicted, right) in groups.items():
        found[dimension].append(ScoredGroup(name, truth, predicted, right))
    return {
        dimension: tuple(sorted(own, key=lambda group: (-group.truth, group.name))) for dimension, own in found.items()
    }


def _notes(files: PairedFile) -> list[str]:
    notes = [f"left out: {count} {why}" for why, count in files.left_out.items() if count]
    if files.missing:
        notes.append(f"{files.missing} pictures have no prediction: all of their objects count as missed")
    if files.extra:
        notes.append(f"{len(files.extra)} predictions are of pictures without annotations, and are not measured")
    failed = Counter(pair.status for pair in files.pairs if pair.status not in ("ok", NO_ROW))
    notes += [f"{count} replies are {status}" for status, count in failed.most_common()]
    return notes
