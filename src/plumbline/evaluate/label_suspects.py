"""Annotations that are probably wrong, because the answers agree with each other and not with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from plumbline.data.record import DataObject
from plumbline.evaluate.descriptions import class_of
from plumbline.evaluate.matching import BACKGROUND, BUDGET_AT
from plumbline.evaluate.pairs import Pair
from plumbline.evaluate.run import Evaluation
from plumbline.evaluate.similarity import similarities
from plumbline.storage.objects import JsonObject

AGREED = 0.75
"""Two answers mean the same object from this similarity on."""

Kind = Literal["class", "place", "unannotated"]


@dataclass(frozen=True)
class LabelSuspect:
    """One annotation to look at.

    Attributes:
        picture: Index among the evaluation's pairs.
        place: `file:line` of the record.
        kind: `class`: the answers name another class in the same place; `place`: the same class, but elsewhere;
            `unannotated`: the answers name something where nothing is annotated.
        annotated: Index of the annotated object; None for `unannotated`.
        annotated_desc: Its description; empty for `unannotated`.
        described: Index of the described object.
        described_desc: Its description.
        agreement: How alike both answers are, or the answer and the annotated place when there is one answer.
    """

    picture: int
    place: str
    kind: Kind
    annotated: int | None
    annotated_desc: str
    described: int
    described_desc: str
    agreement: float

    def as_dict(self) -> JsonObject:
        """Plain values for JSON."""
        return {
            "place": self.place,
            "kind": self.kind,
            "annotated": self.annotated,
            "annotated_desc": self.annotated_desc,
            "described": self.described,
            "described_desc": self.described_desc,
            "agreement": round(self.agreement, 4),
        }


def label_suspects(mine: Evaluation, other: Evaluation | None = None) -> list[LabelSuspect]:
    """Suspects of all pictures, classes first, each kind by its agreement.

    With two models, an object counts that both describe: the same class, at least `AGREED` alike. With one, captions
    carry no confidence, so only another class at an annotated place counts, met at least that well.
    """
    found: list[LabelSuspect] = []
    for index, (pair, picture) in enumerate(zip(mine.files.pairs, mine.pictures, strict=True)):
        assert picture.errors is not None
        wrong = [number for number, kind in enumerate(picture.errors.kinds) if kind not in ("", "duplicate")]
        if wrong:
            theirs = None if other is None else other.files.pairs[index].found
            found += _suspects(index, pair, wrong, theirs)
    order = {"class": 0, "place": 1, "unannotated": 2}
    return sorted(found, key=lambda suspect: (order[suspect.kind], -suspect.agreement))


def _suspects(
    index: int, pair: Pair, wrong: list[int], theirs: tuple[DataObject, ...] | None
) -> Iterator[LabelSuspect]:
    described = [pair.found[number] for number in wrong]
    shapes = [item.shape for item in described]
    alike = similarities([item.shape for item in pair.truth], shapes, pair.diagonal)
    agreements = None if theirs is None else _agreements(described, theirs, pair.diagonal)
    for column, number in enumerate(wrong):
        desc = described[column].desc
        nearest = int(alike[:, column].argmax()) if pair.truth else None
        likeness = float(alike[nearest, column]) if nearest is not None else 0.0
        agreement = likeness if agreements is None else agreements[column]
        if agreement < AGREED:
            continue
        is_same = nearest is not None and class_of(pair.truth[nearest].desc) == class_of(desc)
        kind = _kind(likeness, is_same, has_two=agreements is not None)
        if kind is not None:
            row = None if kind == "unannotated" else nearest
            annotated = "" if row is None else pair.truth[row].desc
            yield LabelSuspect(index, pair.place, kind, row, annotated, number, desc, agreement)


def _agreements(mine: list[DataObject], theirs: tuple[DataObject, ...], diagonal: float) -> list[float]:
    """The most alike object of the same class among the other's, for each of mine; 0 without one."""
    alike = similarities([item.shape for item in theirs], [item.shape for item in mine], diagonal)
    return [
        max(
            (
                float(alike[row, column])
                for row, other in enumerate(theirs)
                if class_of(other.desc) == class_of(item.desc)
            ),
            default=0.0,
        )
        for column, item in enumerate(mine)
    ]


def _kind(likeness: float, is_same_class: bool, *, has_two: bool) -> Kind | None:
    if likeness >= BUDGET_AT:
        return None if is_same_class else "class"
    if not has_two:
        return None
    if likeness < BACKGROUND:
        return "unannotated"
    return "place" if is_same_class else None
