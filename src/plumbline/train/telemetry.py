"""What a run measures: sums and counts per logging window, equal on every rank, named once.

Sums, not means of means: a micro-batch with 10 supervised tokens weighs ten times one with a single token, and four
accumulated micro-batches log the same number as one large batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from plumbline.augment.plan import AugmentationPlan
from plumbline.data.answer_kinds import KINDS
from plumbline.data.dataset import Sample
from plumbline.train.objective.features import TARGETS
from plumbline.train.objective.nonfinite import NAMES as FAULTS

# The order of the sums in the tensor that is reduced over ranks.
SUMS = (
    *("objective", "ce", "ce_tokens", "kd", "tokens", "hits", "steps", "nonfinite", "nonfinite_tokens"),
    *FAULTS,
    *(f"{sum_of}/{target}" for target in TARGETS for sum_of in ("visual", "visual_tokens")),
    *(f"{sum_of}/{kind}" for kind in KINDS for sum_of in ("hits", "tokens")),
)


class Meter:
    """Sums of one logging window (or one evaluation) on this rank; stays on the device until it is read.

    sources: names of the data sources when there are several; each has its own cross-entropy.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        self._names = (*SUMS, *(f"{kind}/{name}" for name in sources for kind in ("ce", "ce_tokens", "kd")))
        self._sums: dict[str, Tensor | float] = {}
        self._reset()

    def _reset(self) -> None:
        self._sums = dict.fromkeys(self._names, 0.0)

    def add(self, **amounts: Tensor | float) -> None:
        """Add to the named sums (see `SUMS`); tensors are scalars without gradient."""
        for name, amount in amounts.items():
            self._sums[name] = self._sums[name] + (amount.double() if isinstance(amount, Tensor) else amount)

    def reduce_and_reset(self, device: torch.device) -> dict[str, float]:
        """The sums over all ranks; `steps` counts once. Starts a new window."""
        totals = torch.tensor([float(self._sums[name]) for name in self._names], dtype=torch.float64, device=device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
            for shared in ("steps", "nonfinite"):  # every rank counts the same optimiser steps
                totals[self._names.index(shared)] /= dist.get_world_size()
        self._reset()
        return dict(zip(self._names, totals.tolist(), strict=True))


def window_metrics(
    sums: dict[str, float],
    mode: str,
    *,
    llm_kd_weight: float,
    visual_kd_weight: float = 0.0,
    anchors: Sequence[str] = (),
) -> dict[str, float]:
    """Once-prefixed metrics of a window.

    mode: "train" or "eval"; llm_kd_weight: 0 where no teacher took part, and the metric is then omitted; anchors: names
    of the sources that are held to the teacher.
    `loss` is the whole objective per supervised token, `sft_loss` raw CE per token where CE was computed, `llm_kd_loss`
    is weighted, `vision_kd_loss` too (with its parts `vision_kd_loss/TARGET`; all absent in a window without pictures),
    `token_acc/KIND` is logged where tokens are weighted by kind, `sft_loss/NAME` is that of one data source,
    `llm_kd_loss/NAME` the weighted divergence of one that is an anchor and in evaluation `drift/NAME` its forward KL,
    `token_count` is per optimiser step in training and of the whole set in evaluation. `nonfinite_tokens` counts tokens
    of batches whose loss is not finite: they are part of `token_count` and of nothing else.
    """
    tokens = sums["tokens"]
    metrics: dict[str, float] = {}
    if tokens:
        metrics["loss"] = sums["objective"] / tokens
        metrics["token_acc"] = sums["hits"] / tokens
        if llm_kd_weight:
            metrics["llm_kd_loss"] = llm_kd_weight * sums["kd"] / tokens
    parts = {
        name: visual_kd_weight * sums[f"visual/{name}"] / sums[f"visual_tokens/{name}"]
        for name in TARGETS
        if sums[f"visual_tokens/{name}"]
    }
    if parts:
        metrics["vision_kd_loss"] = sum(parts.values())
        metrics["loss"] = metrics.get("loss", 0.0) + metrics["vision_kd_loss"]
        metrics |= {f"vision_kd_loss/{name}": value for name, value in parts.items()}
    if sums["ce_tokens"]:
        metrics["sft_loss"] = sums["ce"] / sums["ce_tokens"]
    for kind in KINDS:
        if sums[f"tokens/{kind}"]:
            metrics[f"token_acc/{kind}"] = sums[f"hits/{kind}"] / sums[f"tokens/{kind}"]
    for name, count in sums.items():
        if name.startswith("ce_tokens/") and count:
            source = name.partition("/")[2]
            metrics[f"sft_loss/{source}"] = sums[f"ce/{source}"] / count
            if source in anchors:
                metrics[f"{'llm_kd_loss' if mode == 'train' else 'drift'}/{source}"] = sums[f"kd/{source}"] / count
    tokens += sums["nonfinite_tokens"]
    metrics["token_count"] = tokens / max(sums["steps"], 1.0) if mode == "train" else tokens
    if sums["nonfinite_tokens"]:
        metrics["nonfinite_tokens"] = sums["nonfinite_tokens"]
    if sums["nonfinite"]:
        metrics["nonfinite_steps"] = sums["nonfinite"]
    return {f"{mode}/{name}": value for name, value in metrics.items()}


def sample_tally(sample: Sample, tokens: int) -> Counter[str]:
    """What one sample adds to the account of an epoch; see `epoch_account`. tokens: of its encoded row."""
    tally = Counter({"samples": 1, f"source/{sample.source}": 1, f"mode/{sample.mode}": 1, "tokens": tokens})
    tally["objects_kept"] = tally["coverage/1.0"] = sample.objects
    tally["dropped/outside its own picture"] = sample.dropped
    tally["dropped/over max_objects_per_image"] = sample.left_out
    for picture in sample.pictures:
        if not isinstance(picture.plan, AugmentationPlan):
            continue
        plan = picture.plan
        tally.update(f"dropped/{reason}" for _, reason in plan.dropped)
        tally.update(f"applied/{name}" for name in plan.applied)
        tally.update(f"skipped/{name}: {reason}" for name, reason in plan.skipped)
        cut = [f"coverage/{min(int(share * 10), 9) / 10:.1f}" for share in plan.coverages if share < 1]
        tally.update(cut)
        tally["coverage/1.0"] -= len(cut)
    return +tally  # without the zeros


def epoch_account(tally: Counter[str], epoch: int, step: int, covered: float = 1.0) -> dict[str, object]:
    """The account of an epoch for `epochs.jsonl`.

    `covered`: share of the epoch that is counted, less than 1 where the run was stopped or continued within it;
    `objects_kept`: of all pictures as they were shown; `padding_ratio`: share of the batches' slots that held no token;
    `coverage`: objects by visible share, "0.3" means 0.3 up to 0.4, "1.0" wholly visible; `dropped`, `applied`,
    `skipped`: counts by reason or operation.
    """
    groups: dict[str, dict[str, int]] = {}
    for name, count in sorted(tally.items()):
        group, _, key = name.partition("/")
        if key:
            groups.setdefault(group, {})[key] = count
    slots = tally["slots"]
    return {
        "epoch": epoch,
        "step": step,
        "covered": round(covered, 4),
        "samples": tally["samples"],
        "tokens": tally["tokens"],
        "padding_ratio": round(1 - tally["tokens"] / slots, 4) if slots else 0.0,
        "objects_kept": tally["objects_kept"],
        **groups,
    }
