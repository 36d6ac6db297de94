"""The divergence of a block of logits from the teacher's, and its gradient, in place.

With p = softmax(student / T), q = softmax(teacher / T) and the mixture m = (1 - beta) p + beta q:

    JSD_beta = beta KL(q || m) + (1 - beta) KL(p || m)          (Agarwal et al. 2024, arXiv 2306.13649, eq. 1)
    beta = 0 is forward KL(q || p), beta = 1 is reverse KL(p || q), both at full weight
    for small beta it behaves as beta * KL(q || p)

Its gradient in closed form, with r = log p - log m:

    d JSD_beta / d student = (1 - beta) / T * p * (r - sum(p r))     for 0 < beta < 1
    d KL(q || p) / d student = (p - q) / T
    d KL(p || q) / d student = p * (log p - log q - KL(p || q)) / T

Below, `e` is a softmax before its division by the row sum `s`. Adding a constant to r changes nothing in r - sum(p r),
so that logits less their largest serve as log p there; the division is left to factors per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from plumbline.train.objective.passes import log_of_sums, note_hits, raise_logits
from plumbline.train.objective.weights import LossWeights

_TINY = torch.finfo(torch.float32).tiny


class RowSums(NamedTuple):
    """What the passes over the logits leave of each row, [n, 1] each.

    The figures of a whole chunk are made of them at once: between the passes over a block every small operation counts.
    """

    learned: Tensor  # the student's e
    wanted: Tensor  # the target's logit
    hit: Tensor
    total: Tensor  # the student's e at the temperature of the divergence
    teacher_total: Tensor
    cross: Tensor  # the teacher's e times its logit less the student's, or less log m where there is a mixture
    own: Tensor  # mean of r under the student

    def figures(self, beta: float, counted: Tensor | float) -> Tensor:
        """Cross-entropy, divergence times its weight (`counted`, [n, 1] or one for all), hit: [3, n]."""
        ce = log_of_sums(self.learned) - self.wanted
        return torch.cat([ce, self._divergence(beta) * counted, self.hit], -1).t()

    def _divergence(self, beta: float) -> Tensor:
        """JSD_beta."""
        apart = log_of_sums(self.total) - log_of_sums(self.teacher_total)
        if beta == 0.0:
            return self.cross / self.teacher_total + apart
        if beta == 1.0:
            return self.own - apart
        theirs = self.cross / self.teacher_total - math.log(beta)
        return beta * theirs + (1.0 - beta) * (self.own - apart - math.log(beta))


def anchor(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    weights: LossWeights,
    counted: Tensor | float,
    spare: list[Tensor],
    sums: RowSums,
) -> Tensor:
    """Sums of a block are written; `student` becomes the gradient, short of the factor [n] returned.

    student, teacher: logits [n, V], both used up; targets: [n, 1]; counted: weight of the divergence, [n, 1] or one for
    all; spare: scratch of the logits' shape.
    """
    alpha, beta, temperature = weights.sft_alpha, weights.beta, weights.kd_temperature
    factor = weights.llm_kd_weight / temperature * counted
    learned = spare[0] if temperature == 1.0 else spare[3]
    raise_logits(student, learned, sums.learned)
    torch.gather(student, -1, targets, out=sums.wanted)
    note_hits(student, learned, sums.learned, targets, sums.hit)
    sides = _Sides(student, spare[0], teacher, spare[1], sums)
    if temperature == 1.0:
        # Both gradients are made of the same softmax: one pass adds them.
        sums.total.copy_(sums.learned)
        raise_logits(teacher, spare[1], sums.teacher_total)
        short = sides.diverge(factor, beta, alpha, spare[2])
        student.scatter_add_(-1, targets, sums.total * (-alpha / short))
        return (short / sums.total)[:, 0]
    raise_logits(student.div_(temperature), spare[0], sums.total)
    raise_logits(teacher.div_(temperature), spare[1], sums.teacher_total)
    short = sides.diverge(factor, beta, 0.0, spare[2])
    student.mul_(short / sums.total).addcmul_(learned, alpha / sums.learned)
    student.scatter_add_(-1, targets, student.new_full(targets.shape, -alpha))
    return student.new_ones(student.shape[0])


@dataclass(frozen=True)
class _Sides:
    """Two distributions: logits less a constant [n, V], e = exp of them, and the sums of their rows."""

    student: Tensor
    e: Tensor
    teacher: Tensor
    teacher_e: Tensor
    sums: RowSums

    def diverge(self, factor: Tensor | float, beta: float, alpha: float, scratch: Tensor) -> float:
        """Write the gradient of JSD_beta, and the sums its value is made of; a number by which `student` is short.

        `student` times that number becomes `total * (factor * gradient of JSD_beta + alpha * p)`; factor: [n, 1] or one
        for all rows. All tensors are used up.
        """
        p, q = self.student, self.teacher
        if beta == 0.0:
            self._cross(q.sub_(p))
            return self._towards(factor, alpha)
        if beta == 1.0:
            return self._move(p.sub_(q), factor, alpha)
        # log m short of log(beta / teacher_total); where both probabilities vanish the floor keeps 0 * log 0 at 0.
        share = self.sums.teacher_total / self.sums.total * ((1.0 - beta) / beta)
        log_m = torch.addcmul(self.teacher_e, self.e, share, out=scratch).clamp_min_(_TINY).log_()
        self._cross(q.sub_(log_m))
        return self._move(p.sub_(log_m), factor * (1.0 - beta), alpha)

    def _cross(self, apart: Tensor) -> None:
        """Products summed in place: a dot product over the vocabulary loses a digit."""
        torch.sum(apart.mul_(self.teacher_e), -1, keepdim=True, out=self.sums.cross)

    def _towards(self, factor: Tensor | float, alpha: float) -> float:
        """Write the gradient of forward KL; what it is short of. One pass where a single factor can be left out."""
        share = self.sums.total / self.sums.teacher_total
        if isinstance(factor, Tensor) or alpha + factor == 0.0:
            torch.mul(self.e, alpha + factor, out=self.student).addcmul_(self.teacher_e, -factor * share)
            return 1.0
        torch.addcmul(self.e, self.teacher_e, share * (-factor / (alpha + factor)), out=self.student)
        return alpha + factor

    def _move(self, r: Tensor, factor: Tensor | float, alpha: float) -> float:
        """Turn r into the gradient `total * p * (factor * (r - mean of r) + alpha)`; what it is short of.

        r: log p - log m up to a constant per row, [n, V].
        """
        moved = r.mul_(self.e)
        own = torch.sum(moved, -1, keepdim=True, out=self.sums.own).div_(self.sums.total)
        if isinstance(factor, Tensor) or factor == 0.0:
            moved.mul_(factor).addcmul_(self.e, alpha - factor * own)
            return 1.0
        moved.addcmul_(self.e, alpha / factor - own)
        return factor
