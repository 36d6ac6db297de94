"""Cross-entropy and generalised Jensen-Shannon divergence from hidden rows, without the logits of a whole batch.

The output head maps a hidden row [H] to [V] logits (V = 151,936 for Qwen3-VL), so full logits dominate the memory of
a distillation step. Here only the rows that predict a supervised token are used, a chunk at a time, and the gradient
of the hidden rows is written while the chunk's logits exist: no tensor larger than [chunk, V] is ever held.

With p = softmax(student / T), q = softmax(teacher / T) and the mixture m = (1 - beta) p + beta q:

    JSD_beta = beta KL(q || m) + (1 - beta) KL(p || m)          (Agarwal et al. 2024, arXiv 2306.13649, eq. 1)
    beta = 0 is forward KL(q || p), beta = 1 is reverse KL(p || q), both at full weight
    for small beta it behaves as beta * KL(q || p)

Its gradient in closed form, with r = log p - log m:

    d JSD_beta / d student = (1 - beta) / T * p * (r - sum(p r))     for 0 < beta < 1
    d KL(q || p) / d student = (p - q) / T
    d KL(p || q) / d student = p * (log p - log q - KL(p || q)) / T
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ROWS = 64


@dataclass(frozen=True)
class LossWeights:
    """How the two terms make the loss: `sft_alpha * CE + llm_kd_weight * JSD_beta`."""

    sft_alpha: float = 1.0
    llm_kd_weight: float = 0.0
    beta: float = 0.5
    kd_temperature: float = 1.0


@dataclass(frozen=True)
class HeadTerms:
    """What one pass over the supervised rows yields; sums, so that batches and ranks add up exactly.

    objective: scalar, differentiable with respect to the hidden rows (and the head if it trains):
        `sft_alpha * ce + llm_kd_weight * kd`.
    ce, kd: scalar sums over rows, detached and unweighted; kd is 0 without a teacher.
    hits: number of rows whose arg max is the target.
    row_ce: cross-entropy of each row [N], detached.
    """

    objective: Tensor
    ce: Tensor
    kd: Tensor
    hits: Tensor
    row_ce: Tensor


def generalized_jsd(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Value and gradient of JSD_beta per row.

    log_p (student), log_q (teacher): float log-probabilities [N, V]; both are consumed as scratch space.
    Returns (value [N], gradient with respect to the student's logits [N, V]); the temperature is the caller's.
    """
    p, q = log_p.exp(), log_q.exp()
    if beta == 0.0:
        return _dot(q, log_q.sub_(log_p)), p.sub_(q)
    if beta == 1.0:
        ratio = log_p.sub_(log_q)
        value = _dot(p, ratio)
        return value, ratio.sub_(value[:, None]).mul_(p)
    # Where both probabilities vanish the floor keeps 0 * log 0 at 0.
    log_m = torch.lerp(p, q, beta).clamp_min_(torch.finfo(p.dtype).tiny).log_()
    teacher_part = _dot(q, log_q.sub_(log_m))
    ratio = log_p.sub_(log_m)
    student_part = _dot(p, ratio)
    gradient = ratio.sub_(student_part[:, None]).mul_(p).mul_(1.0 - beta)
    return beta * teacher_part + (1.0 - beta) * student_part, gradient


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise inner product [N] of two [N, V] tensors, without the [N, V] product in memory."""
    return torch.linalg.vecdot(a, b)


class _FusedHead(torch.autograd.Function):
    """Chunked forward that also writes the gradients; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        teacher_rows: Tensor | None,
        teacher_weight: Tensor | None,
        weights: LossWeights,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        sums = torch.zeros(3, dtype=_accumulator(rows.dtype), device=rows.device)
        row_ce = torch.zeros(rows.shape[0], dtype=sums.dtype, device=rows.device)
        for start in range(0, rows.shape[0], CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            if teacher_rows is None or teacher_weight is None:
                terms, row_ce[part], grad_logits, scale = _learned(rows[part], weight, targets[part], weights.sft_alpha)
            else:
                taught = (teacher_rows[part], teacher_weight)
                terms, row_ce[part], grad_logits, scale = _chunk(rows[part], weight, targets[part], taught, weights)
            sums += terms
            if grad_rows is not None:
                grad_rows[part] = (grad_logits.to(weight.dtype) @ weight) * scale.to(weight.dtype)
            if grad_weight is not None:
                grad_weight += grad_logits.to(rows.dtype).t() @ (rows[part] * scale.to(rows.dtype))
        ctx.save_for_backward(grad_rows, grad_weight)
        ctx.weight_dtype = weight.dtype
        objective = weights.sft_alpha * sums[0] + weights.llm_kd_weight * sums[1]
        ctx.mark_non_differentiable(sums, row_ce)
        return objective, sums, row_ce

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


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _learned(rows: Tensor, weight: Tensor, targets: Tensor, sft_alpha: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`_chunk` without a teacher: one tensor of logits, changed in place, passed over as seldom as can be.

    The gradient by the logits is `alpha * (softmax - onehot)`. With e = exp(logits - max) and its row sum s it equals
    `alpha / s * (e - s * onehot)`: the division by s is left to the much smaller product with the head.
    """
    logits = (rows @ weight.t()).to(_accumulator(rows.dtype))
    index = torch.arange(targets.numel(), device=targets.device)
    wanted = logits[index, targets]
    largest, guess = logits.max(-1)
    hits = (guess == targets).sum().to(logits.dtype)
    raised = logits.sub_(largest[:, None]).exp_()
    total = raised.sum(-1)
    row_ce = total.log() + largest - wanted
    raised[index, targets] -= total
    return torch.stack([row_ce.sum(), row_ce.new_zeros(()), hits]), row_ce, raised, (sft_alpha / total)[:, None]


def _chunk(
    rows: Tensor, weight: Tensor, targets: Tensor, taught: tuple[Tensor, Tensor], weights: LossWeights
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A chunk of rows: sums [ce, kd, hits], cross-entropy [n], and the gradient of the objective by the logits.

    The gradient comes as a product: [n, V] times a factor per row [n, 1].
    """
    logits = (rows @ weight.t()).to(_accumulator(rows.dtype))
    log_p = logits.log_softmax(-1)
    index = torch.arange(targets.numel(), device=targets.device)
    row_ce = -log_p[index, targets]
    hits = (logits.argmax(-1) == targets).sum().to(row_ce.dtype)
    grad = log_p.exp().mul_(weights.sft_alpha)
    grad[index, targets] -= weights.sft_alpha
    temperature = weights.kd_temperature
    teacher_logits = (taught[0] @ taught[1].t()).to(logits.dtype)
    if temperature != 1.0:
        log_p, teacher_logits = (logits / temperature).log_softmax(-1), teacher_logits / temperature
    value, kd_grad = generalized_jsd(log_p, teacher_logits.log_softmax(-1), weights.beta)
    grad.add_(kd_grad, alpha=weights.llm_kd_weight / temperature)
    return torch.stack([row_ce.sum(), value.sum(), hits]), row_ce, grad, grad.new_ones(())


def head_terms(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: LossWeights,
    teacher_rows: Tensor | None = None,
    teacher_weight: Tensor | None = None,
) -> HeadTerms:
    """CE and JSD over supervised rows, with gradients for `rows` and, when it requires them, `weight`.

    rows: [N, H] hidden rows after the final norm, each predicting its target.
    weight: [V, H] output head; targets: [N] token ids.
    teacher_rows [N, H'], teacher_weight [V, H']: the teacher's side, without gradients; both or neither.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.to(weight.dtype)
        objective, sums, row_ce = _FusedHead.apply(rows, weight, targets, teacher_rows, teacher_weight, weights)
    return HeadTerms(objective, ce=sums[0], kd=sums[1], hits=sums[2], row_ce=row_ce)
