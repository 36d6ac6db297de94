"""How the terms make the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plumbline.train.objective.features import VisualKd


@dataclass(frozen=True)
class LossWeights:
    """How the two terms make the loss: `sft_alpha * CE + llm_kd_weight * JSD_beta`."""

    sft_alpha: float = 1.0
    llm_kd_weight: float = 0.0
    beta: float = 0.5
    kd_temperature: float = 1.0


@dataclass(frozen=True)
class Objective:
    """What a step minimises.

    Attributes:
        training: Weights of the two terms over tokens.
        evaluation: The same in evaluation.
        visual_kd: The term over visual features.
        token_weights: How much the divergence of a token counts, by its kind (in the order of `KINDS`).
        anchors: Weights of the data sources that are anchors, by the source's name; they are measured apart.
        anchored_evaluation: Whether the teacher takes part in evaluation on them.
    """

    training: LossWeights = field(default_factory=LossWeights)
    evaluation: LossWeights = field(default_factory=LossWeights)
    visual_kd: VisualKd | None = None
    token_weights: tuple[float, ...] | None = None
    anchors: Mapping[str, LossWeights] = field(default_factory=dict)
    anchored_evaluation: bool = True
