"""Rules between keys, checked when a run is loaded (`train --dry-run`), not by `config check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plumbline.config.tree import Origin, show_plain
from plumbline.config.upstream import home, table
from plumbline.errors import Problem
from plumbline.train.unused import NOT_INITIAL, PROVEN, needs, without_effect

Origins = Mapping[str, Origin]
Resolved = Mapping[str, Any]

_MIN_LR = ("cosine_with_min_lr", "cosine_warmup_with_min_lr")


def cross_key_problems(resolved: Resolved, origins: Origins, file: str) -> tuple[Problem, ...]:
    """Everything that cannot work although each key by itself is fine."""
    rules = (
        *(_required, _lengths, _prompts, _rlhf, _schedule, _optimizer, _precision, _summary),
        *(_replaced, _proven, _dependent, _quantised, _adalora),
    )
    found = []
    for rule in rules:
        for path, what, fix in rule(resolved):
            where = str(origins[path]) if path in origins else file
            found.append(Problem(where, what, fix))
    return tuple(found)


def ambiguity_problems(resolved: Resolved, origins: Origins) -> Iterator[Problem]:
    """Values that earlier configurations used in another sense: both readings are offered, none is taken."""
    rlhf = resolved.get("rlhf") or {}
    beta, weight = origins.get("rlhf.beta"), origins.get("rlhf.llm_kd_weight")
    if beta is not None and weight is None and rlhf["beta"] == 0 and rlhf.get("rlhf_type") != "grpo":
        what = "beta: 0 switched the distillation term off in earlier versions and is full-weight forward KL here"
        fix = "to switch the term off write `llm_kd_weight: 0` and take beta out; for forward KL keep `beta: 0` and "
        yield Problem(f"{beta}: rlhf.beta", what, f"{fix}write `llm_kd_weight: 1.0` next to it")
    curriculum = resolved["custom"]["augmentation"].get("curriculum") or {}
    for number, phase in enumerate(curriculum.get("phases", ())):
        percent = phase.get("until_percent")
        if percent is not None and percent < 1:
            path = f"custom.augmentation.curriculum.phases[{number}].until_percent"
            where = f"{_origin(path, origins)}: {path}"
            what = f"{percent:g} could mean {percent:g} % of the run, or {100 * percent:g} %"
            fix = f"for {100 * percent:g} % write `until_percent: {100 * percent:g}`; for {percent:g} % use until_step"
            yield Problem(where, what, fix)


def _origin(path: str, origins: Origins) -> str:
    """Where a path was written, or the nearest one above it; the file is named at least."""
    while path and path not in origins:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return str(origins[path]) if path else next((str(place) for place in origins.values()), "")


def cross_key_notes(resolved: Resolved, origins: Origins) -> Iterator[str]:
    """What works, and that the user should know."""
    rlhf = resolved.get("rlhf") or {}
    if rlhf.get("rlhf_type") == "gkd" and rlhf["lmbda"] == 0 and not rlhf["seq_kd"]:
        for name in ("temperature", "max_completion_length"):
            if f"rlhf.{name}" in origins:
                yield f"rlhf.{name} is ignored: with lmbda 0 and seq_kd false nothing is sampled"
    if "deepspeed.config" in origins and not resolved["deepspeed"]["enabled"]:
        yield "deepspeed.config is set and deepspeed.enabled is not: the run goes without DeepSpeed"
    resume = "resume_from_checkpoint"
    if resolved.get("tuner", {}).get(resume) and resolved.get("training", {}).get(resume):
        yield f"training.{resume} continues the run; tuner.{resume} already did its work at the start of it"


Found = Iterator[tuple[str, str, str]]


def _key(resolved: Resolved, name: str) -> Any:
    """The value of a pass-through key, or None."""
    return resolved.get(home(name), {}).get(name)


def _required(resolved: Resolved) -> Found:
    if not _key(resolved, "model"):
        yield "model", "model.model is not set", "name the folder of the model to train"
    custom = resolved["custom"]
    if not (custom["train_jsonl"] or custom["fusion"]):
        yield "custom", "custom.train_jsonl is not set", "name the JSONL of the training records"


def _lengths(resolved: Resolved) -> Found:
    wanted = resolved.get("global_max_length")
    for path, name in (("template.max_length", "max_length"), ("model.max_model_len", "max_model_len")):
        value = _key(resolved, name)
        if wanted is not None and value is not None and value != wanted:
            what = f"{path} is {value} and global_max_length is {wanted}"
            yield path, what, f"keep global_max_length alone: it sets {path}"


def _prompts(resolved: Resolved) -> Found:
    for old, new in (("user_prompt", "user_dense"), ("system_prompt_summary", "system_summary")):
        a, b = resolved["custom"][old], resolved["prompts"][new]
        if a and b and a != b:
            yield f"custom.{old}", f"custom.{old} and prompts.{new} are one thing and differ here", "keep one of them"


def _rlhf(resolved: Resolved) -> Found:
    rlhf = resolved.get("rlhf")
    kind = (rlhf or {}).get("rlhf_type")
    if rlhf and not kind:
        path = next(f"rlhf.{name}" for name in rlhf)
        yield path, "the section rlhf is used and rlhf.rlhf_type is not set", "write `rlhf_type: gkd` or `grpo`"
    if rlhf and kind == "gkd" and not (rlhf["teacher_model"] or rlhf.get("teacher_model_server")):
        fix = "name the base model's folder: the student would otherwise be its own teacher, and the term 0"
        yield "rlhf.rlhf_type", "rlhf_type gkd needs rlhf.teacher_model", fix
    if rlhf and rlhf.get("token_weights") and (kind != "gkd" or rlhf.get("lmbda") or rlhf.get("seq_kd")):
        what = "rlhf.token_weights needs rlhf_type: gkd on your own answers"
        yield "rlhf.token_weights", what, "remove it, or set lmbda: 0 and seq_kd: false"
    if rlhf and rlhf.get("teacher_model_server"):
        yield from _teacher_server(resolved, rlhf)
    if rlhf and rlhf.get("teacher_cache"):
        yield from _teacher_cache(resolved, rlhf)
    if resolved["custom"]["trainer_variant"] and kind != "gkd":
        path = "custom.trainer_variant"
        yield path, f"{path} needs rlhf.rlhf_type: gkd", "remove it, or build on a GKD recipe"
    if resolved["custom"]["visual_kd"]["enabled"] and kind != "gkd":
        path = "custom.visual_kd.enabled"
        yield path, f"{path} needs a teacher: rlhf.rlhf_type: gkd", "remove it, or build on a GKD recipe"


def _teacher_server(resolved: Resolved, rlhf: Mapping[str, Any]) -> Found:
    """A teacher server only returns top-K log-probs of given answers."""
    name = "rlhf.teacher_model_server"
    if rlhf["lmbda"] or rlhf["seq_kd"]:
        yield name, f"{name} works on your own answers", "set lmbda: 0 and seq_kd: false, or name rlhf.teacher_model"
    if rlhf["kd_temperature"] != 1.0:
        what = "rlhf.kd_temperature needs the teacher's whole distribution, which a server does not return"
        yield "rlhf.kd_temperature", what, "remove it, or name a folder as rlhf.teacher_model"
    if rlhf["teacher_cache"]:
        what = "rlhf.teacher_cache keeps a local teacher's rows: a server returns none"
        yield "rlhf.teacher_cache", what, "remove one of the two"
    if resolved["custom"]["visual_kd"]["enabled"]:
        what = "custom.visual_kd.enabled needs the teacher's features, which a server does not return"
        yield "custom.visual_kd.enabled", what, "remove it, or name a folder as rlhf.teacher_model"


def _teacher_cache(resolved: Resolved, rlhf: Mapping[str, Any]) -> Found:
    path = "rlhf.teacher_cache"
    if rlhf.get("rlhf_type") != "gkd":
        yield path, f"{path} needs rlhf.rlhf_type: gkd", "remove it, or build on a GKD recipe"
    if rlhf.get("lmbda") or rlhf.get("seq_kd"):
        what = "sampled answers are new at every step: what the teacher says to them cannot be kept"
        yield path, what, "remove it, or set lmbda: 0 and seq_kd: false"
    if resolved["custom"]["visual_kd"]["enabled"]:
        what = "custom.visual_kd compares with the teacher's visual features, which the cache does not hold"
        yield path, what, "remove one of the two"


def _schedule(resolved: Resolved) -> Found:
    if _key(resolved, "warmup_ratio") and _key(resolved, "warmup_steps"):
        yield "training.warmup_steps", "warmup_steps and warmup_ratio are both set", "keep one of them"
    kind, kwargs = _key(resolved, "lr_scheduler_type"), _key(resolved, "lr_scheduler_kwargs") or {}
    if kind in _MIN_LR and isinstance(kwargs, Mapping):
        given = [name for name in ("min_lr", "min_lr_rate") if kwargs.get(name) is not None]
        if len(given) != 1:
            what = f"lr_scheduler_type {kind} needs one of lr_scheduler_kwargs.min_lr and min_lr_rate"
            yield "training.lr_scheduler_type", what, "e.g. `lr_scheduler_kwargs: {min_lr: 1.0e-6}`"


def _optimizer(resolved: Resolved) -> Found:
    if _key(resolved, "optimizer") == "lorap" and not _key(resolved, "lorap_lr_ratio"):
        yield "training.optimizer", "lorap needs tuner.lorap_lr_ratio", "e.g. `lorap_lr_ratio: 16.0`"
    if _key(resolved, "neftune_noise_alpha") and resolved.get("rlhf"):
        what = "the noise would reach the teacher too, which shares the student's embeddings"
        yield "training.neftune_noise_alpha", what, "take it out of a distillation run"


def _precision(resolved: Resolved) -> Found:
    if _key(resolved, "bf16") and _key(resolved, "fp16"):
        yield "training.fp16", "bf16 and fp16 are both true", "keep one of them"


def _summary(resolved: Resolved) -> Found:
    custom = resolved["custom"]
    if custom["use_summary"] and 0 < custom["summary_ratio"] < 1:
        what = f"use_summary answers every sample with its summary, summary_ratio {custom['summary_ratio']} a share"
        yield "custom.summary_ratio", what, "keep one of them"


def _replaced(resolved: Resolved) -> Found:
    for name, fix in without_effect().items():
        if _differs(resolved, name):
            path = f"{home(name)}.{name}"
            yield path, f"{path}: {show_plain(_key(resolved, name))} would be ignored", fix


def _proven(resolved: Resolved) -> Found:
    """Values of the upstream that do not work with this step."""
    for name, values in PROVEN.items():
        wrong = [value for value in _several(_key(resolved, name)) if value not in values]
        if wrong:
            path = f"{home(name)}.{name}"
            what = f"{path}: {show_plain(wrong[0])} of the upstream does not run with this trainer"
            yield path, what, f"use {', '.join(map(str, values))}"
    initial = str(_key(resolved, "init_weights")).lower()
    if initial.startswith(NOT_INITIAL):
        what = f"init_weights {initial} needs a pass over data before training, which this version does not do"
        yield "tuner.init_weights", what, "use true, gaussian, orthogonal, olora or pissa"


def _dependent(resolved: Resolved) -> Found:
    """Keys that do nothing without a value of another key."""
    for name in (name for name in table() if needs(name) and _differs(resolved, name)):
        other, values = needs(name) or ("", ())
        given = _key(resolved, other)
        given = table()[other]["default"] if given is None else given
        if not set(_several(given) or [None]) & set(values):
            path, wanted = f"{home(name)}.{name}", " or ".join(str(value) for value in values if value is not None)
            yield path, f"{path} does nothing without {other}: {wanted}", f"write `{other}: {wanted}`, or take it out"


def _quantised(resolved: Resolved) -> Found:
    if _key(resolved, "quant_bits") and _key(resolved, "tuner_type") == "full":
        what = "full training changes the weights themselves, which quantised weights do not allow"
        yield "quantization.quant_bits", what, "train an adapter, or take the section quantization out"


def _adalora(resolved: Resolved) -> Found:
    if _key(resolved, "tuner_type") != "adalora":
        return
    start, target = (
        _key(resolved, name) or table()[name]["default"] for name in ("adalora_init_r", "adalora_target_r")
    )
    if target >= start:
        what = f"adalora_target_r {target} is not below adalora_init_r {start}: AdaLoRA only takes ranks away"
        yield "tuner.adalora_target_r", what, "raise adalora_init_r, or lower adalora_target_r"


def _differs(resolved: Resolved, name: str) -> bool:
    """Whether a key is set to something else than the upstream's default."""
    value = _key(resolved, name)
    return value is not None and value != table()[name]["default"]


def _several(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
