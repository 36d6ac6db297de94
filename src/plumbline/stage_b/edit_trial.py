"""An edit before the gate: verdicts on the gate tickets under the guidance as it is and as it would be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from plumbline.errors import UserError
from plumbline.infer.engine import Engine
from plumbline.infer.runner import Answered, RunReport, run_work
from plumbline.stage_b.config import RunnerConfig
from plumbline.stage_b.estimate import prompt_tokens
from plumbline.stage_b.gate import ACCEPT, UNVERIFIED, AlphaBudget, Counts, decide
from plumbline.stage_b.guidance import Edit, Guidance, apply_edit, now
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.rollout import Items, Rollouts, candidates_of, selections
from plumbline.stage_b.tickets import Tickets
from plumbline.stage_b.verdict import VERDICT_OF_LABEL
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_rows

GATE = "gate"
"""The split that decides about edits."""
ROUNDING = 1e-9


@dataclass
class Budget:
    """What may still be spent; None for any amount.

    left: questions. tokens: read and written; a question has about `prompt_tokens`. until: `time.monotonic()` after
    which nothing is sent.
    """

    left: int | None = None
    tokens: float | None = None
    until: float | None = None
    prompt_tokens: float = 0.0

    @classmethod
    def of(cls, rules: RunnerConfig) -> Self:
        """What a configuration allows one command."""
        tokens = [] if rules.max_tokens is None else [float(rules.max_tokens)]
        if rules.max_price is not None:
            tokens.append(rules.max_price / rules.price_per_million_tokens * 1e6)
        until = None if rules.max_hours is None else time.monotonic() + 3600 * rules.max_hours
        return cls(rules.max_calls, min(tokens, default=None), until)

    def reading(self, run: MissionRun) -> Self:
        """The same budget, which knows how long this run's questions are."""
        if self.tokens is not None:
            self.prompt_tokens = prompt_tokens(run)
        return self

    @property
    def most(self) -> int | None:
        """Questions that may be sent now."""
        return 0 if self._is_used_up else self.left

    @property
    def _is_used_up(self) -> bool:
        is_late = self.until is not None and time.monotonic() >= self.until
        return is_late or (self.tokens is not None and self.tokens <= 0)

    def spend(self, calls: int) -> None:
        """Count questions; their tokens are counted by `take`."""
        if self.left is not None:
            self.left = max(0, self.left - calls)

    def take(self, tokens: int) -> None:
        """Count the tokens of a question and of its reply."""
        if self.tokens is not None:
            self.tokens -= self.prompt_tokens + tokens

    def ends(self, found: Answered) -> bool:
        """Count what a row took; whether nothing more may be sent."""
        if found.request is not None and not found.is_known:
            self.take(found.tokens)
        return self._is_used_up


@dataclass
class Tried:
    """What came of an edit. decision: its row among the edits; None where the run was stopped before it."""

    decision: JsonObject | None = None
    reports: list[RunReport] = field(default_factory=list)


def try_edit(
    run: MissionRun,
    edit: Edit,
    engine: Callable[[], Engine],
    budget: Budget,
    *,
    source: str,
    progress: Callable[[int], None] = lambda count: None,
) -> Tried:
    """Test an edit and, where the gate accepts it, make it the guidance.

    An edit that was tested under this guidance on these gate tickets is not tested again; other gate tickets give it
    another test, from the same alpha. source: who proposed it. Raises UserError for an edit that does not fit.
    """
    current = run.store.guidance.read()
    assert current is not None
    after = apply_edit(current, edit, run.config.reflection.max_rules)
    tried, tickets = Tried(), run.of_split(GATE)
    gate = tickets.digest()
    if earlier := _earlier(run, edit, current, gate):
        if earlier["outcome"] == ACCEPT:  # somebody went back since
            run.store.guidance.write(after)
        return Tried(earlier)
    alpha = _next_alpha(run)
    right: list[dict[str, bool | None]] = []
    for guidance in (current, after) if tickets and alpha else ():
        verdicts = judge_split(run, GATE, guidance, engine, budget, tried, progress)
        if verdicts is None:
            return tried
        right.append(verdicts)
    counts = _counts(tickets, right)
    decision = decide(counts, alpha, run.config.gate)
    if decision.outcome == ACCEPT:
        run.store.guidance.write(after)
    outcome = {"gate": gate, "counts": asdict(counts), **asdict(decision)}
    tried.decision = _keep(run, edit, source, current, after, outcome)
    return tried


def _counts(tickets: Tickets, right: list[dict[str, bool | None]]) -> Counts:
    """What changed from the first guidance to the second; no change where there are no verdicts."""
    if not right:
        return Counts(len(tickets), 0, 0, 0, 0, 0)
    flags = [[verdicts[head.key] for head in tickets.heads()] for verdicts in right]
    return Counts.of([head.label == "fail" for head in tickets.heads()], *flags)


def _earlier(run: MissionRun, edit: Edit, current: Guidance, gate: str) -> JsonObject | None:
    """What a test of this edit under this guidance on these gate tickets came to."""
    same = {"before": current.hash, "gate": gate}
    tested = (row for row in run.store.edits() if row["outcome"] != UNVERIFIED and row["edit"]["id"] == edit.id)
    return next((row for row in tested if same.items() <= row.items()), None)


def _next_alpha(run: MissionRun) -> float:
    """The level of the next test: a share, if the tests so far have left it, whatever share each of them had."""
    rules = run.config.gate
    tested = [row["alpha"] for row in run.store.edits() if row["outcome"] != UNVERIFIED]
    share = AlphaBudget(rules.alpha, rules.max_tests, min(len(tested), rules.max_tests)).next_alpha
    return share if sum(tested) + share <= rules.alpha * (1 + ROUNDING) else 0.0


def refuse(run: MissionRun, edit: Edit, why: str, source: str) -> None:
    """Keep an edit that does not fit among those that were tried, so that it is not proposed again."""
    current = run.store.guidance.read()
    assert current is not None
    _keep(run, edit, source, current, current, {"counts": None, "outcome": UNVERIFIED, "why": why})


def _keep(
    run: MissionRun, edit: Edit, source: str, before: Guidance, after: Guidance, decision: Mapping[str, Any]
) -> JsonObject:
    row = {
        "key": f"{before.hash}/{edit.id}",
        "status": "ok",
        "edit": edit.as_dict(),
        "source": source,
        "before": before.hash,
        "after": after.hash,
        "step": after.step if decision["outcome"] == ACCEPT else None,
        "tried_at": now(),
        **decision,
    }
    run.store.keep_edit(row)
    return row


def judge_split(
    run: MissionRun,
    split: str,
    guidance: Guidance,
    engine: Callable[[], Engine],
    budget: Budget,
    tried: Tried,
    progress: Callable[[int], None],
) -> dict[str, bool | None] | None:
    """Ticket of a split -> whether its verdict under a guidance is that of its label, None where it has none.

    None instead of the dictionary where a row is missing.

    The rollouts of a guidance are kept under its hash, so that each is run once. Reports are added to `tried`.
    """
    config, tickets = run.config, run.of_split(split)
    ways = candidates_of(config.sampler, config.seed, 1)
    output = run.store.folder / split / f"{guidance.hash}.jsonl"
    options = run.run_options(output, resume=True, most=budget.most, ends=budget.ends)
    items = Items(tickets, ways, 0)
    report = run_work(
        items,
        Rollouts(guidance, config.judge.weights, run.data.items),
        engine,
        options,
        run.identity,
        progress=progress,
    )
    budget.spend(report.written - report.cached)
    tried.reports.append(report)
    if report.errors or report.interrupted or report.over_budget:  # a verdict that is missing must not decide
        return None
    right = {f"{head.key}/e0": VERDICT_OF_LABEL[head.label] for head in tickets.heads()}
    rows = selections(read_rows(output), config) if items else ()
    said = {row["key"]: row["result"]["verdict"] for row in rows if row["key"] in right}
    return {key.removesuffix("/e0"): None if each is None else each == right[key] for key, each in said.items()}


def fits(run: MissionRun, edit: Edit) -> str:
    """Why an edit does not fit the guidance as it is; empty when it does."""
    current = run.store.guidance.read()
    assert current is not None
    try:
        apply_edit(current, edit, run.config.reflection.max_rules)
    except UserError as error:
        return error.problems[0].what
    return ""
