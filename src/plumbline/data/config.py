"""What a configuration may say about mixing several sources of records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from plumbline.config.limits import Range


@dataclass(frozen=True, kw_only=True)
class FusionSource:
    """One JSONL of the mixture."""

    name: str
    """Name in the metrics."""
    train_jsonl: str
    """Training records."""
    val_jsonl: str | None = None
    """Validation records."""
    ratio: Annotated[float, Range(ge=0)] = 1.0
    """Samples per epoch: this many times the size of the targets together (of itself for a target)."""
    mode: Literal["dense", "summary", "chat", "irrelevant"] | None = None
    """What the answer is: objects, the summary, the record's own messages, or 无关图片; the run's own when absent."""
    user_prompt: str | None = None
    """Prompt of this source in every mode it is used in, summaries included; the run's own when absent."""
    system_prompt: str | None = None
    """System prompt of this source in every mode it is used in; the run's own when absent."""
    augmentation: bool = True
    """Whether the run's augmentation acts on this source."""
    max_objects_per_image: Annotated[int, Range(ge=1)] | None = None
    """Keep at most this many objects of a record."""
    without_replacement: bool = True
    """Draw each record at most once per epoch while there are enough."""
    role: Literal["learn", "anchor"] = "learn"
    """anchor: what the base itself answers, made by `plumbline anchors build`; the model is held to the base on it."""
    sft_alpha: Annotated[float, Range(ge=0)] | None = None
    """Anchors only: factor of the cross-entropy on their answers; 0 when absent."""
    llm_kd_weight: Annotated[float, Range(ge=0)] | None = None
    """Anchors only: factor of the divergence from the teacher; 1 when absent."""
    beta: Annotated[float, Range(ge=0, le=1)] | None = None
    """Anchors only: as `rlhf.beta`, which is taken when absent."""

    token_share: Annotated[float, Range(gt=0, lt=1)] | None = None
    """Anchors only, in place of `ratio`: share of an epoch's supervised tokens, estimated from some of the records."""

    @property
    def is_anchor(self) -> bool:
        return self.role == "anchor"

    @property
    def anchor_weights(self) -> tuple[float, float]:
        """(factor of the cross-entropy, of the divergence): held to the base, not learned, where nothing is said."""
        kd = 1.0 if self.llm_kd_weight is None else self.llm_kd_weight
        return self.sft_alpha or 0.0, kd


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Several sources of records in one run, drawn again each epoch."""

    targets: tuple[FusionSource, ...] = ()
    """The domain to learn; evaluation runs on these."""
    sources: tuple[FusionSource, ...] = ()
    """What is mixed in with it."""
    evaluate_sources: bool = False
    """Evaluate on the sources too."""
