"""Which model anchors the student, and whether the two fit: decided from files, before any weight is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import Problem

# Initialisations whose switched-off adapter is not the base (PiSSA and its kin move weight out of the base).
_EXACT_INITS = {"true", "gaussian", "false"}
_ADAPTERS_OFF_EXACT = {"lora", "adalora", "boft"}
TOP = 20
"""Tokens that vLLM returns per place unless it is started with a larger `--max-logprobs`."""


@dataclass(frozen=True)
class TeacherPlan:
    """Where the teacher comes from.

    folder: base model; adapters: adapter folder loaded on it, if any; adapters_off: True when the student's own base
    serves, so that no second copy is loaded; reason: why, in a sentence for the log. server: address of an
    OpenAI-compatible server, then `folder` is the model's name there (or empty) and `top` how many of its most likely
    tokens are requested.
    """

    folder: str
    adapters: tuple[str, ...]
    adapters_off: bool
    reason: str
    server: str | None = None
    top: int = 0


def plan_teacher(upstream: Mapping[str, Any], teacher: str) -> TeacherPlan:
    """Decide between the student's base with adapters off and a frozen copy.

    upstream: the run's arguments under upstream's names; teacher: the configured folder (base, merged, or adapter).
    """
    server = upstream.get("teacher_model_server")
    if server:
        top = int(upstream.get("gkd_logits_topk") or TOP)
        return TeacherPlan(teacher, (), True, f"{server} returns its {top} most likely tokens", server, top)
    folder, adapters = resolve_teacher(teacher)
    same = Path(folder).resolve() == Path(str(upstream["model"])).resolve()
    tuner = str(upstream.get("tuner_type", "lora"))
    init = str(upstream.get("init_weights", "true")).lower()
    if adapters:
        return TeacherPlan(folder, adapters, False, f"{teacher} is an adapter: loaded on its base {folder}")
    if not same:
        return TeacherPlan(folder, (), False, "the teacher differs from the student's base: a frozen copy is loaded")
    if tuner not in _ADAPTERS_OFF_EXACT:
        return TeacherPlan(folder, (), False, f"tuner_type {tuner} changes the base: a frozen copy is loaded")
    if init not in _EXACT_INITS:
        return TeacherPlan(folder, (), False, f"init_weights {init} changes the base: a frozen copy is loaded")
    return TeacherPlan(folder, (), True, "the student's base with adapters off is the teacher: no second copy")


def resolve_teacher(teacher: str) -> tuple[str, tuple[str, ...]]:
    """(base folder, adapter folders) of a configured teacher; raises nothing: a missing file shows up in the checks."""
    config = Path(teacher) / "adapter_config.json"
    if not config.is_file():
        return teacher, ()
    base = _json(config).get("base_model_name_or_path") or ""
    return str(base), (teacher,)


def teacher_problems(student: str, teacher: str, key: str = "rlhf.teacher_model") -> list[Problem]:
    """Everything that makes the teacher's distribution incomparable with the student's, with the numbers.

    student, teacher: base model folders; compares vocabulary, tokenizer, chat template and image processing.
    """
    if Path(student).resolve() == Path(teacher).resolve():
        return []
    ours, theirs = _facts(Path(student)), _facts(Path(teacher))
    fix = "use a teacher of the same family and release: the base that the student starts from"
    return [
        Problem(key, f"{name} differs: student {ours[name]}, teacher {theirs[name]}", fix)
        for name in ours
        if ours[name] != theirs[name]
    ]


def _facts(folder: Path) -> dict[str, Any]:
    config, processor = _json(folder / "config.json"), _image_processor(folder)
    text, vision = config.get("text_config", config), config.get("vision_config", {})
    size = processor.get("size") or {}
    tokenizer = _json(folder / "tokenizer.json")
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    added = sorted((token["id"], token["content"]) for token in tokenizer.get("added_tokens", []))
    return {
        "model_type": config.get("model_type"),
        "vocabulary size": text.get("vocab_size"),
        "image token id": config.get("image_token_id"),
        "tokenizer vocabulary": f"{len(vocabulary)} entries, {_digest(vocabulary)}",
        "added tokens": f"{len(added)} entries, {_digest(added)}",
        "chat template": _digest(_chat_template(folder)),
        "vision patch size": vision.get("patch_size"),
        "vision merge size": vision.get("spatial_merge_size"),
        "image processor patch size": processor.get("patch_size"),
        "image processor merge size": processor.get("merge_size"),
        "image processor least pixels": processor.get("min_pixels", size.get("shortest_edge")),
        "image processor most pixels": processor.get("max_pixels", size.get("longest_edge")),
    }


def _image_processor(folder: Path) -> dict[str, Any]:
    """The image processor's settings: a file of their own, or a part of the processor's (transformers 5)."""
    own = _json(folder / "preprocessor_config.json")
    return own or _json(folder / "processor_config.json").get("image_processor", {})


def _chat_template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _json(folder / name).get("chat_template")
        if template:
            return str(template).strip()
    return ""


def _digest(value: Any) -> str:
    data = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
