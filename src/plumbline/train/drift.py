"""The drift of a run from its base, held within a budget."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

logger = logging.getLogger(__name__)

PROBE = "drift_probe"
"""Name of `custom.drift.probe` among the sources."""
MOST_FACTOR = 16.0

VALUE, FACTOR = "eval/drift", "eval/anchor_factor"
OnBudget = Literal["warn", "stop", "raise_weight"]


@dataclass
class DriftControl:
    """Compares the drift of each evaluation with the budget.

    Attributes:
        budget: Most divergence, forward KL from the base in nats per token.
        on_budget: What happens above it.
        factor: What the anchors' weights are multiplied by; `raise_weight` moves it.
    """

    budget: float
    on_budget: OnBudget = "warn"
    factor: float = 1.0

    def assess(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """The drift of an evaluation and the factor from here on, as metrics; nothing where no anchor was evaluated.

        The largest of the probes counts: one question that is lost is not made up for by another that is kept.
        """
        values = [value for name, value in metrics.items() if name.startswith(f"{VALUE}/")]
        if not values:
            return {}
        drift = max(values)
        if drift > self.budget:
            self._exceed(drift, step)
        elif self.on_budget == "raise_weight" and drift < self.budget / 2:
            self.factor = max(1.0, self.factor / 2)
        return {VALUE: drift, FACTOR: self.factor}

    def _exceed(self, drift: float, step: int) -> None:
        what = {"warn": "", "stop": ": the run ends", "raise_weight": ": the anchors weigh more from here on"}
        if self.on_budget == "raise_weight":
            self.factor = min(MOST_FACTOR, 2 * self.factor)
        logger.warning(
            "step %d: the drift of %.4f nats per token is above the budget of %g%s",
            step,
            drift,
            self.budget,
            what[self.on_budget],
        )

    def is_exceeded(self, metrics: Mapping[str, Any]) -> bool:
        """Whether an evaluation is above the budget: such a checkpoint is never the best."""
        return float(metrics.get(VALUE, 0.0)) > self.budget

    def restore(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Take the factor from the log of the run that is continued."""
        found = [line[FACTOR] for line in history if FACTOR in line]
        self.factor = float(found[-1]) if found else self.factor
