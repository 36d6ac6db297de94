"""Cross-entropy and generalised Jensen-Shannon divergence from hidden rows, without the logits of a whole batch.

The output head maps a hidden row [H] to [V] logits (V = 151,936 for Qwen3-VL), so full logits dominate the memory of
a distillation step. Here only the rows that predict a supervised token are used, a chunk at a time, and the gradient
of the hidden rows is written while the chunk's logits exist: no tensor larger than [2 * chunk, V] is ever held. What is
left beside the three products with the head is memory traffic: within a chunk, a few rows at a time go through every
elementwise pass while they are in the processor's cache, in place.

With p = softmax(student / T), q = softmax(teacher / T) and the mixture m = (1 - beta) p + beta q:

    JSD_beta = beta KL(q || m) + (1 - beta) KL(p || m)          (Agarwal et al. 2024, arXiv 2306.13649, eq. 1)
    beta = 0 is forward KL(q || p), beta = 1 is reverse KL(p || q), both at full weight
    for small beta it behaves as beta * KL(q || p)

Its gradient in closed form, with r = log p - log m:

    d JSD_beta / d student = (1 - beta) / T * p * (r - sum(p r))     for 0 < beta < 1
    d KL(q || p) / d student = (p - q) / T
    d KL(p || q) / d student = p * (log p - log q - KL(p || q)) / T

Below, `e` is a softmax before its division by the row sum `s`. Adding a constant to r changes nothing in r - sum(p r),
so that logits less their largest stand for log p there; the division is left to factors per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

CHUNK_ROWS = 160
_BLOCK_ELEMENTS = 1_280_000  # on a CPU, what stays in its caches through the elementwise passes
_SAFE_EXPONENT = 32.0  # e to this power, times a vocabulary, stays finite in fp32
_SAFE_SUMS = (math.exp(-20.0), math.exp(64.0))  # of exponentials: these, and ratios of them, stay finite in fp32
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class LossWeights:
    """How the two terms make the loss: `sft_alpha * CE + llm_kd_weight * JSD_beta`."""

    sft_alpha: float = 1.0
    llm_kd_weight: float = 0.0
    beta: float = 0.5
    kd_temperature: float = 1.0


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
        raise ValueError("the most likely tokens tell a distribution at its own temperature alone")
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
        grad_weight = torch.zeros_like(weight, dtype=_precision(weight)) if ctx.needs_input_grad[1] else None
        per_row = torch.zeros(3, number, dtype=_precision(weight), device=rows.device)
        # Chunks of one size: a short last one would read the whole head for little.
        chunk = math.ceil(number / max(1, math.ceil(number / CHUNK_ROWS)))
        head = _Head(chunk, weight, taught, weights, kd_weights)
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


class _Head:
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
        self._kd_weights = None if kd_weights is None else kd_weights.to(_precision(weight))[:, None]
        self._weight, self._weights = weight, weights
        self._top = taught if isinstance(taught, TopTokens) else None
        self._taught = None if isinstance(taught, TopTokens) else taught
        self._logits = _unset("logits", chunk if self._taught is None else 2 * chunk, vocabulary, weight.dtype, weight)
        on_cpu = weight.device.type == "cpu"
        self._block = min(chunk, max(1, _BLOCK_ELEMENTS // vocabulary)) if on_cpu else chunk
        precision = _precision(weight)
        converted = 0 if weight.dtype == precision else 2
        spare = 0 if self._taught is None else 3 if weights.kd_temperature == 1.0 else 4
        blocks = [
            _unset(f"block {number}", self._block, vocabulary, precision, weight) for number in range(converted + spare)
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
        sums = figures.new_empty(len(_Sums._fields), number, 1)
        for start in range(0, number, self._block):
            block = slice(start, min(start + self._block, number))
            rows_at = slice(part.start + start, part.start + block.stop)
            wanted, counted = targets[rows_at], self._counted(rows_at)
            student = self._in_precision(logits[block], 0)
            if self._top is not None:
                named = self._top.part(rows_at, student.device, student.dtype)
                factors[block] = _anchored_to_top(student, *named, wanted, self._weights, counted, figures[:, block])
            elif self._taught is None:
                factors[block] = _learned(student, wanted, self._weights.sft_alpha, figures[:, block])
            else:
                teacher = self._in_precision(logits[number + start : number + block.stop], 1)
                spare = [tensor[: student.shape[0]] for tensor in self._spare]
                left = _Sums(*sums[:, block])
                factors[block] = _anchored(student, teacher, wanted[:, None], self._weights, counted, spare, left)
            if student.dtype != logits.dtype:
                # Short of its factor a gradient may be larger than half precision reaches.
                torch.mul(student, factors[block, None], out=logits[block])
                factors[block] = 1.0
        if self._taught is not None:
            figures[:] = _Sums(*sums).figures(self._weights.beta, self._counted(part))
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


def _precision(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


_kept: dict[tuple[str, torch.dtype], Tensor] = {}


def _unset(use: str, rows: int, vocabulary: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Memory for [rows, V] values of one use, on the device of `like`.

    On a CPU it is kept from call to call, as CUDA's allocator does: given back to the system, every page of it is
    faulted in again, which costs as much as several passes over it.
    """
    if like.device.type != "cpu":
        return like.new_empty(rows, vocabulary, dtype=dtype)
    size = rows * vocabulary
    if (use, dtype) not in _kept or _kept[use, dtype].numel() < size:
        _kept[use, dtype] = like.new_empty(size, dtype=dtype)
    return _kept[use, dtype][:size].view(rows, vocabulary)


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(value [n, 1], index [n]) of each row's largest; numpy finds it eight times as fast as torch on a CPU."""
    index = torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1)
    return logits.gather(-1, index[:, None]), index


def _lowered(logits: Tensor, largest: Tensor) -> Tensor | float:
    """What was taken from the logits, in place, so that their exponentials stay finite: nothing where they do."""
    if logits.device.type == "cpu" and bool((largest.abs() < _SAFE_EXPONENT).all()):
        return 0.0
    logits.sub_(largest)
    return largest


def _raise(logits: Tensor, out: Tensor, total: Tensor) -> None:
    """Write e = exp of the logits [n, V] to `out` and its row sums to `total` [n, 1].

    The logits are lowered, in place, where those would not stay finite; on a CPU that shows afterwards, as it is rare
    and a search for the largest is a pass.
    """
    if logits.device.type == "cpu":
        torch.sum(torch.exp(logits, out=out), -1, keepdim=True, out=total)
        low, high = _SAFE_SUMS
        if all(low < value < high for value in total[:, 0].tolist()):
            return
    logits.sub_(logits.amax(-1, keepdim=True))
    torch.sum(torch.exp(logits, out=out), -1, keepdim=True, out=total)


def _hits(logits: Tensor, e: Tensor, total: Tensor, targets: Tensor, out: Tensor) -> None:
    """Write to `out` [n, 1] whether the first of each row's largest logits is the target's, of [n, 1] `targets`.

    e, total: as `_raise` wrote them. On a CPU a row is searched only where the target's probability does not tell:
    above a half it is the largest, below the mean it is not. The margins are wider than rounding.
    """
    if logits.device.type != "cpu":
        torch.eq(logits.argmax(-1, keepdim=True), targets, out=out)
        return
    shares = e.gather(-1, targets).div_(total)
    torch.gt(shares, 0.51, out=out)
    mean = 1.0 / logits.shape[1]
    for row, share in enumerate(shares[:, 0].tolist()):
        if 0.99 * mean < share <= 0.51:
            out[row] = int(logits[row].numpy().argmax()) == int(targets[row])


def _log(total: Tensor) -> Tensor:
    """Logarithms of row sums, in a precision that bears subtracting them from each other."""
    return total.double().log()


def _cross_entropy(logits: Tensor, targets: Tensor, figures: Tensor) -> tuple[Tensor, Tensor]:
    """Write cross-entropy and hit of a block to figures [3, n]; (its logits, now e [n, V], row sums [n, 1])."""
    largest, guess = _largest(logits)
    wanted = logits.gather(-1, targets[:, None]) - _lowered(logits, largest)
    raised = logits.exp_()
    total = raised.sum(-1, keepdim=True)
    figures[0], figures[2] = (_log(total) - wanted)[:, 0], guess == targets
    return raised, total


def _learned(logits: Tensor, targets: Tensor, sft_alpha: float, figures: Tensor) -> Tensor:
    """Cross-entropy of a block; its logits become the gradient, short of the factor [n] that is returned."""
    raised, total = _cross_entropy(logits, targets, figures)
    figures[1] = 0.0
    raised.scatter_add_(-1, targets[:, None], -total)
    return (sft_alpha / total)[:, 0]


class _Sums(NamedTuple):
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
        ce = _log(self.learned) - self.wanted
        return torch.cat([ce, self._divergence(beta) * counted, self.hit], -1).t()

    def _divergence(self, beta: float) -> Tensor:
        """JSD_beta."""
        apart = _log(self.total) - _log(self.teacher_total)
        if beta == 0.0:
            return self.cross / self.teacher_total + apart
        if beta == 1.0:
            return self.own - apart
        theirs = self.cross / self.teacher_total - math.log(beta)
        return beta * theirs + (1.0 - beta) * (self.own - apart - math.log(beta))


def _anchored(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    weights: LossWeights,
    counted: Tensor | float,
    spare: list[Tensor],
    sums: _Sums,
) -> Tensor:
    """Sums of a block are written; `student` becomes the gradient, short of the factor [n] returned.

    student, teacher: logits [n, V], both used up; targets: [n, 1]; counted: weight of the divergence, [n, 1] or one for
    all; spare: scratch of the logits' shape.
    """
    alpha, beta, temperature = weights.sft_alpha, weights.beta, weights.kd_temperature
    factor = weights.llm_kd_weight / temperature * counted
    learned = spare[0] if temperature == 1.0 else spare[3]
    _raise(student, learned, sums.learned)
    torch.gather(student, -1, targets, out=sums.wanted)
    _hits(student, learned, sums.learned, targets, sums.hit)
    sides = _Sides(student, spare[0], teacher, spare[1], sums)
    if temperature == 1.0:
        # Both gradients are made of the same softmax: one pass adds them.
        sums.total.copy_(sums.learned)
        _raise(teacher, spare[1], sums.teacher_total)
        short = sides.diverge(factor, beta, alpha, spare[2])
        student.scatter_add_(-1, targets, sums.total * (-alpha / short))
        return (short / sums.total)[:, 0]
    _raise(student.div_(temperature), spare[0], sums.total)
    _raise(teacher.div_(temperature), spare[1], sums.teacher_total)
    short = sides.diverge(factor, beta, 0.0, spare[2])
    student.mul_(short / sums.total).addcmul_(learned, alpha / sums.learned)
    student.scatter_add_(-1, targets, student.new_full(targets.shape, -alpha))
    return student.new_ones(student.shape[0])


def _anchored_to_top(
    student: Tensor,
    ids: Tensor,
    theirs: Tensor,
    targets: Tensor,
    weights: LossWeights,
    counted: Tensor | float,
    figures: Tensor,
) -> Tensor:
    """As `_anchored`, for a teacher of which K tokens are known: ids [n, K], `theirs` their probabilities.

    With P, Q over K + 1 outcomes and r the derivative of the divergence by P, the gradient by a logit is
    p * (r of its outcome - sum(P r)): one number per row for all tokens but the K.
    """
    alpha, beta = weights.sft_alpha, weights.beta
    raised, total = _cross_entropy(student, targets, figures)
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


@dataclass(frozen=True)
class _Sides:
    """Two distributions: logits less a constant [n, V], e = exp of them, and the sums of their rows."""

    student: Tensor
    e: Tensor
    teacher: Tensor
    teacher_e: Tensor
    sums: _Sums

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
