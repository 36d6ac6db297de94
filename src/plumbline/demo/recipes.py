"""The two training configurations of the demonstration, written as YAML files that a reader can run again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from plumbline.storage.files import write_atomically
from plumbline.storage.objects import JsonObject


@dataclass(frozen=True)
class Recipe:
    """What the demonstration trains with. sft_steps, gkd_steps: optimiser steps; the rest as in the YAML."""

    sft_steps: int = 430
    gkd_steps: int = 24
    batch_size: int = 2
    sft_learning_rate: float = 2.5e-3
    gkd_learning_rate: float = 1e-3
    lora_rank: int = 32
    llm_kd_weight: float = 0.03
    summary_ratio: float = 0.1
    seed: int = 42

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
    def gkd(self) -> Path:
        return self.output / "gkd"

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
  torch_dtype: float32

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

_GKD = (
    "# Written by `plumbline demo`: distillation that starts from the weights of the supervised run and keeps the\n"
    "# model near its base, which is the teacher. Again by hand: plumbline train {config}\n"
    + _COMMON
    + _TUNER
    + """\
  resume_from_checkpoint: {weights_from}      # weights only: own targets, optimiser and steps

rlhf:
  rlhf_type: gkd
  teacher_model: {model}
  beta: 0.1
  sft_alpha: 1.0
  llm_kd_weight: {llm_kd_weight}
  lmbda: 0
  seq_kd: false
"""
    + _CUSTOM.replace("  emit_norm", "  trainer_variant: gkd_monitor\n  emit_norm")
)


def write_sft(places: Places, recipe: Recipe) -> Path:
    """Write `configs/sft.yaml` and return its path."""
    return _write(places, "sft", _SFT, _values(places, recipe, places.sft, recipe.sft_steps, recipe.sft_learning_rate))


def write_gkd(places: Places, recipe: Recipe) -> Path:
    """Write `configs/gkd.yaml` and return its path."""
    values = _values(places, recipe, places.gkd, recipe.gkd_steps, recipe.gkd_learning_rate)
    weights = {"weights_from": _quoted(places.sft), "llm_kd_weight": recipe.llm_kd_weight}
    return _write(places, "gkd", _GKD, values | weights)


def _values(places: Places, recipe: Recipe, folder: Path, steps: int, learning_rate: float) -> JsonObject:
    return {
        "model": _quoted(places.model),
        "output_dir": _quoted(folder),
        "train_jsonl": _quoted(places.data / "train.jsonl"),
        "val_jsonl": _quoted(places.data / "val.jsonl"),
        "steps": steps,
        "logging_steps": max(1, steps // 40),
        "eval_steps": max(1, steps // 2),
        "batch_size": recipe.batch_size,
        "learning_rate": learning_rate,
        "min_learning_rate": learning_rate / 20,
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
