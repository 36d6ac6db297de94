"""What a run measures: sums and counts per logging window, equal on every rank, named once.

Sums, not means of means: a micro-batch with 10 supervised tokens weighs ten times one with a single token, and four
accumulated micro-batches log the same number as one large batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

# The order of the sums in the tensor that is reduced over ranks.
SUMS = ("objective", "ce", "ce_tokens", "kd", "tokens", "hits", "steps", "nonfinite")


class Meter:
    """Sums of one logging window (or one evaluation) on this rank; stays on the device until it is read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._reset()

    def _reset(self) -> None:
        self._sums = dict.fromkeys(SUMS, 0.0)

    def add(self, **amounts: Tensor | float) -> None:
        """Add to the named sums (see `SUMS`); tensors are scalars without gradient."""
        for name, amount in amounts.items():
            self._sums[name] = self._sums[name] + (amount.double() if isinstance(amount, Tensor) else amount)

    def reduce_and_reset(self, device: torch.device) -> dict[str, float]:
        """The sums over all ranks; `steps` counts once. Starts a new window."""
        totals = torch.tensor([float(self._sums[name]) for name in SUMS], dtype=torch.float64, device=device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
            for shared in ("steps", "nonfinite"):  # every rank counts the same optimiser steps
                totals[SUMS.index(shared)] /= dist.get_world_size()
        self._reset()
        return dict(zip(SUMS, totals.tolist(), strict=True))


def window_metrics(sums: dict[str, float], mode: str, *, llm_kd_weight: float) -> dict[str, float]:
    """Once-prefixed metrics of a window.

    mode: "train" or "eval"; llm_kd_weight: 0 where no teacher took part, and the metric is then omitted.
    `loss` is the whole objective per supervised token, `sft_loss` raw CE per token where CE was computed, `llm_kd_loss`
    is weighted, `token_count` is per optimiser step in training and of the whole set in evaluation.
    """
    tokens = sums["tokens"]
    metrics: dict[str, float] = {}
    if tokens:
        metrics["loss"] = sums["objective"] / tokens
        metrics["token_acc"] = sums["hits"] / tokens
        if llm_kd_weight:
            metrics["llm_kd_loss"] = llm_kd_weight * sums["kd"] / tokens
    if sums["ce_tokens"]:
        metrics["sft_loss"] = sums["ce"] / sums["ce_tokens"]
    metrics["token_count"] = tokens / max(sums["steps"], 1.0) if mode == "train" else tokens
    if sums["nonfinite"]:
        metrics["nonfinite_steps"] = sums["nonfinite"]
    return {f"{mode}/{name}": value for name, value in metrics.items()}
