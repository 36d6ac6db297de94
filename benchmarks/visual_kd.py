"""What `custom.visual_kd` adds to a distillation step whose frozen vision tower both sides share.

    python benchmarks/visual_kd.py --json

The larger checkpoint of `kd_step.py` and its four ragged samples, LoRA of the language model and of the mergers,
float32, one process, the same batch in every step. The term is there in one half of the steps and not in the other: in
turns of off, on, on, off, so that a machine whose speed drifts is fair to both. Without the term a step must have the
loss that the others have less the term, to 1e-6, or this fails.

ratio: median step with the term / median step without; paired_ratio: median of each step's ratio to its neighbour.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import kd_step
from harness import stepclock

LIMIT = 1.02
VISUAL = {"visual_kd": {"enabled": True, "weight": 0.5}}


def has_term(step: int) -> bool:
    """Whether the step of this number, from 0, has the term."""
    return step % 4 in (1, 2)


def take_turns() -> None:
    """Our trainer has the term in every other step."""
    from plumbline.train.gkd import GKDMonitorTrainer

    configured = GKDMonitorTrainer._visual_kd

    def by_turns(self: GKDMonitorTrainer) -> Any:
        return configured(self) if has_term(self.state.global_step) else None

    GKDMonitorTrainer._visual_kd = by_turns  # type: ignore[method-assign]


def loss_error(logs: list[dict[str, float]]) -> float:
    """Largest relative difference between the loss without the term and the others' less the term."""
    wanted = logs[0]["train/loss"]
    rest = [line["train/loss"] - line.get("train/vision_kd_loss", 0.0) for line in logs]
    error = max(abs(value - wanted) / wanted for value in rest)
    assert error < 1e-6, f"losses differ: {rest}"
    assert all(("train/vision_kd_loss" in line) == has_term(step) for step, line in enumerate(logs))
    assert logs[1]["train/vision_kd_loss"] > 0, "the mergers have not moved: nothing would be measured"
    return error


def measure(size: str, rounds: int) -> dict[str, Any]:
    """Everything that is printed; a round has two steps of each kind, and one more round comes first, uncounted."""
    stepclock.install()
    take_turns()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = json.loads(kd_step.write_shape(folder, size, 4 * (rounds + 1), "cpu").read_text(encoding="utf-8"))
        kd_step.run_ours(
            folder, {**shape, "tuner": {**shape["tuner"], "freeze_aligner": False}, "custom": VISUAL}, teacher=True
        )
    clock = stepclock.StepClock.last
    seconds = clock.seconds
    counted = range(4, len(seconds))
    with_term = [seconds[step] for step in counted if has_term(step)]
    without = [seconds[step] for step in counted if not has_term(step)]
    middle = statistics.median(without)
    return {
        "with_s": round(statistics.median(with_term), 4),
        "without_s": round(middle, 4),
        "ratio": round(statistics.median(with_term) / middle, 4),
        "paired_ratio": round(statistics.median(one / two for one, two in zip(with_term, without, strict=True)), 4),
        "limit": LIMIT,
        "loss_rel_err": loss_error(clock.logs),
        "loss": clock.logs[1]["train/loss"],
        "vision_kd_loss": clock.logs[1]["train/vision_kd_loss"],
        "tokens": clock.tokens,
        "steps_each": len(without),
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--size", choices=tuple(kd_step.SIZES), default="top", help="size of `kd_step.py`")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of two steps with and two without the term")
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        figures = measure(options.size, options.rounds)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
