"""How far a model is from its base: divergence on the base's answers, and leaks of the domain into other answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import binomtest

from plumbline.data.answer_kinds import KINDS
from plumbline.data.dataset import DatasetSettings, RecordDataset, RecordFile
from plumbline.data.parse import parse_answer
from plumbline.data.read import read_records
from plumbline.errors import DataError, Problem
from plumbline.evaluate.descriptions import class_of
from plumbline.evaluate.divergence import divergence, vision_change
from plumbline.evaluate.figures import CONFIDENCE, Figure, measure
from plumbline.evaluate.tasks.scores import TaskScore
from plumbline.infer.config import InferSettings, Sampling
from plumbline.infer.inputs import policy_of
from plumbline.infer.questions import Question, read_chats
from plumbline.model.checkpoints import Card
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown_path

if TYPE_CHECKING:
    from plumbline.infer.local import TransformersEngine

CELLS = {
    "training": "training photos, other questions",
    "photos": "other photos, other questions",
    "text": "no photo",
    "chats": "chats of another origin",
    "domain": "training photos, the trained question",
}
"""What the probes of a cell are, by the mark that `anchors build` leaves; `domain` is expected to move."""
DRAWS = 2000
_LEAST_WORD = 2
"""Characters of a class that counts as a word of the domain."""

Verdict = Literal["not distinguishable", "within margin", "drifted", "undecided"]
NOISE = 3.0
"""A divergence up to this many times that of the base from itself is none."""


@dataclass(frozen=True)
class Probe:
    """A question with the answer that the base gave (of `domain`: the annotated one).

    emit_norm: of the coordinates of an annotated answer; empty where it has none.
    """

    question: Question
    answer: str
    cell: str
    emit_norm: str = ""


@dataclass(frozen=True)
class ProbeScore:
    """What was measured on a probe.

    Attributes:
        key: Its question's.
        cell: One of `CELLS`.
        tokens: Of the answer.
        kl: Forward KL from the base to the tuned model, summed over these tokens, in nats.
        kinds: (tokens, kl) of each kind of token.
        noise: The same sum between the base and itself, read behind other shapes.
        gain: What the answer has become likelier by, in nats.
        vision: Relative change of each merger's features, the last merger first; empty without a picture.
        leak: What of the domain is in the tuned model's own answer and not in the base's; empty for nothing.
        text: The tuned model's answer; empty where none was asked for.
    """

    key: str
    cell: str
    tokens: int
    kl: float
    kinds: tuple[tuple[int, float], ...] = ()
    noise: float = 0.0
    gain: float = 0.0
    vision: tuple[float, ...] = ()
    leak: str = ""
    text: str = ""


@dataclass(frozen=True)
class Margins:
    """What still counts as the same. kl: nats per token; leak: share of answers; tasks: part of the base's score."""

    kl: float = 0.05
    leak: float = 0.05
    tasks: float = 0.05


@dataclass(frozen=True)
class CellDrift:
    """What was measured in one cell.

    Attributes:
        name: One of `CELLS`.
        probes: How many.
        kl: Forward KL in nats per token, with its interval over probes.
        kl_verdict: What it says.
        noise: The same between the base and itself.
        gain: What its answers have become likelier by, in nats per token: in the domain, what was learned.
        by_kind: KL per token of each kind of token that occurs.
        vision: Mean relative change of each merger's features, the last merger first; empty without pictures.
        leak: Share of answers with a leak; None in the domain.
        leak_verdict: What it says.
    """

    name: str
    probes: int
    kl: Figure
    kl_verdict: Verdict
    noise: float
    gain: float
    by_kind: Mapping[str, float]
    vision: tuple[float, ...] = ()
    leak: Figure | None = None
    leak_verdict: Verdict | None = None

    @property
    def has_drifted(self) -> bool:
        return "drifted" in (self.kl_verdict, self.leak_verdict)

    def as_dict(self) -> JsonObject:
        return asdict(self)


def read_probes(anchors: Path, domain: Path | None, card: Card, image_roots: Sequence[str] = ()) -> list[Probe]:
    """The base's answers as probes, and the annotated answers of the domain.

    Raises DataError when a chat of the anchors has no answer.
    """
    settings = InferSettings(model=Path(), input=anchors, output=Path("-"), image_roots=tuple(image_roots))
    found = []
    for question in read_chats(settings):
        if question.reference is None:
            raise DataError(Problem(f"{shown_path(anchors)}:{question.key}", "has no answer of the base", "build it"))
        mark = question.metadata.get("anchor")
        found.append(Probe(question, question.reference, mark if mark in CELLS else "chats"))
    if not found:
        raise DataError(Problem(shown_path(anchors), "holds no chat", "plumbline anchors build --val FILE"))
    return found + ([] if domain is None else list(annotated_probes(domain, card, image_roots)))


def annotated_probes(
    domain: Path, card: Card, image_roots: Sequence[str] = (), most: int | None = None
) -> Iterator[Probe]:
    """Records with their annotated answers; most: so many of them, evenly spread."""
    policy = policy_of(domain, image_roots)
    mode = "summary" if card.mode == "summary" else "dense"
    settings = DatasetSettings(
        mode, card.prompts, card.emit_norm, card.object_ordering, policy=policy, form=card.answer
    )
    dataset = RecordDataset(RecordFile(domain), settings)
    count = len(dataset) if most is None else min(most, len(dataset))
    for index in (len(dataset) * number // count for number in range(count)):
        sample = dataset.item(index)
        *turns, answer = sample.messages
        question = Question(f"domain:{index + 1}", tuple(turns), tuple(sample.images), domain.parent, policy)
        yield Probe(question, str(answer["content"]), "domain", card.emit_norm if mode == "dense" else "")


def domain_words(domain: Path | None) -> frozenset[str]:
    """The classes of a file: what has no place in an answer about something else."""
    if domain is None:
        return frozenset()
    names = {class_of(item.desc) for record in read_records(domain) for item in record.objects}
    return frozenset(name for name in names if len(name) >= _LEAST_WORD)


def leak_of(text: str, base: str, question: str, words: frozenset[str]) -> str:
    """What of the domain is in an answer that should have nothing of it: its format, or a word; empty for nothing."""
    if any(item.numbers for item in parse_answer(text).objects) and not parse_answer(base).objects:
        return "objects with coordinates"
    return next((word for word in sorted(words) if word in text and word not in base and word not in question), "")


def score_probes(
    probes: Sequence[Probe],
    base: TransformersEngine,
    tuned: TransformersEngine,
    words: frozenset[str],
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[ProbeScore]:
    """Measure every probe: both models read the base's answer, and the tuned one answers for itself.

    base and tuned may be one engine with an adapter, which is then switched off for the base's side.
    """
    for probe in probes:
        question = probe.question
        request = question.request(Sampling(max_new_tokens))
        apart = divergence(request, probe.answer, base, tuned)
        vision = tuple(vision_change(request, base, tuned)) if request.images else ()
        text = "" if probe.cell == "domain" else tuned.generate([request])[0].text
        leak = leak_of(text, probe.answer, question.text, words)
        yield ProbeScore(
            question.key, probe.cell, apart.tokens, apart.kl, apart.kinds, apart.noise, apart.gain, vision, leak, text
        )
        progress(1)


def cells_of(scores: Sequence[ProbeScore], margins: Margins, seed: int = 0) -> list[CellDrift]:
    """Figures and verdicts by cell, in the order of `CELLS`."""
    found = {name: [score for score in scores if score.cell == name] for name in CELLS}
    return [_cell(name, own, margins, seed) for name, own in found.items() if own]


def _cell(name: str, own: Sequence[ProbeScore], margins: Margins, seed: int) -> CellDrift:
    tokens = np.array([score.tokens for score in own], dtype=np.float64)
    kl = _ratio(np.array([score.kl for score in own]), tokens, seed)
    noise = max(sum(score.noise for score in own), 0.0) / float(tokens.sum())
    seen = [score.vision for score in own if score.vision]
    parts = CellDrift(
        name,
        len(own),
        kl,
        _verdict(kl, margins.kl, NOISE * noise) if name != "domain" else "undecided",
        noise,
        sum(score.gain for score in own) / float(tokens.sum()),
        _by_kind(own),
        tuple(np.mean(seen, axis=0).tolist()) if seen else (),
    )
    if name == "domain":
        return parts
    leak = _share(sum(bool(score.leak) for score in own), len(own))
    return replace(parts, leak=leak, leak_verdict=_verdict(leak, margins.leak))


def _share(part: int, whole: int) -> Figure:
    """A share with its exact interval: no leak among a few answers does not say that there is none."""
    interval = binomtest(part, whole).proportion_ci(CONFIDENCE)
    return Figure(part / whole, float(interval.low), float(interval.high))


def _by_kind(scores: Sequence[ProbeScore]) -> dict[str, float]:
    sums = np.array([score.kinds for score in scores], dtype=np.float64).sum(axis=0)  # [kinds, (tokens, kl)]
    return {name: float(kl / tokens) for name, (tokens, kl) in zip(KINDS, sums, strict=True) if tokens}


def _ratio(parts: np.ndarray, wholes: np.ndarray, seed: int) -> Figure:
    """A ratio of sums with its bootstrap interval over probes."""
    counts = np.stack([parts, wholes], axis=1)
    return measure(counts, lambda sums: {"ratio": sums[..., 0] / sums[..., 1]}, DRAWS, seed)["ratio"]


def _verdict(figure: Figure, margin: float, none: float = -1.0) -> Verdict:
    """none: up to here there is no difference at all."""
    assert figure.low is not None and figure.high is not None
    if figure.high <= none:
        return "not distinguishable"
    if figure.high <= margin:
        return "within margin"
    return "drifted" if figure.low > margin else "undecided"


def result_of(
    cells: Sequence[CellDrift], scores: Sequence[ProbeScore], tasks: Sequence[TaskScore], margins: Margins
) -> JsonObject:
    """Plain values for JSON."""
    return {
        "margins": asdict(margins),
        "cells": {cell.name: cell.as_dict() for cell in cells},
        "tasks": {task.group: task.as_dict() for task in tasks},
        "drifted": [cell.name for cell in cells if cell.has_drifted]
        + [f"tasks {task.group}" for task in tasks if task.verdict == "drifted"],
        "leaks": [asdict(score) for score in scores if score.leak],
    }


def dumped(result: JsonObject) -> str:
    """The result as a file's text."""
    return json.dumps(result, ensure_ascii=False, indent=1) + "\n"
