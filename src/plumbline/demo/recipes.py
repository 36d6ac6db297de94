"""The two training configurations of the demonstration, written as YAML files that a reader can run again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from plumbline.storage.files import write_atomically
from plumbline.storage.objects import JsonObject


def fast_dtype() -> str:
    """bfloat16 where this processor multiplies it natively, then several times as fast as float32; else float32."""
    import torch

    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


@dataclass(frozen=True)
class Recipe:
    """What the demonstration trains with.

    steps: optimiser steps of the anchored run. anchor_ratio: anchors per record to learn. anchor_weight: of their
    divergence; the small base answers in a word or two, and few tokens weigh little by themselves. dtype: of the
    weights. The rest as in the YAML.
    """

    steps: int = 440
    batch_size: int = 4
    learning_rate: float = 3e-3
    lora_rank: int = 32
    anchor_ratio: float = 0.33
    anchor_weight: float = 4.0
    summary_ratio: float = 0.3
    seed: int = 42
    dtype: str = field(default_factory=fast_dtype)

    @property
    def plain_steps(self) -> int:
        """Of the run without anchors: a quarter is enough to see what it forgets."""
        return max(1, self.steps // 4)

    def as_dict(self) -> JsonObject:
        """The values as JSON has them."""
        return asdict(self)


@dataclass(frozen=True)
class Places:
    """Where the demonstration reads and writes."""

    output: Path

    @property
    def model(self) -> Path:
        return self.output / "model"

    @property
    def data(self) -> Path:
        return self.output / "data"

    @property
    def sft(self) -> Path:
        return self.output / "sft"

    @property
    def anchored(self) -> Path:
        return self.output / "anchored"

    @property
    def anchors(self) -> Path:
        return self.data / "anchors.jsonl"

    @property
    def probes(self) -> Path:
        return self.data / "anchors_val.jsonl"

    @property
    def merged(self) -> Path:
        return self.output / "merged"

    @property
    def captions(self) -> Path:
        return self.output / "captions"

    @property
    def evaluation(self) -> Path:
        return self.output / "evaluation.html"

    @property
    def drift(self) -> Path:
        return self.output / "drift.html"

    @property
    def tickets(self) -> Path:
        return self.output / "tickets"

    @property
    def stage_a(self) -> Path:
        return self.output / "stage_a"

    @property
    def stage_b(self) -> Path:
        return self.output / "stage_b"

    @property
    def configs(self) -> Path:
        return self.output / "configs"

    def log(self, name: str) -> Path:
        return self.output / "logs" / f"{name}.log"


FOCUS = "只写看得见的物体及数量。"
"""What Stage-A asks of the demonstration's mission, and what the summaries were trained with."""

_COMMON = """\
global_max_length: 2048

model:
  model: {model}
  torch_dtype: {dtype}

template:
  template: qwen3_vl

data:
  dataloader_num_workers: 1
  dataloader_pin_memory: false
  dataloader_persistent_workers: false

training:
  output_dir: {output_dir}
  use_cpu: true
  bf16: false
  max_steps: {steps}
  per_device_train_batch_size: {batch_size}
  per_device_eval_batch_size: {batch_size}
  gradient_accumulation_steps: 1
  learning_rate: {learning_rate}
  lr_scheduler_type: cosine_warmup_with_min_lr
  lr_scheduler_kwargs:
    min_lr: {min_learning_rate}
  warmup_ratio: 0.05
  weight_decay: 0.0
  max_grad_norm: 1.0
  seed: {seed}
  logging_steps: {logging_steps}
  eval_strategy: steps
  eval_steps: {eval_steps}
  save_strategy: steps
  save_steps: {steps}
  save_total_limit: 1
  report_to: [tensorboard]
"""

_TUNER = """
tuner:
  tuner_type: lora
  lora_rank: {lora_rank}
  lora_alpha: {lora_alpha}
  lora_dropout: 0.0
  target_modules: [all-linear]
  freeze_llm: false
  freeze_vit: false
  freeze_aligner: false
"""

_CUSTOM = """
custom:
  eval_answers: {{pictures: 2, probes: 4, max_new_tokens: 128}}
  train_jsonl: {train_jsonl}
  val_jsonl: {val_jsonl}
  emit_norm: norm1000
  summary_ratio: {summary_ratio}      # a few one-line summaries among the dense answers, for Stage-A

prompts:                  # short ones: most of the time of a tiny model's step goes into its tokens
  system_dense: 只输出一行JSON。
  user_dense: 描述图片中的物体。
  system_summary: 只输出一行摘要。
  user_summary: 概括图片中的物体。{focus}
"""

_SFT = (
    "# Written by `plumbline demo`: supervised fine-tuning of the tiny model.\n"
    "# Again by hand: plumbline train {config}\n" + _COMMON + _TUNER + _CUSTOM
)

_ANCHORED = (
    "# Written by `plumbline demo`: the same fine-tuning, held to the base's own answers to other questions.\n"
    "# Again by hand: plumbline train {config}\n"
    + _COMMON
    + _TUNER
    + """
rlhf:
  rlhf_type: gkd
  teacher_model: {model}
  llm_kd_weight: 0          # the domain's answers are only learned
  lmbda: 0
  seq_kd: false
"""
    + _CUSTOM.replace(
        "\n\nprompts:",
        """
  drift: {{budget: 0.2}}
  fusion:
    sources:
      - name: anchors
        role: anchor
        train_jsonl: {anchors}
        val_jsonl: {probes}
        ratio: {anchor_ratio}
        llm_kd_weight: {anchor_weight}  # their answers have few tokens

prompts:""",
    )
)


def write_sft(places: Places, recipe: Recipe) -> Path:
    """Write `configs/sft.yaml` and return its path."""
    return _write(places, "sft", _SFT, _values(places, recipe, places.sft, recipe.plain_steps))


def write_anchored(places: Places, recipe: Recipe) -> Path:
    """Write `configs/anchored.yaml` and return its path."""
    files = {"anchors": _quoted(places.anchors), "probes": _quoted(places.probes)}
    values = _values(places, recipe, places.anchored, recipe.steps) | files
    values |= {"anchor_ratio": recipe.anchor_ratio, "anchor_weight": recipe.anchor_weight}
    return _write(places, "anchored", _ANCHORED, values)


def _values(places: Places, recipe: Recipe, folder: Path, steps: int) -> JsonObject:
    return {
        "model": _quoted(places.model),
        "output_dir": _quoted(folder),
        "train_jsonl": _quoted(places.data / "train.jsonl"),
        "val_jsonl": _quoted(places.data / "val.jsonl"),
        "dtype": recipe.dtype,
        "steps": steps,
        "logging_steps": max(1, steps // 40),
        "eval_steps": max(1, steps // 2),
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "min_learning_rate": recipe.learning_rate / 20,
        "lora_rank": recipe.lora_rank,
        "lora_alpha": 2 * recipe.lora_rank,
        "summary_ratio": recipe.summary_ratio,
        "focus": FOCUS,
        "seed": recipe.seed,
    }


def _write(places: Places, name: str, template: str, values: JsonObject) -> Path:
    places.configs.mkdir(parents=True, exist_ok=True)
    path = places.configs / f"{name}.yaml"
    write_atomically(path, template.format(config=_quoted(path), **values))
    return path


def _quoted(path: Path) -> str:
    """A path as a YAML string; JSON's quoting is valid YAML."""
    return json.dumps(str(path), ensure_ascii=False)
