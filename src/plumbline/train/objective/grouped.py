"""Rows of several data sources in one batch, each source with weights of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plumbline.train.objective.terms import HeadTerms, head_terms
from plumbline.train.objective.top_tokens import TopTokens
from plumbline.train.objective.weights import LossWeights


@dataclass(frozen=True)
class TeacherRows:
    """What the teacher says of every row, as `head_terms` takes it."""

    rows: Tensor | None = None
    head: Tensor | None = None
    counted: Tensor | None = None
    top: TopTokens | None = None

    def of(self, index: Tensor) -> TeacherRows:
        """The same of some rows; index: [n]."""
        rows = None if self.rows is None else self.rows[index]
        counted = None if self.counted is None else self.counted[index]
        top = self.top
        if top is not None:
            there = index.to(top.ids.device)
            top = TopTokens(top.ids[there], top.log_probs[there])
        return TeacherRows(rows, self.head, counted, top)


def grouped_terms(
    rows: Tensor,
    head: Tensor,
    targets: Tensor,
    groups: Sequence[tuple[Tensor, LossWeights]],
    teacher: TeacherRows | None,
) -> HeadTerms:
    """`head_terms` of every group of rows with the group's weights, in the order of the rows.

    Args:
        rows: [N, H], each predicting its target.
        head: [V, H].
        targets: [N].
        groups: (rows of the group [n], its weights); each row is in one group.
        teacher: Its side, where any group needs it; groups without a divergence leave it aside.
    """
    parts = []
    for index, weights in groups:
        anchored = teacher.of(index) if teacher is not None and weights.llm_kd_weight else TeacherRows()
        if not weights.llm_kd_weight:
            weights = replace(weights, kd_temperature=1.0)
        parts.append(
            head_terms(
                rows[index], head, targets[index], weights, anchored.rows, anchored.head, anchored.counted, anchored.top
            )
        )
    order = torch.argsort(torch.cat([index for index, _ in groups]))
    joined = [torch.cat([getattr(part, name) for part in parts])[order] for name in ("row_ce", "row_kd", "row_hits")]
    return HeadTerms(torch.stack([part.objective for part in parts]).sum(), *joined)
