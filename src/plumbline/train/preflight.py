"""What must hold before anything heavy starts: rules between keys, existence of paths, teacher and student that fit.

Torch-free and quick: `plumbline train --dry-run` is this and a summary.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbline.augment.config import augmentation_problems
from plumbline.data.config import FusionConfig, FusionSource
from plumbline.data.images import ImagePolicy
from plumbline.data.prompts import Prompts, default_prompts
from plumbline.errors import ConfigError, Problem, UserError
from plumbline.model.address import checked_url
from plumbline.model.checkpoints import CARD_MODES, Card, check_safetensors, is_complete, locate, why_incomplete
from plumbline.model.hub import is_hub_name, missing_model
from plumbline.train.adopt import locate_adapter
from plumbline.train.config import TrainRun
from plumbline.train.predicted import target_problems
from plumbline.train.sections import DEEPSPEED_NAMES, DriftConfig
from plumbline.train.teacher.plan import TeacherPlan, plan_teacher, resolve_teacher, teacher_problems

MODEL_TYPES = ("qwen3_vl",)
TARGET = "target"
"""Name of `custom.train_jsonl` among the sources of a mixture."""
_METRIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_DOWNLOAD = "; or set model.download: true"
_NOT_BUILT = "this version does not do it yet: take the key out"


_ATTENTION_PACKAGES = {
    "flash_attn": ("flash_attn", "flash-attn"),
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
"""Attention kernel -> (module, name for pip)."""


def check_run(run: TrainRun) -> None:
    """Raise ConfigError with every rule between keys that the run breaks and every path that is not there."""
    problems = [
        *_not_built(run),
        *_model_problems(run),
        *_data_problems(run),
        *_training_problems(run),
        *_packing_problems(run),
        *_checkpoint_problems(run),
        *_teacher_problems(run),
        *_machine_problems(run),
    ]
    if not problems:
        problems = list(_problems_of(lambda: _require_targets(run)))
    if problems:
        raise ConfigError(problems)


def _not_built(run: TrainRun) -> Iterator[Problem]:
    rlhf, upstream = run.rlhf, run.upstream
    requested = {
        "rlhf.rlhf_type: grpo": rlhf is not None and rlhf.rlhf_type == "grpo",
        "rlhf.gkd_logits_topk without a teacher_model_server": upstream.get("gkd_logits_topk") is not None
        and not upstream.get("teacher_model_server"),
    }
    yield from (Problem(key, "is requested", _NOT_BUILT) for key, wanted in requested.items() if wanted)
    truncation = upstream.get("truncation_strategy", "delete")
    if truncation not in ("delete", "raise"):
        yield Problem(
            "template.truncation_strategy",
            f"{truncation} would cut answers without a word",
            "take the key out: a record over the limit is named",
        )


def _model_problems(run: TrainRun) -> Iterator[Problem]:
    upstream = run.upstream
    model = upstream.get("model")
    if not model:
        yield Problem("model.model", "is not set", "name the folder of the base model")
    elif not Path(model).exists():
        what, fix = missing_model(str(model))
        advice = "build the tiny one with `plumbline demo --prepare-only`" if "output/demo" in str(model) else fix
        yield Problem("model.model", f"{model}: {what}", advice + (_DOWNLOAD if is_hub_name(str(model)) else ""))
    elif not (Path(model) / "config.json").is_file():
        yield Problem("model.model", f"{model} holds no config.json", "name the folder of the base model")
    else:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        if "auto_map" in config:
            yield Problem("model.model", f"{model} asks to run its own code (auto_map)", "use a checkpoint without it")
        if config.get("model_type") not in MODEL_TYPES:
            yield Problem("model.model", f"{model} is a {config.get('model_type')}", f"use {' or '.join(MODEL_TYPES)}")
        yield from _problems_of(lambda: check_safetensors(Path(model), "model"))
    if not upstream.get("max_length"):
        yield Problem("global_max_length", "no length limit is set", "set global_max_length, e.g. 4096")


def eval_strategy(run: TrainRun) -> str:
    """When a run evaluates: as configured; else, with a validation set, whenever it saves; else never."""
    upstream = run.upstream
    if upstream.get("eval_strategy") is not None:
        return str(upstream["eval_strategy"])
    if not val_files(run):
        return "no"
    saving = str(upstream.get("save_strategy", "steps"))
    return "steps" if saving == "best" else saving


def _data_problems(run: TrainRun) -> Iterator[Problem]:
    custom = run.custom
    for key, path in jsonl_keys(run):
        if not Path(path).is_file():
            advice = " (`plumbline demo --prepare-only` makes it)" if "output/demo" in path else ""
            yield Problem(key, f"{path} does not exist", f"paths start at the working directory{advice}")
    if eval_strategy(run) != "no" and not val_files(run):
        yield Problem(
            "custom.val_jsonl", "evaluation is requested but there is no validation set", "set it, or eval_strategy: no"
        )
    for root in custom.image_roots:
        if not Path(root).is_dir():
            yield Problem("custom.image_roots", f"{root} is not a folder")
    if custom.fusion is not None:
        yield from _fusion_problems(run, custom.fusion)
    if custom.drift is not None:
        yield from _drift_problems(run, custom.drift)
    if custom.augmentation.enabled:
        for path, what, fix in augmentation_problems(custom.augmentation):
            yield Problem(f"custom.augmentation.{path}", what, fix)


def _fusion_problems(run: TrainRun, fusion: FusionConfig) -> Iterator[Problem]:
    if fusion.targets and run.custom.train_jsonl:
        yield Problem("custom.train_jsonl", "is set, and custom.fusion.targets too", "name it as one of the targets")
    if not fusion.targets and not run.custom.train_jsonl:
        yield Problem("custom.fusion", "has no target", "set custom.train_jsonl, or custom.fusion.targets")
    names = [TARGET] * (not fusion.targets) + [source.name for source in (*fusion.targets, *fusion.sources)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("custom.fusion", f"two sources are named {name}", "metrics need distinct names")
    for source in (*fusion.targets, *fusion.sources):
        if not _METRIC_NAME.fullmatch(source.name):
            yield Problem(
                "custom.fusion",
                f"the name {source.name[:40]!r} cannot be part of a metric's name",
                "use letters, digits, - and _",
            )
        yield from _anchor_problems(run, source, is_target=source in fusion.targets)
        if source.mode == "chat" and (source.user_prompt, source.system_prompt) != (None, None):
            what = f"the prompts of {source.name} would not be used: mode chat keeps each record's own messages"
            yield Problem("custom.fusion", what, "take them out, or give the source another mode")


def _drift_problems(run: TrainRun, drift: DriftConfig) -> Iterator[Problem]:
    """What keeps a budget from being measured, or from being kept."""
    where, fusion = "custom.drift", run.custom.fusion
    anchors = [source for source in (() if fusion is None else fusion.sources) if source.is_anchor]
    if run.rlhf is None or run.rlhf.rlhf_type != "gkd":
        yield Problem(where, "needs a teacher to measure the distance from", "add rlhf: {rlhf_type: gkd, ...}")
    if drift.probe is None and not any(source.val_jsonl for source in anchors):
        yield Problem(where, "there is nothing to measure it on", "set probe, or val_jsonl of an anchor source")
    if eval_strategy(run) == "no" or not run.custom.eval_teacher:
        yield Problem(where, "is measured in evaluation with the teacher", "set eval_strategy, and eval_teacher: true")
    if drift.on_budget == "raise_weight" and not anchors:
        yield Problem(where, "on_budget: raise_weight has no anchor to weigh more", "add a source with role: anchor")


def _anchor_problems(run: TrainRun, source: FusionSource, *, is_target: bool) -> Iterator[Problem]:
    """What cannot be right about the role of a source."""
    where, rlhf = "custom.fusion", run.rlhf
    own = {name: getattr(source, name) for name in ("sft_alpha", "llm_kd_weight", "beta", "token_share")}
    given = [name for name, value in own.items() if value is not None]
    if not source.is_anchor:
        if given:
            what = f"{', '.join(given)} of {source.name} belong to an anchor"
            yield Problem(where, what, "set role: anchor, or take them out")
        return
    if is_target:
        yield Problem(where, f"the target {source.name} is an anchor", "name it among the sources")
    alpha, weight = source.anchor_weights
    if weight and (rlhf is None or rlhf.rlhf_type != "gkd"):
        what = f"the anchor {source.name} needs a teacher"
        yield Problem(where, what, "add rlhf: {rlhf_type: gkd, teacher_model: ...}, or replay it with llm_kd_weight: 0")
    if not weight and not alpha:
        yield Problem(where, f"the anchor {source.name} has no weight at all", "set sft_alpha or llm_kd_weight")
    if rlhf is not None and (rlhf.lmbda or rlhf.seq_kd):
        what = f"the anchor {source.name} has answers of the base, and rlhf.lmbda or seq_kd would replace them"
        yield Problem(where, what, "set lmbda: 0 and seq_kd: false")


def jsonl_keys(run: TrainRun) -> list[tuple[str, str]]:
    """(key, path) of every JSONL that the run names."""
    custom, fusion = run.custom, run.custom.fusion
    found = [("custom.train_jsonl", custom.train_jsonl), ("custom.val_jsonl", custom.val_jsonl)]
    for group in ("targets", "sources") if fusion is not None else ():
        for number, source in enumerate(getattr(fusion, group)):
            place = f"custom.fusion.{group}[{number}]"
            found += [(f"{place}.train_jsonl", source.train_jsonl), (f"{place}.val_jsonl", source.val_jsonl)]
    found.append(("custom.drift.probe", None if custom.drift is None else custom.drift.probe))
    return [(key, path) for key, path in found if path]


def val_files(run: TrainRun) -> list[str]:
    """Validation files that evaluation would read."""
    custom, fusion = run.custom, run.custom.fusion
    found = [custom.val_jsonl]
    if fusion is not None:
        found += [source.val_jsonl for source in fusion.targets]
        found += [source.val_jsonl for source in fusion.sources if fusion.evaluate_sources or source.is_anchor]
    return [path for path in found if path]


def _training_problems(run: TrainRun) -> Iterator[Problem]:
    upstream, rlhf = run.upstream, run.rlhf
    output = upstream.get("output_dir")
    if not output:
        yield Problem("training.output_dir", "is not set", "name the folder of this run")
    else:
        yield from _output_problems(Path(output))
    if rlhf is not None and not rlhf.sft_alpha and not rlhf.llm_kd_weight and not run.custom.visual_kd.enabled:
        what = "sft_alpha and llm_kd_weight are both 0: there is nothing to learn"
        yield Problem("rlhf", what, "raise one of them, or enable custom.visual_kd")
    full = upstream.get("tuner_type") == "full" and not upstream.get("freeze_llm")
    head_trains = full or any("lm_head" in name for name in upstream.get("modules_to_save", ()))
    if run.deepspeed.enabled:
        offloaded = bool(upstream.get("offload_teacher_model"))
        yield from _deepspeed_problems(run, head_trains=head_trains, offloaded=offloaded)


def _output_problems(output: Path) -> Iterator[Problem]:
    if output.exists() and not output.is_dir():
        yield Problem("training.output_dir", f"{output} is a file", "name a folder")
        return
    place = existing_parent(output)
    if not place.is_dir():
        yield Problem("training.output_dir", f"{output} cannot be made: {place} is a file", "name another folder")
    elif not os.access(place, os.W_OK | os.X_OK):
        fix = "name a place that you may write to, or change its permissions"
        yield Problem("training.output_dir", f"{place} cannot be written to", fix)


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest place above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _machine_problems(run: TrainRun) -> Iterator[Problem]:
    """Packages that the configuration needs and this machine lacks."""
    kernel = str(run.upstream.get("attn_impl"))
    package = _ATTENTION_PACKAGES.get(kernel)
    if package is not None and not _installed(package[0]):
        fix = f"pip install {package[1]}, or take the key out: sdpa needs no package"
        yield Problem("model.attn_impl", f"{kernel} needs the package {package[0]}, which is not installed", fix)


def _deepspeed_problems(run: TrainRun, *, head_trains: bool, offloaded: bool) -> Iterator[Problem]:
    key, config = "deepspeed.config", run.deepspeed.config
    try:
        stage = _zero_stage(config)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        yield Problem(key, f"{config} is no DeepSpeed configuration: {error}", "name a JSON file, or zero2, zero3, ...")
        return
    if stage == 3 and head_trains:
        what = "ZeRO-3 shards the output head, whose gradient is written in the forward pass"
        yield Problem(key, what, "use zero2, an adapter, or freeze_llm: true")
    if stage == 3 and offloaded:
        what = "ZeRO-3 shards the teacher: its parts cannot be gathered from main memory"
        yield Problem("rlhf.offload_teacher_model", what, "take it out: zero3_offload keeps the parts there")
    if not _installed("deepspeed"):
        yield Problem("deepspeed.enabled", "DeepSpeed is not installed", "pip install deepspeed")


def _packing_problems(run: TrainRun) -> Iterator[Problem]:
    """Packing never falls back to padding: what it cannot do stops the run."""
    upstream, rlhf, curriculum = run.upstream, run.rlhf, run.custom.augmentation.curriculum
    if not upstream.get("packing"):
        return
    kernel = upstream.get("attn_impl")
    if kernel not in (None, "sdpa") and not str(kernel).startswith("flash_attention"):
        what = f"{kernel} would let packed samples see each other"
        yield Problem("model.attn_impl", what, "use sdpa or flash_attention_2, or packing: false")
    if rlhf is not None and (rlhf.lmbda > 0 or rlhf.seq_kd):
        what = "sampled answers (lmbda > 0 or seq_kd) have no length before they are sampled"
        yield Problem("training.packing", what, "set lmbda: 0 and seq_kd: false, or packing: false")
    if run.custom.augmentation.enabled and curriculum is not None:
        if any(phase.until_step is not None for phase in curriculum.phases):
            what = "counts steps, and a packed run's number of steps is known only after packing"
            yield Problem("custom.augmentation.curriculum", what, "write until_percent")
        if (upstream.get("max_steps") or 0) > 0:
            what = "ends a packed run before its curriculum can know how far it is"
            yield Problem("training.max_steps", what, "set num_train_epochs instead")


def _zero_stage(config: str) -> int:
    """ZeRO stage of a ready configuration's name, or of a JSON file; 0 when the file does not say.

    Raises OSError, ValueError, AttributeError or TypeError for a file that is not there or holds something else.
    """
    if config in DEEPSPEED_NAMES:
        return int(config.removeprefix("zero")[0])
    stage = json.loads(Path(config).read_text(encoding="utf-8")).get("zero_optimization", {}).get("stage", 0)
    return int(stage)


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _checkpoint_problems(run: TrainRun) -> Iterator[Problem]:
    full = run.upstream.get("tuner_type", "lora") == "full"
    if run.weights_from is not None:
        if full:
            yield Problem(
                "tuner.resume_from_checkpoint",
                "full training has no adapter to take weights into",
                "merge the other run (`plumbline merge`) and name the result as model.model",
            )
        else:
            yield from _problems_of(lambda: locate_adapter(str(run.weights_from)))
    if run.continue_from is not None:
        folder = Path(run.continue_from)
        reason = "is not a folder" if not folder.is_dir() else why_incomplete(folder)
        if reason:
            others = [str(path) for path in sorted(folder.parent.glob("checkpoint-*")) if is_complete(path)]
            fix = f"complete ones: {', '.join(others)}" if others else "there is no complete checkpoint next to it"
            yield Problem("training.resume_from_checkpoint", f"{folder} {reason}", fix)


def _require_targets(run: TrainRun) -> None:
    if problems := list(target_problems(run)):
        raise ConfigError(problems)


def _problems_of(check: Any) -> Iterator[Problem]:
    try:
        check()
    except UserError as error:
        yield from error.problems


def _teacher_problems(run: TrainRun) -> Iterator[Problem]:
    key, rlhf = "rlhf.teacher_model", run.rlhf
    if rlhf is None or rlhf.rlhf_type != "gkd":
        return
    server = run.upstream.get("teacher_model_server")
    if server:
        yield from _problems_of(lambda: checked_url(str(server), "rlhf.teacher_model_server"))
        return
    if not rlhf.teacher_model:
        what = "there is no teacher: the student would be anchored to itself, at a divergence of zero"
        yield Problem(key, what, "name the base model's folder")
        return
    if not Path(rlhf.teacher_model).is_dir():
        what, fix = missing_model(str(rlhf.teacher_model))
        yield Problem(key, f"{rlhf.teacher_model}: {what}", f"name the base model's folder; {fix}")
        return
    folder, adapters = resolve_teacher(rlhf.teacher_model)
    if not (Path(folder) / "config.json").is_file():
        what = f"{rlhf.teacher_model} is an adapter of {folder or 'no base'}, which is not there" if adapters else ""
        yield Problem(key, what or f"{folder} holds no config.json", "name a folder that transformers can load")
        return
    if adapters:
        yield from _problems_of(lambda: locate(adapters[0]))
    student = run.upstream.get("model")
    if student and Path(student).resolve() == Path(folder).resolve():
        return  # checked as the student
    yield from _problems_of(lambda: check_safetensors(Path(folder), "model"))
    if student and (Path(student) / "config.json").is_file():
        yield from teacher_problems(str(student), folder)


def teacher_plan(run: TrainRun) -> TeacherPlan | None:
    """Where the teacher of a checked run comes from; None for plain fine-tuning."""
    if run.rlhf is None or run.rlhf.rlhf_type != "gkd":
        return None
    return plan_teacher(run.upstream, run.rlhf.teacher_model or "")


def prompts_of(run: TrainRun) -> Prompts:
    """The built-in prompts with what the configuration overrides."""
    overridden = {name: text for name, text in vars(run.prompts).items() if text is not None}
    return Prompts(**default_prompts(run.custom.emit_norm).as_dict() | overridden)


def image_policy(run: TrainRun) -> ImagePolicy:
    """Where the run may open images."""
    return ImagePolicy(roots=tuple(run.custom.image_roots), url_allow=tuple(run.custom.image_url_allow))


def mode_of(run: TrainRun) -> str:
    """The mode of records whose source does not name one: `dense`, `summary`, or `mixed`."""
    if run.custom.use_summary or run.custom.summary_ratio == 1:
        return "summary"
    return "mixed" if run.custom.summary_ratio > 0 else "dense"


def _trained_mode(run: TrainRun) -> str:
    """What the model is taught, over all sources; chats and pictures without an answer are neither of the two."""
    fusion = run.custom.fusion
    named = () if fusion is None else (*fusion.targets, *fusion.sources)
    modes = {source.mode or mode_of(run) for source in named} & set(CARD_MODES)
    if run.custom.train_jsonl or not modes:
        modes.add(mode_of(run))
    return modes.pop() if len(modes) == 1 else "mixed"


def card_of(run: TrainRun) -> Card:
    """What inference must know about a checkpoint of this run."""
    return Card(
        emit_norm=run.custom.emit_norm,
        prompts=prompts_of(run),
        mode=_trained_mode(run),
        object_ordering=run.custom.object_ordering,
        template=str(run.upstream.get("template") or "qwen3_vl"),
        max_length=run.upstream.get("max_length"),
        max_pixels=run.upstream.get("max_pixels"),
        answer=run.custom.answer,
    )
