"""What a CPU does in another way than a GPU in the passes over logits; the values are the same.

A CPU keeps its memory from call to call, finds the largest logit with numpy, and lowers logits only where their
exponentials would not stay finite: each saves a pass over [rows, V] or more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1_280_000
"""Logits that stay in a processor's caches through the elementwise passes."""
_SAFE_EXPONENT = 32.0  # e to this power, times a vocabulary, stays finite in fp32
_SAFE_SUMS = (math.exp(-20.0), math.exp(64.0))  # of exponentials: these, and ratios of them, stay finite in fp32

_kept: dict[tuple[str, torch.dtype], Tensor] = {}


def is_cpu(tensor: Tensor) -> bool:
    """Whether a tensor is in main memory."""
    return tensor.device.type == "cpu"


def kept(use: str, rows: int, vocabulary: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Memory for [rows, V] values of one use, kept from call to call, as CUDA's allocator does.

    Given back to the system, every page of it is faulted in again, which costs as much as several passes over it.
    """
    size = rows * vocabulary
    if (use, dtype) not in _kept or _kept[use, dtype].numel() < size:
        _kept[use, dtype] = like.new_empty(size, dtype=dtype)
    return _kept[use, dtype][:size].view(rows, vocabulary)


def arg_max(logits: Tensor) -> Tensor:
    """Index [n] of each row's largest: numpy finds it eight times as fast as torch."""
    return torch.from_numpy(logits.numpy().argmax(-1))


def stay_finite(largest: Tensor) -> bool:
    """Whether the exponentials of rows with these largest logits stay finite as they are."""
    return bool((largest.abs() < _SAFE_EXPONENT).all())


def sums_stay_finite(total: Tensor) -> bool:
    """Whether sums of exponentials [n, 1], and ratios of them, are finite."""
    low, high = _SAFE_SUMS
    return all(low < value < high for value in total[:, 0].tolist())


def note_hits(logits: Tensor, e: Tensor, total: Tensor, targets: Tensor, out: Tensor) -> None:
    """As `passes.note_hits`: a row is searched only where the target's probability leaves it open.

    Above a half it is the largest, below the mean it is not. The margins are wider than rounding.
    """
    shares = e.gather(-1, targets).div_(total)
    torch.gt(shares, 0.51, out=out)
    mean = 1.0 / logits.shape[1]
    for row, share in enumerate(shares[:, 0].tolist()):
        if 0.99 * mean < share <= 0.51:
            out[row] = int(logits[row].numpy().argmax()) == int(targets[row])
