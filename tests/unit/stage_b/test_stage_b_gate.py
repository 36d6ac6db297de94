"""The gate: exact against scipy and against enumeration, and what each outcome takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from plumbline.stage_b.gate import (
    ACCEPT,
    INSUFFICIENT,
    REJECT,
    UNVERIFIED,
    AlphaBudget,
    Counts,
    GateRules,
    decide,
    false_pass_p_value,
    mcnemar_p_value,
)
from plumbline.stage_b.simulation import EditEffect, simulate_edit

RULES = GateRules()
ALPHA = 0.01


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_p_value_is_the_binomial_one(fixed: int, broken: int) -> None:
    n = fixed + broken
    expected = binomtest(fixed, n, 0.5, alternative="greater").pvalue if n else 1.0
    assert mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("cured", [0.0, 0.05, 0.3])
def test_the_veto_lets_a_rise_by_the_margin_pass_no_oftener_than_it_says(cured: float) -> None:
    """Exactly: every outcome of 40 fails, by its probability."""
    rules = GateRules(margin=0.15, veto_alpha=0.05)
    fails, rates = 40, (cured + rules.margin, cured)
    law = multinomial(fails, [*rates, 1 - sum(rates)])
    passed = sum(
        law.pmf([new, healed, fails - new - healed])
        for new in range(fails + 1)
        for healed in range(fails + 1 - new)
        if new - healed < 0.15 * fails
        and false_pass_p_value(Counts(fails, fails, 0, 0, new, healed), rules) <= rules.veto_alpha
    )
    assert passed <= rules.veto_alpha


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        (Counts(400, 200, 40, 12, 6, 20), ACCEPT),
        (Counts(400, 200, 20, 2, 1, 0), ACCEPT),
        (Counts(400, 200, 20, 20, 10, 10), REJECT),
        (Counts(400, 200, 0, 0, 0, 0), REJECT),
        (Counts(400, 200, 40, 12, 12, 0), REJECT),
        (Counts(400, 200, 20, 10, 5, 10), INSUFFICIENT),
        (Counts(400, 200, 20, 3, 3, 0), INSUFFICIENT),
        (Counts(120, 60, 20, 2, 0, 0), INSUFFICIENT),
        (Counts(40, 0, 9, 0, 0, 0), INSUFFICIENT),
        (Counts(0, 0, 0, 0, 0, 0), UNVERIFIED),
    ],
)
def test_outcomes(counts: Counts, outcome: str) -> None:
    decision = decide(counts, ALPHA, RULES)
    assert decision.outcome == outcome
    assert decision.why
    assert (decision.tickets_needed is not None) == (outcome == INSUFFICIENT and counts.fails > 0)


def test_fifty_tickets_cannot_show_what_four_hundred_can() -> None:
    decision = decide(Counts(50, 25, 5, 2, 1, 3), ALPHA, RULES)
    assert decision.outcome == INSUFFICIENT
    assert decision.tickets_needed is not None and 100 < decision.tickets_needed < 1000


def test_with_the_tickets_it_asks_for_the_edit_is_accepted_as_often_as_promised() -> None:
    """An edit that fixes 5 % and breaks 2.5 %, of either kind of ticket."""
    needed = decide(Counts(400, 200, 20, 10, 5, 10), ALPHA, RULES).tickets_needed
    assert needed is not None
    rng = np.random.default_rng(0)
    count, runs = 400 + needed, 150
    is_fail, was_right = np.arange(count) % 2 == 0, rng.random(count) < 0.75
    effect = EditEffect(0.05, 0.025, 0.05, 0.025)
    accepted = sum(
        decide(simulate_edit(rng, is_fail, was_right, effect), ALPHA, RULES).outcome == ACCEPT for _ in range(runs)
    )
    assert 0.7 < accepted / runs < 0.95


def test_counts_come_from_flags() -> None:
    is_fail = [True, True, True, False, False, False]
    was_right = [True, False, True, True, False, False]
    is_right = [False, True, True, False, True, True]
    assert Counts.of(is_fail, was_right, is_right) == Counts(6, 3, 3, 2, 1, 1)
    with pytest.raises(ValueError, match="every ticket"):
        Counts.of(is_fail, was_right, [True])


def test_alpha_is_spent_once() -> None:
    budget = AlphaBudget(0.05, 2)
    assert budget.next_alpha == pytest.approx(0.025)
    spent = budget.spend().spend()
    assert spent.next_alpha == 0
    with pytest.raises(ValueError, match="all 2 tests"):
        spent.spend()
    decision = decide(Counts(400, 200, 40, 0, 0, 20), spent.next_alpha, RULES)
    assert (decision.outcome, decision.why) == (UNVERIFIED, "the alpha of this run is used up")


RATES = st.floats(0, 0.2)


@given(st.integers(1, 300), RATES, RATES, st.integers(0, 2**32 - 1))
def test_whatever_is_accepted_is_better_and_safe(count: int, fixes: float, breaks: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    is_fail, was_right = rng.random(count) < 0.5, rng.random(count) < 0.7
    counts = simulate_edit(rng, is_fail, was_right, EditEffect(fixes, breaks, fixes, breaks))
    decision = decide(counts, ALPHA, RULES)
    if decision.outcome == ACCEPT:
        assert counts.fixed > counts.broken
        assert decision.p_value <= ALPHA and decision.veto_p_value <= RULES.veto_alpha
        assert counts.new_false_passes - counts.cured_false_passes < max(1, RULES.margin * counts.fails)
    if decision.tickets_needed is not None:
        assert decision.tickets_needed >= 1
