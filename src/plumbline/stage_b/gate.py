"""May this edit of the guidance stay? Exact tests on the gate tickets' verdicts under the old guidance and the new one.

Better: of the tickets on which the two differ in being right, an edit that does no good fixes half. McNemar's exact
test asks how likely at least so many fixed are then. Every test of a run takes its share of one alpha, so that the
chance that any useless edit is accepted in the run stays below it (Bonferroni). The bound holds although the same gate
tickets are used again, if whoever proposes edits sees no more of the gate than "accepted" or "not": until the first
edit is accepted, the next one then owes nothing to these tickets (Blum & Hardt 2015).

Safe: a wrong pass is worse than a wrong fail, so an edit must also show that it does not raise the false passes by
`margin` of the true fails. That is a test of its own, with a level of its own; doubt is not enough to accept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, norm

from plumbline.config.limits import Range
from plumbline.stage_b.risk import clopper_pearson_upper

ACCEPT = "accept"
REJECT = "reject"
INSUFFICIENT = "insufficient_evidence"
UNVERIFIED = "unverified"
MOST_FAILS = 1_000_000


@dataclass(frozen=True)
class GateRules:
    """When an edit of the guidance is accepted."""

    alpha: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Chance that a run accepts any useless edit, over all its tests."""
    max_tests: Annotated[int, Range(ge=1)] = 5
    """Edits that may be tested; each has an equal share of alpha."""
    margin: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """A rise of the false passes, as a share of the true fails, that an edit must hardly ever survive."""
    veto_alpha: Annotated[float, Range(gt=0, lt=1)] = 0.02
    """Chance that an edit with such a rise is not vetoed."""
    power: Annotated[float, Range(gt=0, lt=1)] = 0.8
    """Power for which the number of tickets still needed is reported."""


@dataclass(frozen=True)
class AlphaBudget:
    """The alpha of a run in equal shares: the last edit is tested as the first one, until the shares are used up.

    A series such as 6 / (pi^2 i^2) would never end, but its fifth test has a fortieth of alpha left.
    """

    alpha: float
    max_tests: int
    used: int = 0

    @property
    def next_alpha(self) -> float:
        """Level of the next test; 0 when nothing is left."""
        return self.alpha / self.max_tests if self.used < self.max_tests else 0.0

    def spend(self) -> AlphaBudget:
        """What is left after one more test, whatever its outcome."""
        if self.next_alpha == 0:
            raise ValueError(f"all {self.max_tests} tests of this run are used")
        return replace(self, used=self.used + 1)


Known = Sequence[bool | None] | np.ndarray
"""A flag per ticket, None where it is not known."""


@dataclass(frozen=True)
class Counts:
    """What an edit changed on the gate tickets.

    fixed: right now and not before; broken: the reverse. fails: tickets that are truly fails; new_false_passes and
    cured_false_passes: those among them that pass now and did not before, and the reverse. without_verdict: tickets
    that have none now; they are neither right nor a false pass.
    """

    tickets: int
    fails: int
    fixed: int
    broken: int
    new_false_passes: int
    cured_false_passes: int
    without_verdict: int = 0

    @classmethod
    def of(cls, is_fail: ArrayLike, was_right: Known, is_right: Known) -> Counts:
        """From three values per ticket; of a true fail, being wrong is a false pass. was_right, is_right: None where
        there is no verdict."""
        fail, before, now = np.asarray(is_fail, dtype=bool), *map(_three_valued, (was_right, is_right))
        if not fail.shape == before.shape == now.shape:
            raise ValueError("every ticket needs its truth, its old verdict and its new one")
        fixed, broken = (before != 1) & (now == 1), (before == 1) & (now != 1)
        new, cured = (before != 0) & (now == 0), (before == 0) & (now != 0)
        sums = (fail, fixed, broken, new & fail, cured & fail, now == -1)
        return cls(fail.size, *(int(flags.sum()) for flags in sums))


def _three_valued(flags: Known) -> np.ndarray:
    """1 right, 0 wrong, -1 no verdict."""
    return np.array([-1 if flag is None else int(flag) for flag in np.asarray(flags, dtype=object)], dtype=int)


@dataclass(frozen=True)
class GateDecision:
    """outcome: accept, reject, insufficient_evidence or unverified (nothing could be tested). p_value against alpha;
    veto_p_value against the rules' veto_alpha. tickets_needed: further gate tickets, about, that would decide; None
    where the outcome does not ask for any, or no number of tickets like these would do."""

    outcome: str
    why: str
    alpha: float
    p_value: float = 1.0
    veto_p_value: float = 1.0
    tickets_needed: int | None = None


def decide(counts: Counts, alpha: float, rules: GateRules) -> GateDecision:
    """The outcome for one edit at the level `alpha` that the budget gives it."""
    if counts.tickets == 0 or alpha == 0:
        why = "the alpha of this run is used up" if counts.tickets else "there are no gate tickets"
        return GateDecision(UNVERIFIED, why, alpha)
    p_value = mcnemar_p_value(counts.fixed, counts.broken)
    veto = false_pass_p_value(counts, rules)
    outcome, why = _outcome(counts, p_value <= alpha, veto <= rules.veto_alpha, rules)
    needed = _still_needed(counts, alpha, rules) if outcome == INSUFFICIENT else None
    return GateDecision(outcome, why, alpha, p_value, veto, needed)


def _outcome(counts: Counts, is_better: bool, is_safe: bool, rules: GateRules) -> tuple[str, str]:
    changed = f"fixes {counts.fixed} and breaks {counts.broken} of {counts.tickets} tickets"
    passes = f"{counts.new_false_passes} new and {counts.cured_false_passes} cured false passes of {counts.fails} fails"
    rise = counts.new_false_passes - counts.cured_false_passes
    if counts.fixed <= counts.broken:
        return REJECT, f"it {changed}"
    if rise > 0 and rise >= rules.margin * counts.fails:
        return REJECT, f"it {changed}, but {passes}"
    if is_better and is_safe:
        return ACCEPT, f"it {changed}; {passes}"
    missing = f"it {changed}, which may be chance" if not is_better else f"it {changed}, but {passes} may hide a rise"
    return INSUFFICIENT, missing


def mcnemar_p_value(fixed: int, broken: int) -> float:
    """P(X >= fixed) for X ~ Binomial(fixed + broken, 1/2): McNemar's test, exact and one-sided."""
    return float(binom.sf(fixed - 1, fixed + broken, 0.5))


def false_pass_p_value(counts: Counts, rules: GateRules) -> float:
    """Against "this edit raises the false passes by `margin` of the true fails, or more"; exact.

    Let a share `new` of the fails become false passes, a share `cured` stop being some, and q = new + cured. Of the m
    that change, the new ones are Binomial(m, new / q), and new / q = 1/2 + (new - cured) / 2q, which is at least
    1/2 + margin / 2q under that hypothesis. q is not known: with chance 1 - g it lies below its Clopper-Pearson bound,
    so p = P(X <= new | m, 1/2 + margin / 2 q_bound) + g is valid (Berger & Boos 1994). Where q itself is bounded by
    the margin, so is the rise: p = g. g is a quarter of veto_alpha.
    """
    spent = rules.veto_alpha / 4
    new, changed = counts.new_false_passes, counts.new_false_passes + counts.cured_false_passes
    bound = clopper_pearson_upper(changed, counts.fails, 1 - spent)
    if bound <= rules.margin:
        return spent
    share = 0.5 + rules.margin / (2 * bound)
    return min(1.0, float(binom.cdf(new, changed, share)) + spent)


def _still_needed(counts: Counts, alpha: float, rules: GateRules) -> int | None:
    """Further tickets for both tests at the observed rates, at least one."""
    fails = _fails_for_veto(counts, rules) if counts.fails else None
    if fails is None:
        return None
    wanted = max(_needed_for_mcnemar(counts, alpha, rules.power), fails * counts.tickets / counts.fails)
    return max(1, math.ceil(wanted) - counts.tickets)


def _needed_for_mcnemar(counts: Counts, alpha: float, power: float) -> float:
    """(z_alpha sqrt(q) + z_power sqrt(q - d^2))^2 / d^2 for the share q that changes and the gain d (Connor 1987)."""
    changed = (counts.fixed + counts.broken) / counts.tickets
    gain = (counts.fixed - counts.broken) / counts.tickets
    root = norm.isf(alpha) * math.sqrt(changed) + norm.ppf(power) * math.sqrt(changed - gain**2)
    return float(root**2 / gain**2)


def _fails_for_veto(counts: Counts, rules: GateRules) -> int | None:
    """Fails with which the veto is passed although the new false passes come out at their `power` quantile; by a fifth
    more each time, None beyond a million."""
    fails = counts.fails
    while fails < MOST_FAILS:
        new = int(binom.ppf(rules.power, fails, counts.new_false_passes / counts.fails))
        cured = round(fails * counts.cured_false_passes / counts.fails)
        more = replace(counts, fails=fails, new_false_passes=new, cured_false_passes=cured)
        if false_pass_p_value(more, rules) <= rules.veto_alpha:
            return fails
        fails = math.ceil(fails * 1.2)
    return None
