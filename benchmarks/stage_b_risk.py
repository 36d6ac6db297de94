"""How often a certified threshold is riskier than it says, over resampled calibrations.

    python benchmarks/stage_b_risk.py --json

4,000 simulated tickets, a fifth of them hard, with eight candidates each from the simulated model, read, scored and
selected as in a run, are the population: the risk of every threshold is known in it. Each resample draws 1,500 of them
with replacement, picks a threshold at 95 % confidence, and is violated when the risk of that threshold is above the
target. The worst of the targets counts; "coverage" is the mean share passed automatically, 0 where nothing could be
certified.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

from plumbline.data.keyed import keyed_generator
from plumbline.stage_b.risk import Certificate, Setting, choose_threshold
from plumbline.stage_b.simulation import RULE, SimulatedModel, simulate_tickets, simulate_votes

POPULATION, CALIBRATION = 4000, 1500
TARGETS = (0.01, 0.02, 0.05)
CONFIDENCE = 0.95
SETTING = Setting("guidance", "simulation", "prompts")


def population() -> tuple[np.ndarray, np.ndarray]:
    """(confidence in a pass, is a fail in truth) of every ticket."""
    made = simulate_tickets(POPULATION, seed=0)
    selections = simulate_votes(made, SimulatedModel(), 8, [RULE])
    return np.array([each.confidence for each in selections]), np.array([each.truth == "fail" for each in made])


def resample(scores: np.ndarray, is_fail: np.ndarray, target: float, runs: int) -> dict[str, float]:
    """Rates over the resamples for one target."""
    violated = certified = 0
    covered = 0.0
    for number in range(runs):
        drawn = keyed_generator(0, 0, number, "calibration").integers(len(scores), size=CALIBRATION)
        found = choose_threshold(scores[drawn], is_fail[drawn], target, CONFIDENCE, SETTING)
        if isinstance(found, Certificate):
            passed = scores >= found.threshold
            certified += 1
            violated += bool(is_fail[passed].mean() > target)
            covered += float(passed.mean())
    return {
        "violation_rate": violated / runs,
        "certified_rate": certified / runs,
        "coverage": round(covered / runs, 4),
    }


def measure(runs: int) -> dict[str, Any]:
    """Everything that is printed."""
    scores, is_fail = population()
    by_target = {str(target): resample(scores, is_fail, target, runs) for target in TARGETS}
    worst = max(by_target, key=lambda target: by_target[target]["violation_rate"])
    return {
        "violation_rate": by_target[worst]["violation_rate"],
        "coverage": by_target[worst]["coverage"],
        "by_target": by_target,
        "confidence": CONFIDENCE,
        "true_passes": round(float(1 - is_fail.mean()), 4),
        "calibration_tickets": CALIBRATION,
        "resamples": runs,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args()
    figures = measure(options.runs)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
