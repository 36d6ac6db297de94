"""How often the gate of Stage-B accepts useless, harmful and good edits, over simulated runs.

    python benchmarks/stage_b_gate.py --json

400 gate tickets, half of them true fails, 75 % judged right before. "useless_accept_rate": runs of five useless edits
(each fixes 5 % and breaks 5 %), one after the other on the same tickets, in which any of them is accepted. "harmful":
an edit that breaks 6 % and fixes 3 %, and two that are right more often in all but raise the false passes by the margin
exactly; the worst of the three counts. "good": fixes 10 % and breaks 3 %. "strict gate": accepts when the mean rises on
50 tickets, as the known loops do; one useless edit. Each at the alpha per test that is printed.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

from plumbline.data.keyed import keyed_generator
from plumbline.stage_b.gate import ACCEPT, INSUFFICIENT, AlphaBudget, Counts, GateRules, decide
from plumbline.stage_b.simulation import EditEffect, simulate_edit

TICKETS, SMALL = 400, 50
RIGHT = 0.75
USELESS = EditEffect(0.05, 0.05, 0.05, 0.05)
GOOD = EditEffect(0.10, 0.03, 0.10, 0.03)


def harmful(margin: float) -> dict[str, EditEffect]:
    """Edits that must not pass."""
    return {
        "breaks_more": EditEffect(0.03, 0.06, 0.03, 0.06),
        "new_false_passes": EditEffect(0.20, 0.01, 0.0, margin),
        "trades_false_passes": EditEffect(0.20, 0.01, 0.05, 0.05 + margin),
    }


def gate_tickets(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(is a true fail, was judged right) per ticket."""
    return rng.random(count) < 0.5, rng.random(count) < RIGHT


def one_edit(number: int, effect: EditEffect, purpose: str, count: int = TICKETS) -> Counts:
    """A run of a single edit."""
    rng = keyed_generator(0, 0, number, purpose)
    return simulate_edit(rng, *gate_tickets(rng, count), effect)


def accepts_useless(number: int, rules: GateRules) -> bool:
    """Whether a run accepts any of as many useless edits as its budget has tests."""
    rng = keyed_generator(0, 0, number, "useless")
    is_fail, was_right = gate_tickets(rng, TICKETS)
    budget = AlphaBudget(rules.alpha, rules.max_tests)
    while budget.next_alpha:
        if decide(simulate_edit(rng, is_fail, was_right, USELESS), budget.next_alpha, rules).outcome == ACCEPT:
            return True
        budget = budget.spend()
    return False


def outcomes(runs: int, effect: EditEffect, purpose: str, rules: GateRules) -> list[str]:
    """The outcome of one edit in each run."""
    alpha = AlphaBudget(rules.alpha, rules.max_tests).next_alpha
    return [decide(one_edit(number, effect, purpose), alpha, rules).outcome for number in range(runs)]


def measure(runs: int) -> dict[str, Any]:
    """Everything that is printed."""
    rules = GateRules()
    bad = {
        name: outcomes(runs, effect, name, rules).count(ACCEPT) / runs for name, effect in harmful(rules.margin).items()
    }
    good = outcomes(runs, GOOD, "good", rules)
    small = [one_edit(number, USELESS, "strict", SMALL) for number in range(runs)]
    return {
        "useless_accept_rate": sum(accepts_useless(number, rules) for number in range(runs)) / runs,
        "harmful_accept_rate": max(bad.values()),
        "good_accept_rate_400": good.count(ACCEPT) / runs,
        "strict_gate_useless_accept_rate": sum(counts.fixed > counts.broken for counts in small) / runs,
        "harmful_accept_rates": bad,
        "good_insufficient_rate_400": good.count(INSUFFICIENT) / runs,
        "alpha_per_run": rules.alpha,
        "alpha_per_test": rules.alpha / rules.max_tests,
        "tests_per_run": rules.max_tests,
        "veto_alpha": rules.veto_alpha,
        "margin": rules.margin,
        "runs": runs,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    figures = measure(options.runs)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
