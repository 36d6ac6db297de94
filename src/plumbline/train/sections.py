"""The sections of a run's YAML that are Plumbline's own.

`model`, `template`, `data`, `tuner`, `training` and `quantization` pass through to the upstream and are described by
the committed table of its names (`config/upstream.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from plumbline.augment.config import AugmentationConfig
from plumbline.config.limits import Length, MayBeEmpty, NameOrFile, Range
from plumbline.data.answer_form import AnswerForm
from plumbline.data.config import FusionConfig

DEEPSPEED_NAMES = ("zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")


@dataclass(frozen=True, kw_only=True)
class TokenWeightsConfig:
    """How much the distillation term of a token counts, by what the token is part of."""

    coordinates: Annotated[float, Range(ge=0)] = 1.0
    """Numbers of boxes, quads, polygons and lines."""
    structure: Annotated[float, Range(ge=0)] = 1.0
    """Names, brackets and marks around them."""
    descriptions: Annotated[float, Range(ge=0)] = 1.0
    """Texts of objects; whole answers that are not dense."""


@dataclass(frozen=True, kw_only=True)
class RlhfConfig:
    """Training against a teacher (gkd) or a reward (grpo). Other keys of the upstream's are passed through."""

    rlhf_type: Literal["gkd", "grpo"]
    """gkd: distillation that anchors the student to its teacher. grpo: reinforcement learning."""
    teacher_model: str | None = None
    """Folder or hub name of the teacher; the student's own base model shares its weights. Needed by gkd. With
    `teacher_model_server` (an OpenAI-compatible server that returns `prompt_logprobs`, e.g. vLLM) the model's name
    there; `gkd_logits_topk` tokens are requested, 20 without it."""
    beta: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Interpolation of the generalised JSD: small values act like beta * KL(teacher||student); 0 is full-weight
    forward KL, 1 reverse KL."""
    sft_alpha: Annotated[float, Range(ge=0)] = 1.0
    """Factor of the cross-entropy in the loss."""
    llm_kd_weight: Annotated[float, Range(ge=0)] = 1.0
    """Factor of the distillation term over the vocabulary; 0 turns it off."""
    lmbda: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of batches whose answers the student samples itself (on-policy)."""
    seq_kd: bool = False
    """Whether the other batches use answers sampled by the teacher instead of the records' own."""
    temperature: Annotated[float, Range(gt=0)] = 0.9
    """Temperature of sampling answers; it never reaches the distillation term."""
    kd_temperature: Annotated[float, Range(gt=0)] = 1.0
    """Temperature of both softmaxes in the distillation term."""
    max_completion_length: Annotated[int, Range(ge=1)] = 512
    """Longest sampled answer in tokens."""
    token_weights: TokenWeightsConfig | None = None
    """Weights of the distillation term by kind of token; with them `token_acc` is logged by kind too."""
    teacher_cache: str | None = None
    """Folder in which the teacher's hidden rows are kept, so that later epochs, and later runs, need no teacher pass.
    `plumbline train CONFIG --build-teacher-cache` fills it before any training."""


@dataclass(frozen=True, kw_only=True)
class VisualKdConfig:
    """Anchors the visual features that enter the language model to the teacher's."""

    enabled: bool = False
    """Whether the term is in the loss."""
    weight: Annotated[float, Range(ge=0)] = 0.1
    """Factor of the term in the loss."""
    targets: Annotated[tuple[Literal["merger", "deepstack"], ...], Length(least=1, unique=True)] = (
        "merger",
        "deepstack",
    )
    """Which mergers are compared."""
    distance: Literal["mse", "cosine"] = "mse"
    """How two features are compared."""


@dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """How far a run may move from its base, and what happens beyond."""

    budget: Annotated[float, Range(gt=0)]
    """Most forward KL from the base, in nats per token, on any of the probes."""
    probe: str | None = None
    """JSONL of the base's answers (`anchors build --val`); the anchors' own `val_jsonl` when absent."""
    on_budget: Literal["warn", "stop", "raise_weight"] = "warn"
    """warn: say so. stop: end the run with a checkpoint. raise_weight: double the anchors' weights."""


@dataclass(frozen=True, kw_only=True)
class EvalAnswersConfig:
    """What the model says at each evaluation, in its own words: drawn in the run's report."""

    pictures: Annotated[int, Range(ge=0)] = 6
    """Pictures of `val_jsonl` that it describes, the same each time."""
    probes: Annotated[int, Range(ge=0)] = 8
    """Anchors of `drift.probe`, else of the anchors' `val_jsonl`, that it answers: leaks of the domain are counted."""
    max_new_tokens: Annotated[int, Range(ge=1)] = 256
    """Longest answer."""


@dataclass(frozen=True, kw_only=True)
class CustomConfig:
    """What Plumbline itself does: records, answers, checkpoints, telemetry."""

    train_jsonl: str | None = None
    """JSONL of training records; image paths in it start at its own folder."""
    val_jsonl: str | None = None
    """JSONL of validation records; without it nothing is evaluated."""
    emit_norm: Literal["none", "norm100", "norm1000"] = "norm1000"
    """Coordinates in the answer: pixels, or scaled to 0..100 or 0..1000 of the image."""
    object_ordering: Literal["top_left", "center"] = "top_left"
    """Order of the objects in the answer: by first corner or vertex, or by centre, top to bottom then left to right."""
    answer: AnswerForm = field(default_factory=AnswerForm)
    """How answers are spelled, for checkpoints that were taught otherwise."""
    user_prompt: str | None = None
    """User prompt of dense mode; the same as `prompts.user_dense`."""
    system_prompt_summary: str | None = None
    """System prompt of summary mode; the same as `prompts.system_summary`."""
    use_summary: bool = False
    """Answer every sample with its record's `summary`."""
    summary_ratio: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of samples per epoch answered with the record's `summary`, drawn again each epoch."""
    images_per_user_turn: Annotated[int, Range(ge=1)] = 1
    """Records grouped into one turn with several images, drawn again each epoch."""
    strict: bool = True
    """Stop at a record that cannot be encoded; false counts and reports it. Also accepted in the other sections."""
    image_roots: tuple[str, ...] = ()
    """Folders below which images may be opened; without it the JSONL's own folder and ROOT_IMAGE_DIR."""
    image_url_allow: tuple[str, ...] = ()
    """Hosts from which image URLs may be fetched; none by default."""
    sample_limit: Annotated[int, Range(ge=1)] | None = None
    """Use only the first records of the training and of the validation file."""
    train_sample_limit: Annotated[int, Range(ge=1)] | None = None
    """The same for training alone; wins over `sample_limit`."""
    val_sample_limit: Annotated[int, Range(ge=1)] | None = None
    """The same for validation alone; wins over `sample_limit`."""
    dump_conversation_text: bool = False
    """Write the rendered text of the first sample into the run folder."""
    trainer_variant: Literal["gkd_monitor"] | None = None
    """Trainer of a distillation run; gkd means gkd_monitor."""
    eval_teacher: bool = True
    """Evaluate the distillation term too; false evaluates cross-entropy alone."""
    save_delay_steps: Annotated[int, Range(ge=0)] | None = None
    """Write no checkpoint before this step."""
    save_delay_epochs: Annotated[float, Range(ge=0)] | None = None
    """Write no checkpoint before this many epochs."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random changes of training images."""
    fusion: FusionConfig | None = None
    """Several sources of records in one run."""
    drift: DriftConfig | None = None
    """A budget for the distance from the base, measured at each evaluation on anchors."""
    eval_answers: EvalAnswersConfig = field(default_factory=EvalAnswersConfig)
    """What the model says at each evaluation."""
    visual_kd: VisualKdConfig = field(default_factory=VisualKdConfig)
    """Distillation of visual features."""
    plugins: tuple[str, ...] = ()
    """Python files or modules imported before the configuration is checked; they may register operations."""


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Prompt texts; the built-in ones where nothing is written."""

    system_dense: Annotated[str, MayBeEmpty()] | None = None
    """System prompt of dense mode; the empty text sends none."""
    user_dense: str | None = None
    """User prompt of dense mode."""
    system_summary: Annotated[str, MayBeEmpty()] | None = None
    """System prompt of summary mode; the empty text sends none."""
    user_summary: str | None = None
    """User prompt of summary mode."""
    negative_summary: str | None = None
    """Summary of a record without objects (`objects: []`) that has none of its own, such as 无关图片."""


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig:
    """Sharding of a run over several GPUs with DeepSpeed ZeRO."""

    enabled: bool = False
    """Whether DeepSpeed runs the training."""
    config: Annotated[str, NameOrFile(DEEPSPEED_NAMES, (".json",))] = "zero2"
    """Name of a ready configuration, or the path of a JSON file."""
