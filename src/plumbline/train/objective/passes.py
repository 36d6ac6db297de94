"""Passes over a block of logits [n, V], in place: exponentials, row sums, hits, cross-entropy.

`e` is a softmax before its division by the row sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline.train.objective import cpu


def precision_of(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def scratch(use: str, rows: int, vocabulary: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Memory for [rows, V] values of one use, on the device of `like`; what is in it is undefined."""
    if cpu.is_cpu(like):
        return cpu.kept(use, rows, vocabulary, dtype, like)
    return like.new_empty(rows, vocabulary, dtype=dtype)


def raise_logits(logits: Tensor, out: Tensor, total: Tensor) -> None:
    """Write e = exp of the logits [n, V] to `out` and its row sums to `total` [n, 1].

    The logits are lowered, in place, where those would not stay finite; on a CPU that shows afterwards, as it is rare
    and a search for the largest is a pass.
    """
    if cpu.is_cpu(logits):
        torch.sum(torch.exp(logits, out=out), -1, keepdim=True, out=total)
        if cpu.sums_stay_finite(total):
            return
    logits.sub_(logits.amax(-1, keepdim=True))
    torch.sum(torch.exp(logits, out=out), -1, keepdim=True, out=total)


def note_hits(logits: Tensor, e: Tensor, total: Tensor, targets: Tensor, out: Tensor) -> None:
    """Write to `out` [n, 1] whether the first of each row's largest logits is the target's, of [n, 1] `targets`.

    e, total: as `raise_logits` wrote them.
    """
    if cpu.is_cpu(logits):
        cpu.note_hits(logits, e, total, targets, out)
    else:
        torch.eq(logits.argmax(-1, keepdim=True), targets, out=out)


def log_of_sums(total: Tensor) -> Tensor:
    """Logarithms of row sums, in a precision that bears subtracting them from each other."""
    return total.double().log()


def cross_entropy(logits: Tensor, targets: Tensor, figures: Tensor) -> tuple[Tensor, Tensor]:
    """Write cross-entropy and hit of a block to figures [3, n]; (its logits, now e [n, V], row sums [n, 1])."""
    guess = cpu.arg_max(logits) if cpu.is_cpu(logits) else logits.argmax(-1)
    largest = logits.gather(-1, guess[:, None])
    wanted = logits.gather(-1, targets[:, None])
    if not (cpu.is_cpu(logits) and cpu.stay_finite(largest)):
        logits.sub_(largest)
        wanted = wanted - largest
    raised = logits.exp_()
    total = raised.sum(-1, keepdim=True)
    figures[0], figures[2] = (log_of_sums(total) - wanted)[:, 0], guess == targets
    return raised, total


def learn(logits: Tensor, targets: Tensor, sft_alpha: float, figures: Tensor) -> Tensor:
    """Cross-entropy of a block; its logits become the gradient, short of the factor [n] that is returned."""
    raised, total = cross_entropy(logits, targets, figures)
    figures[1] = 0.0
    raised.scatter_add_(-1, targets[:, None], -total)
    return (sft_alpha / total)[:, 0]
