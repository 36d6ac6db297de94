"""How far two models are apart on one answer: by kind of token, against the noise of the base, and in what they see."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plumbline.data.answer_kinds import KINDS, token_kinds
from plumbline.infer.engine import Request

if TYPE_CHECKING:
    from torch import Tensor

    from plumbline.infer.local import TransformersEngine
    from plumbline.train.objective.terms import HeadTerms

NOISE_TOKENS = 13
"""Tokens read behind an answer for the base's own noise: other shapes of the same products."""


@dataclass(frozen=True)
class Divergence:
    """Forward KL from the base to the tuned model on an answer.

    Attributes:
        tokens: Of the answer, with its end mark.
        kl: Summed over them, in nats.
        kinds: (tokens, kl) of each kind of `answer_kinds.KINDS`.
        noise: The same sum between the base and itself.
        gain: What the answer has become likelier by, in nats: cross-entropy of the base less that of the tuned model.
    """

    tokens: int
    kl: float
    kinds: tuple[tuple[int, float], ...]
    noise: float
    gain: float


def divergence(request: Request, answer: str, base: TransformersEngine, tuned: TransformersEngine) -> Divergence:
    """Both models read the answer. base and tuned may be one engine, whose adapter is then off for the base's side."""
    import torch

    with torch.no_grad():
        with as_base(base, shared=base is tuned):
            theirs, targets, their_head = base.answer_rows(request, answer)
            again, _, _ = base.answer_rows(request, answer, NOISE_TOKENS)
        mine, _, my_head = tuned.answer_rows(request, answer)
    apart = kl_terms(mine, my_head, targets, theirs, their_head)
    still = kl_terms(again, their_head, targets, theirs, their_head)
    rows = apart.row_kd.cpu()
    found = torch.tensor(token_kinds([base.token_bytes[token] for token in targets.tolist()]))
    kinds = tuple((int((found == kind).sum()), float(rows[found == kind].sum())) for kind in range(len(KINDS)))
    return Divergence(len(targets), float(rows.sum()), kinds, float(still.kd), float(still.ce) - float(apart.ce))


def kl_terms(rows: Tensor, head: Tensor, targets: Tensor, base_rows: Tensor, base_head: Tensor) -> HeadTerms:
    """Forward KL from the base of each row, and the cross-entropy of its target."""
    from plumbline.train.objective.terms import head_terms
    from plumbline.train.objective.weights import LossWeights

    return head_terms(rows, head, targets, LossWeights(0.0, 1.0, 0.0), base_rows, base_head)


def vision_change(request: Request, base: TransformersEngine, tuned: TransformersEngine) -> list[float]:
    """Length of the change of what each merger says of the pictures, relative to what it said; the last one first."""
    with as_base(base, shared=base is tuned):
        before = base.picture_features(request)
    after = tuned.picture_features(request)
    return [float((new - old).norm() / old.norm()) for old, new in zip(before, after, strict=True)]


def as_base(engine: TransformersEngine, *, shared: bool) -> AbstractContextManager[object]:
    """The engine as the base; shared: it carries the fine-tune's adapter."""
    return engine.adapters_off() if shared else nullcontext()
