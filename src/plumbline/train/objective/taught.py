"""The teacher's side of a batch, as a step compares itself with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from plumbline.train.objective.features import MergerRows
from plumbline.train.objective.top_tokens import TopTokens


@dataclass(frozen=True)
class Taught:
    """The teacher's side of a batch.

    hidden: rows [N, H] after the final norm that predict a supervised token; head: [V, H]; both None where `top` has
    its most likely tokens instead; mergers: what passed through its mergers; tower_shared: whether the student's tower
    computes the same as far as the mergers; trunk: rows [B, L, H] behind the lowest `layers` language layers, which
    both sides have in common.
    """

    hidden: Tensor | None
    head: Tensor | None
    mergers: MergerRows = field(default_factory=MergerRows)
    tower_shared: bool = False
    layers: int = 0
    trunk: Tensor | None = None
    top: TopTokens | None = None

    def tensors(self) -> list[Tensor]:
        """What the teacher gave for this batch, without its weights."""
        said = [] if self.hidden is None else [self.hidden]
        return [*said, *self.mergers.left, *([] if self.top is None else [self.top.log_probs.exp()])]
