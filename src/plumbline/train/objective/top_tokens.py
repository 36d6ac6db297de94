"""The divergence from a teacher of which only the most likely tokens are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plumbline.train.objective.passes import cross_entropy
from plumbline.train.objective.weights import LossWeights


@dataclass(frozen=True)
class TopTokens:
    """A teacher of which only the most likely tokens are known.

    ids: [N, K], NONE where a row names fewer; log_probs: [N, K], natural logarithms. All other tokens together have
    what is left of the probability: the divergence is taken over K + 1 outcomes, which is at most the one over the
    vocabulary and equal to it where nothing is left.
    """

    NONE: ClassVar[int] = -1

    ids: Tensor
    log_probs: Tensor

    def part(self, rows: slice, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(ids [n, K], probabilities [n, K], 0 where there is no token) of some rows."""
        ids = self.ids[rows].to(device)
        return ids, self.log_probs[rows].to(device, dtype).exp().masked_fill(ids == self.NONE, 0.0)


def anchor_to_top(
    student: Tensor,
    ids: Tensor,
    theirs: Tensor,
    targets: Tensor,
    weights: LossWeights,
    counted: Tensor | float,
    figures: Tensor,
) -> Tensor:
    """As `anchor`, for a teacher of which K tokens are known: ids [n, K], `theirs` their probabilities.

    With P, Q over K + 1 outcomes and r the derivative of the divergence by P, the gradient by a logit is
    p * (r of its outcome - sum(P r)): one number per row for all tokens but the K.
    """
    alpha, beta = weights.sft_alpha, weights.beta
    raised, total = cross_entropy(student, targets, figures)
    known = ids != TopTokens.NONE
    mine = (raised.gather(-1, ids.clamp(min=0)) / total).masked_fill(~known, 0.0)
    # What is left is known no better than to the rounding of the sum: below it a ratio would say anything.
    p, q = (
        torch.cat([side, (1.0 - side.sum(-1, keepdim=True)).clamp(min=torch.finfo(side.dtype).eps)], -1)
        for side in (mine, theirs)
    )
    floor = torch.finfo(p.dtype).tiny
    log_p, log_q = p.clamp(min=floor).log(), q.clamp(min=floor).log()
    if beta == 0.0:
        value, r = q * (log_q - log_p), -q / p.clamp(min=floor)
    elif beta == 1.0:
        r = log_p - log_q
        value = p * r
    else:
        log_m = (beta * q + (1.0 - beta) * p).clamp(min=floor).log()
        r = (1.0 - beta) * (log_p - log_m)
        value = beta * q * (log_q - log_m) + p * r
    figures[1] = (value.sum(-1, keepdim=True) * counted)[:, 0]
    factor = weights.llm_kd_weight * counted
    others = r[:, -1:]
    raised.mul_((alpha + factor * (others - (p * r).sum(-1, keepdim=True))) / total)
    raised.scatter_add_(-1, ids.clamp(min=0), factor * mine * (r[:, :-1] - others))
    raised.scatter_add_(-1, targets[:, None], raised.new_full(total.shape, -alpha))
    return raised.new_ones(raised.shape[0])
