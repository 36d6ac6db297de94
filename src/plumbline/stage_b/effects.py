"""What each rule does: verdicts on the propose tickets with all rules and with all but one.

The propose split is used, not the gate's: looking at effects must not spend what decides about edits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import msgspec
from scipy.stats import beta

from plumbline.errors import Problem, UserError
from plumbline.infer.engine import Engine
from plumbline.stage_b.edit_trial import Budget, Tried, judge_split
from plumbline.stage_b.gate import Counts
from plumbline.stage_b.guidance import Guidance
from plumbline.stage_b.mission import MissionRun
from plumbline.storage.objects import JsonObject

SPLIT = "propose"


@dataclass(frozen=True)
class Effect:
    """One rule left out, in shares of the tickets. effect: right verdicts that the rule gains; low, high: its interval
    with `confidence`, for as many changed verdicts as were seen. gains, costs: tickets that are right with the rule
    alone, and without it alone; false_passes: change of the wrong passes that the rule brings."""

    rule: str
    text: str
    tickets: int
    gains: int
    costs: int
    false_passes: int
    effect: float
    low: float
    high: float
    confidence: float

    def as_dict(self) -> JsonObject:
        return asdict(self)


def rule_effects(
    run: MissionRun,
    engine: Callable[[], Engine],
    budget: Budget,
    confidence: float = 0.95,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[list[Effect] | None, Tried]:
    """(an effect per active rule, what was sent); None where the run was stopped before all were known.

    Rollouts are kept by guidance, so that the same command goes on. Raises UserError where there is nothing to measure.
    """
    current = run.store.guidance.read()
    tickets = run.of_split(SPLIT)
    if current is None or not current.rules:
        raise UserError(
            Problem(str(run.store.folder), "there is no rule to leave out", "add one (plumbline stage-b edit)")
        )
    if not tickets:
        raise UserError(
            Problem(str(run.store.folder), f"the {SPLIT} split has no ticket", "give splits.shares another one")
        )
    tried = Tried()
    with_all = judge_split(run, SPLIT, current, engine, budget, tried, progress)
    effects = []
    for rule in current.rules:
        without = with_all and judge_split(run, SPLIT, leave_out(current, rule.id), engine, budget, tried, progress)
        if not with_all or without is None:
            return None, tried
        is_fail = [head.label == "fail" for head in tickets.heads()]
        flags = [[verdicts[head.key] for head in tickets.heads()] for verdicts in (without, with_all)]
        effects.append(_effect(rule.id, rule.text, Counts.of(is_fail, *flags), confidence))
    return effects, tried


def leave_out(guidance: Guidance, rule: str) -> Guidance:
    """The same guidance without one rule; never kept."""
    return msgspec.structs.replace(guidance, rules=tuple(kept for kept in guidance.rules if kept.id != rule))


def _effect(rule: str, text: str, counts: Counts, confidence: float) -> Effect:
    """(gains - costs) / n. Given how many verdicts change, gains are binomial: Clopper-Pearson's interval of their
    share, carried over."""
    changed = counts.fixed + counts.broken
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, counts.fixed, counts.broken + 1)) if counts.fixed else 0.0
    high = float(beta.ppf(1 - tail, counts.fixed + 1, counts.broken)) if counts.broken else 1.0
    share = changed / counts.tickets
    return Effect(
        rule,
        text,
        counts.tickets,
        counts.fixed,
        counts.broken,
        counts.new_false_passes - counts.cured_false_passes,
        (counts.fixed - counts.broken) / counts.tickets,
        share * (2 * low - 1),
        share * (2 * high - 1),
        confidence,
    )
