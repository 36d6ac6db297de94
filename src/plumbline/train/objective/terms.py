"""Cross-entropy and generalised Jensen-Shannon divergence from hidden rows, without the logits of a whole batch.

The output head maps a hidden row [H] to [V] logits (V = 151,936 for Qwen3-VL), so full logits dominate the memory of
a distillation step. Here only the rows that predict a supervised token are used, a chunk at a time, and the gradient
of the hidden rows is written while the chunk's logits exist: no tensor larger than [2 * chunk, V] is ever held. What is
left besides the three products with the head is memory traffic: within a chunk, a few rows at a time go through every
elementwise pass while they are in the processor's cache, in place. The mathematics is in `divergence.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plumbline.train.objective import cpu
from plumbline.train.objective.divergence import RowSums, anchor
from plumbline.train.objective.passes import learn, precision_of, scratch
from plumbline.train.objective.top_tokens import TopTokens, anchor_to_top
from plumbline.train.objective.weights import LossWeights

CHUNK_ROWS = 160


@dataclass(frozen=True)
class HeadTerms:
    """What one pass over the supervised rows yields; sums add up exactly over batches and ranks.

    objective: scalar, differentiable with respect to the hidden rows (and the head if it trains):
        the sum over rows of `sft_alpha * ce + llm_kd_weight * kd`.
    row_ce, row_kd, row_hits: cross-entropy, divergence times its row's weight (0 without a teacher), and whether the
        arg max is the target, of each row [N], detached.
    """

    objective: Tensor
    row_ce: Tensor
    row_kd: Tensor
    row_hits: Tensor

    @property
    def ce(self) -> Tensor:
        """Sum of the cross-entropies."""
        return self.row_ce.sum()

    @property
    def kd(self) -> Tensor:
        """Sum of the divergences."""
        return self.row_kd.sum()

    @property
    def hits(self) -> Tensor:
        """Number of rows whose arg max is the target."""
        return self.row_hits.sum()


def head_terms(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: LossWeights,
    teacher_rows: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    kd_weights: Tensor | None = None,
    teacher_top: TopTokens | None = None,
) -> HeadTerms:
    """CE and JSD over supervised rows, with gradients for `rows` and, when it requires them, `weight`.

    rows: [N, H] hidden rows after the final norm, each predicting its target.
    weight: [V, H] output head; targets: [N] token ids.
    teacher_rows [N, H'], teacher_weight [V, H']: the teacher's side, without gradients; both or neither.
    kd_weights: [N], how much the divergence of each row counts; all 1 when left out.
    teacher_top: in place of the teacher's rows, what is known of its distribution, which has a temperature of 1.
    """
    if teacher_top is not None and weights.kd_temperature != 1.0:
        raise ValueError("the most likely tokens describe a distribution at its own temperature alone")
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.to(weight.dtype)
        taught = teacher_top if teacher_rows is None else (teacher_rows, teacher_weight)
        objective, per_row = _FusedHead.apply(rows, weight, targets, taught, kd_weights, weights)
    return HeadTerms(objective, *per_row)


class _FusedHead(torch.autograd.Function):
    """Chunked forward that also writes the gradients; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        taught: tuple[Tensor, Tensor] | TopTokens | None,
        kd_weights: Tensor | None,
        weights: LossWeights,
    ) -> tuple[Tensor, Tensor]:
        number = rows.shape[0]
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=precision_of(weight)) if ctx.needs_input_grad[1] else None
        per_row = torch.zeros(3, number, dtype=precision_of(weight), device=rows.device)
        # Chunks of one size: a short last one would read the whole head for little.
        chunk = math.ceil(number / max(1, math.ceil(number / CHUNK_ROWS)))
        head = _ChunkedHead(chunk, weight, taught, weights, kd_weights)
        for start in range(0, number, max(chunk, 1)):
            part = slice(start, min(start + chunk, number))
            gradient, factors = head.chunk(rows, targets, part, per_row[:, part])
            scale = factors[:, None]
            if grad_rows is not None:
                torch.mm(gradient, weight, out=grad_rows[part]).mul_(scale.to(weight.dtype))
            if grad_weight is not None:
                grad_weight += gradient.t() @ (rows[part] * scale.to(rows.dtype))
        ctx.save_for_backward(grad_rows, grad_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(per_row)
        return (weights.sft_alpha * per_row[0] + weights.llm_kd_weight * per_row[1]).sum(), per_row

    @staticmethod
    def backward(ctx: Any, grad_objective: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        grad_rows, grad_weight = ctx.saved_tensors
        return (
            None if grad_rows is None else grad_rows * grad_objective.to(grad_rows.dtype),
            None if grad_weight is None else (grad_weight * grad_objective).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
        )


class _ChunkedHead:
    """The memory that all chunks of a pass share, and what happens to one chunk.

    chunk: rows at most; weight: [V, H]; taught: the teacher's rows [N, H'] and head [V, H'], or its most likely tokens;
    kd_weights: [N].
    """

    def __init__(
        self,
        chunk: int,
        weight: Tensor,
        taught: tuple[Tensor, Tensor] | TopTokens | None,
        weights: LossWeights,
        kd_weights: Tensor | None,
    ):
        vocabulary = weight.shape[0]
        self._kd_weights = None if kd_weights is None else kd_weights.to(precision_of(weight))[:, None]
        self._weight, self._weights = weight, weights
        self._top = taught if isinstance(taught, TopTokens) else None
        self._taught = None if isinstance(taught, TopTokens) else taught
        self._logits = scratch("logits", chunk if self._taught is None else 2 * chunk, vocabulary, weight.dtype, weight)
        self._block = min(chunk, max(1, cpu.BLOCK_ELEMENTS // vocabulary)) if cpu.is_cpu(weight) else chunk
        precision = precision_of(weight)
        converted = 0 if weight.dtype == precision else 2
        spare = 0 if self._taught is None else 3 if weights.kd_temperature == 1.0 else 4
        blocks = [
            scratch(f"block {number}", self._block, vocabulary, precision, weight)
            for number in range(converted + spare)
        ]
        self._converted, self._spare = blocks[:converted], blocks[converted:]

    def chunk(self, rows: Tensor, targets: Tensor, part: slice, figures: Tensor) -> tuple[Tensor, Tensor]:
        """(gradient of a row's objective by its logits [n, V], short of a factor; that factor [n]).

        rows [N, H], targets [N]: of the whole pass, of which `part` is this chunk. Writes to figures [3, n]:
        cross-entropy, divergence, hit. The gradient is good until the next chunk.
        """
        logits = self._products(rows[part], part)
        number = figures.shape[1]
        factors = figures.new_empty(number)
        sums = figures.new_empty(len(RowSums._fields), number, 1)
        for start in range(0, number, self._block):
            block = slice(start, min(start + self._block, number))
            rows_at = slice(part.start + start, part.start + block.stop)
            wanted, counted = targets[rows_at], self._counted(rows_at)
            student = self._in_precision(logits[block], 0)
            if self._top is not None:
                named = self._top.part(rows_at, student.device, student.dtype)
                factors[block] = anchor_to_top(student, *named, wanted, self._weights, counted, figures[:, block])
            elif self._taught is None:
                factors[block] = learn(student, wanted, self._weights.sft_alpha, figures[:, block])
            else:
                teacher = self._in_precision(logits[number + start : number + block.stop], 1)
                spare = [tensor[: student.shape[0]] for tensor in self._spare]
                left = RowSums(*sums[:, block])
                factors[block] = anchor(student, teacher, wanted[:, None], self._weights, counted, spare, left)
            if student.dtype != logits.dtype:
                # Short of its factor a gradient may be larger than half precision reaches.
                torch.mul(student, factors[block, None], out=logits[block])
                factors[block] = 1.0
        if self._taught is not None:
            figures[:] = RowSums(*sums).figures(self._weights.beta, self._counted(part))
        return logits[:number], factors

    def _counted(self, rows: slice) -> Tensor | float:
        """How much the divergence of some rows counts: [n, 1], or one number for all."""
        return 1.0 if self._kd_weights is None else self._kd_weights[rows]

    def _products(self, mine: Tensor, part: slice) -> Tensor:
        """Logits of the student's rows [n, V], then those of the teacher's."""
        number = mine.shape[0]
        if self._taught is None:
            return torch.mm(mine, self._weight.t(), out=self._logits[:number])
        theirs, head = self._taught[0][part], self._taught[1]
        logits = self._logits[: 2 * number]
        if head.data_ptr() == self._weight.data_ptr() and head.shape == self._weight.shape:
            # One head for both sides is read once.
            return torch.mm(torch.cat([mine, theirs.to(mine.dtype)]), head.t(), out=logits)
        torch.mm(mine, self._weight.t(), out=logits[:number])
        if head.dtype == logits.dtype:
            torch.mm(theirs.to(head.dtype), head.t(), out=logits[number:])
        else:
            logits[number:] = theirs.to(head.dtype) @ head.t()
        return logits

    def _in_precision(self, logits: Tensor, side: int) -> Tensor:
        """The logits themselves, or a copy of them, in the precision of the elementwise passes."""
        return self._converted[side][: logits.shape[0]].copy_(logits) if self._converted else logits
