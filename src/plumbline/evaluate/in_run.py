"""What a model in training says at each evaluation: pictures described, anchors answered; rows in the run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import writing
from plumbline.evaluate.drift import Probe, annotated_probes, domain_words, leak_of, read_probes
from plumbline.infer.config import Sampling
from plumbline.storage.objects import JsonObject
from plumbline.train.config import TrainRun
from plumbline.train.preflight import card_of

if TYPE_CHECKING:
    from plumbline.train.callbacks import EvaluatedRun

ANSWERS = "answers.jsonl"
"""In the run folder. A run that is continued may write an evaluation again: the last row of a step and key counts."""
PICTURE, PROBE = "picture", "probe"
_BATCH = 4


@dataclass(frozen=True)
class _Asked:
    probe: Probe
    kind: str


class AnswersAtEvaluation:
    """An observer of a run: the same questions at each evaluation, every answer a row."""

    def __init__(self) -> None:
        self._asked: list[_Asked] | None = None
        self._words: frozenset[str] = frozenset()

    def __call__(self, at: EvaluatedRun) -> None:
        """Ask, and append the rows."""
        from plumbline.infer.local import TransformersEngine

        if self._asked is None:
            self._asked, self._words = list(_questions(at.run)), _words(at.run)
        if not self._asked:
            return
        begun = time.monotonic()
        engine = TransformersEngine.around(
            at.model, at.processor, batch_size=_BATCH, max_pixels=at.run.upstream.get("max_pixels")
        )
        sampling = Sampling(at.run.custom.eval_answers.max_new_tokens)
        replies = engine.generate([asked.probe.question.request(sampling) for asked in self._asked])
        seconds = round(time.monotonic() - begun, 1)
        rows = [
            self._row(asked, reply.text, at.step, seconds) for asked, reply in zip(self._asked, replies, strict=True)
        ]
        path = at.folder / ANSWERS
        with writing(path), path.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _row(self, asked: _Asked, text: str, step: int, seconds: float) -> JsonObject:
        question, answer = asked.probe.question, asked.probe.answer
        row: JsonObject = {"step": step, "kind": asked.kind, "key": question.key, "text": text, "expected": answer}
        row |= {"images": [question.policy.reference(image, question.folder) for image in question.images]}
        if asked.kind == PROBE:
            row |= {"question": question.text, "leak": leak_of(text, answer, question.text, self._words)}
        return row | {"emit_norm": asked.probe.emit_norm, "seconds": seconds}


def _questions(run: TrainRun) -> Iterator[_Asked]:
    """Pictures of the validation file, evenly spread, then the first anchors of each kind in turn."""
    custom, card = run.custom, card_of(run)
    if custom.val_jsonl and custom.eval_answers.pictures:
        for probe in annotated_probes(Path(custom.val_jsonl), card, custom.image_roots, custom.eval_answers.pictures):
            yield _Asked(probe, PICTURE)
    if custom.eval_answers.probes:
        for probe in _spread_cells(_anchors(run), custom.eval_answers.probes):
            yield _Asked(probe, PROBE)


def _anchors(run: TrainRun) -> list[Probe]:
    drift, fusion = run.custom.drift, run.custom.fusion
    files = [] if drift is None or drift.probe is None else [drift.probe]
    if not files and fusion is not None:
        files = [source.val_jsonl for source in fusion.sources if source.is_anchor and source.val_jsonl]
    roots = run.custom.image_roots
    return [probe for file in files for probe in read_probes(Path(file), None, card_of(run), roots)]


def _spread_cells(probes: Sequence[Probe], count: int) -> list[Probe]:
    """The first ones of each cell in turn."""
    cells = [[probe for probe in probes if probe.cell == cell] for cell in dict.fromkeys(p.cell for p in probes)]
    turns = [own[rank] for rank in range(len(probes)) for own in cells if rank < len(own)]
    return turns[:count]


def _words(run: TrainRun) -> frozenset[str]:
    return domain_words(Path(run.custom.val_jsonl)) if run.custom.val_jsonl else frozenset()
