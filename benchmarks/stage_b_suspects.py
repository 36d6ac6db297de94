"""Whether flipped labels are found among simulated tickets.

    python benchmarks/stage_b_suspects.py --json

2,000 simulated tickets, a fifth of them hard, one label in ten flipped; eight candidates each from the simulated model,
read, scored and selected as in a run. "model_accuracy": its verdicts against the truth; a suspect is right when the
label was flipped. "precision_of_first_half": among the higher-ranked half of the queue. "without_rule": the same with a
model that lacks the rule for half of the hard tickets, and so is wrong about as often as the labels are.
"""

from __future__ import annotations

from typing import Any

import harness

from plumbline.stage_b.simulation import RULE, SimulatedModel, simulate_tickets, simulate_votes
from plumbline.stage_b.suspects import Voted, find_suspects
from plumbline.stage_b.verdict import VERDICT_OF_LABEL

NOISE = 0.1
CANDIDATES = 8


def find(count: int, rules: list[str]) -> dict[str, Any]:
    """Figures of the queue under one guidance."""
    made = simulate_tickets(count, seed=0, label_noise=NOISE)
    selections = simulate_votes(made, SimulatedModel(), CANDIDATES, rules)
    votes = [
        Voted(each.ticket.key, each.ticket.label, selection.pass_share)
        for each, selection in zip(made, selections, strict=True)
        if selection.pass_share is not None
    ]
    flipped = {each.ticket.key for each in made if each.ticket.label != each.truth}
    hits = [suspect.key in flipped for suspect in find_suspects(votes)]
    half = hits[: max(1, len(hits) // 2)]
    right = sum(
        selection.verdict == VERDICT_OF_LABEL[each.truth] for each, selection in zip(made, selections, strict=True)
    )
    return {
        "recall": round(sum(hits) / len(flipped), 4),
        "precision": round(sum(hits) / len(hits), 4),
        "precision_of_first_half": round(sum(half) / len(half), 4),
        "flipped": len(flipped),
        "queue": len(hits),
        "model_accuracy": round(right / count, 4),
    }


def measure(count: int) -> dict[str, Any]:
    """Everything that is printed."""
    return {**find(count, [RULE]), "without_rule": find(count, []), "tickets": count}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--tickets", type=int, default=2000)
    options = parser.parse_args()
    figures = measure(options.tickets)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
