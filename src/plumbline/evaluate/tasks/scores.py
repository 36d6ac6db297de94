"""Base and fine-tune on the same questions: paired differences, with one correction for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import binomtest

from plumbline.evaluate.divergence import as_base
from plumbline.evaluate.figures import holm, measure
from plumbline.evaluate.tasks.questions import Task
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Request
from plumbline.storage.objects import JsonObject

if TYPE_CHECKING:
    from plumbline.infer.local import TransformersEngine

MARGIN = 0.05
"""Of the base's score that may be lost."""
DRAWS = 2000


@dataclass(frozen=True)
class TaskAnswer:
    """What both models answered to one task, and whether it was right."""

    key: str
    group: str
    question: str
    base: str
    tuned: str
    base_right: bool
    tuned_right: bool


@dataclass(frozen=True)
class TaskScore:
    """The score of one group of tasks.

    Attributes:
        group: Its name.
        tasks: How many.
        base: Share that the base got right.
        tuned: Share that the fine-tune got right.
        low: End of the 95 % interval of the difference.
        high: End of it.
        p: Of no difference (McNemar, exact), adjusted over all groups (Holm).
        verdict: `not distinguishable` when no answer changed between right and wrong; `within margin` when the whole
            interval lies above the loss that may be; `drifted` when the loss is larger and significant; else
            `undecided`.
    """

    group: str
    tasks: int
    base: float
    tuned: float
    low: float
    high: float
    p: float
    verdict: Literal["not distinguishable", "within margin", "drifted", "undecided"]

    def as_dict(self) -> JsonObject:
        return asdict(self)


def answer_tasks(
    tasks: Sequence[Task],
    base: TransformersEngine,
    tuned: TransformersEngine,
    progress: Callable[[int], None] = lambda count: None,
) -> list[TaskAnswer]:
    """Both models answer every task. One engine may serve both sides, its adapter off for the base's."""
    requests = [task.question.request(Sampling(task.max_new_tokens)) for task in tasks]
    with as_base(base, shared=base is tuned):
        theirs = _texts(base, requests, progress)
    return compare_answers(tasks, theirs, _texts(tuned, requests, progress))


def _texts(engine: TransformersEngine, requests: Sequence[Request], progress: Callable[[int], None]) -> list[str]:
    found = []
    for start in range(0, len(requests), engine.batch_size):
        replies = engine.generate(requests[start : start + engine.batch_size])
        found += [reply.text for reply in replies]
        progress(len(replies))
    return found


def compare_answers(tasks: Sequence[Task], base: Sequence[str], tuned: Sequence[str]) -> list[TaskAnswer]:
    """The answers side by side."""
    return [
        TaskAnswer(
            task.question.key, task.group, task.question.text, theirs, mine, task.is_right(theirs), task.is_right(mine)
        )
        for task, theirs, mine in zip(tasks, base, tuned, strict=True)
    ]


def score_tasks(answers: Sequence[TaskAnswer], margin: float = MARGIN, seed: int = 0) -> list[TaskScore]:
    """A score for each group; margin: of the base's score that may be lost."""
    groups = list(dict.fromkeys(answer.group for answer in answers))
    pairs = {
        name: np.array(
            [(answer.base_right, answer.tuned_right) for answer in answers if answer.group == name], np.float64
        )
        for name in groups
    }
    adjusted = holm([_mcnemar(pairs[name]) for name in groups])
    return [_score(name, pairs[name], p, margin, seed) for name, p in zip(groups, adjusted, strict=True)]


def _mcnemar(pairs: np.ndarray) -> float:
    lost, gained = int((pairs[:, 0] > pairs[:, 1]).sum()), int((pairs[:, 0] < pairs[:, 1]).sum())
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def _score(name: str, pairs: np.ndarray, p: float, margin: float, seed: int) -> TaskScore:
    base, tuned = pairs.mean(axis=0)
    apart = (pairs[:, 1] - pairs[:, 0])[:, None]
    figure = measure(apart, lambda sums: {"difference": sums[..., 0] / len(pairs)}, DRAWS, seed)["difference"]
    assert figure.low is not None and figure.high is not None
    allowed = -margin * float(base)
    verdict: Literal["not distinguishable", "within margin", "drifted", "undecided"] = "undecided"
    if not apart.any():
        verdict = "not distinguishable"
    elif figure.low >= allowed:
        verdict = "within margin"
    elif p < 0.05 and float(tuned - base) < allowed:
        verdict = "drifted"
    return TaskScore(name, len(pairs), float(base), float(tuned), figure.low, figure.high, p, verdict)
