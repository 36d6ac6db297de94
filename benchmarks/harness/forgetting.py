"""A domain to learn, a base with something to forget, and what a fine-tune has learned and forgotten."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

Figures = dict[str, Any]
TRAIN, HELD_OUT, CHOOSER, OTHERS, OTHERS_HELD_OUT = 160, 40, 16, 96, 32
ANSWER_TOKENS, CAPTION_TOKENS, BATCH = 64, 320, 20
SEED = 1
SYSTEM, USER = "只输出一行JSON。", "描述图片中的物体。"


@dataclass(frozen=True)
class Domain:
    """Files of the comparison below one folder.

    train, val: rack scenes; others: everyday scenes that no arm trains on; anchors: the base's answers to train on;
    probes: its answers about other pictures, to measure with; chooser, val_chooser: others again, to choose with.
    """

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


@dataclass(frozen=True)
class Arm:
    """One way of training.

    sections: of the run's YAML, key by key over those that all arms share. extra: anchors per record to learn; they
    come on top, so that every arm sees the domain equally often.
    """

    name: str
    sections: dict[str, Any] = field(default_factory=dict)
    extra: float = 0.0


def build_domain(folder: Path) -> Domain:
    """Write base, scenes and the base's answers, or take what is there."""
    from plumbline.demo.recipes import fast_dtype
    from plumbline.model.learned import build_learned

    domain = Domain(folder)
    if domain.file("chooser").is_file():
        return domain
    folder.mkdir(parents=True, exist_ok=True)
    if not domain.base.is_dir():
        build_learned(domain.base, fast_dtype())
    _write_racks(domain, "train", range(TRAIN))
    _write_racks(domain, "val", range(TRAIN, TRAIN + HELD_OUT))
    _write_racks(domain, "val_chooser", range(TRAIN + HELD_OUT, TRAIN + HELD_OUT + CHOOSER))
    _write_everyday(domain, "known", range(OTHERS))
    _write_everyday(domain, "others", range(OTHERS, OTHERS + OTHERS_HELD_OUT))
    _answer(domain, "anchors", "known", "train")
    _answer(domain, "unseen", "others", "val")
    lines = domain.file("unseen").read_text(encoding="utf-8").splitlines(keepends=True)
    domain.file("probes").write_text("".join(lines[0::2]), encoding="utf-8")
    domain.file("chooser").write_text("".join(lines[1::2]), encoding="utf-8")
    return domain


def _write_racks(domain: Domain, name: str, numbers: range) -> None:
    from plumbline.demo.scenes import plan_scene, render_scene, scene_record

    _write(domain, name, [plan_scene(SEED, number) for number in numbers], render_scene, scene_record)


def _write_everyday(domain: Domain, name: str, numbers: range) -> None:
    from plumbline.demo.everyday import everyday_record, plan_everyday, render_everyday

    _write(domain, name, [plan_everyday(SEED, number) for number in numbers], render_everyday, everyday_record)


def _write(domain: Domain, name: str, scenes: Sequence[Any], render: Any, record: Any) -> None:
    """Pictures and records of scenes."""
    from plumbline.data.read import write_records

    names = [f"{name}/{number:04d}.png" for number in range(len(scenes))]
    for scene, image in zip(scenes, names, strict=True):
        _save(domain.folder / image, render(scene))
    write_records(domain.file(name), [record(scene, image) for scene, image in zip(scenes, names, strict=True)])


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def _answer(domain: Domain, name: str, photos: str, training: str) -> None:
    """The base's answers about everyday pictures, about rack pictures, and without a picture."""
    from plumbline.infer.anchors import AnchorSettings, build_anchors, plan_anchors
    from plumbline.infer.config import InferSettings, Sampling
    from plumbline.infer.local import TransformersEngine

    run = InferSettings(
        model=domain.base, input=Path(), output=domain.file(name), batch_size=8, sampling=Sampling(ANSWER_TOKENS)
    )
    settings = AnchorSettings(run, (domain.folder / photos,), (domain.file(training),), per_photo=2, seed=len(name))
    plan = plan_anchors(settings)
    build_anchors(settings, plan, lambda: TransformersEngine(domain.base, batch_size=8))


def train(domain: Domain, arm: Arm, rate: float, seed: int, steps: int, folder: Path) -> Path:
    """One run; returns its folder."""
    from plumbline.demo.recipes import fast_dtype
    from plumbline.train.launch import TrainOptions
    from plumbline.train.run import run_training

    sections: Any = {
        "global_max_length": 2048,
        "model": {"model": str(domain.base), "torch_dtype": fast_dtype()},
        "tuner": {
            "tuner_type": "lora",
            "lora_rank": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "target_modules": ["all-linear"],
            "freeze_llm": False,
            "freeze_vit": False,
            "freeze_aligner": False,
        },
        "training": {
            "output_dir": str(folder),
            "use_cpu": True,
            "bf16": False,
            "max_steps": round(steps * (1 + arm.extra)),
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "learning_rate": rate,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.05,
            "weight_decay": 0.0,
            "seed": seed,
            "logging_steps": 10,
            "eval_strategy": "no",
            "save_strategy": "steps",
            "save_steps": round(steps * (1 + arm.extra)),
            "report_to": ["none"],
            "gradient_checkpointing": False,
        },
        "custom": {"train_jsonl": str(domain.file("train")), "emit_norm": "norm1000"},
        "prompts": {"system_dense": SYSTEM, "user_dense": USER},
    }
    config = folder.with_suffix(".yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    merged = sections | {name: {**sections.get(name, {}), **own} for name, own in arm.sections.items()}
    config.write_text(yaml.safe_dump(merged, allow_unicode=True), encoding="utf-8")
    with contextlib.redirect_stdout(sys.stderr):
        outcome = run_training(config, TrainOptions(as_json=True, resume=False))
    assert outcome.exit_code == 0, config
    return folder


def measure(domain: Domain, adapter: Path | None, scratch: Path) -> Figures:
    """What a fine-tune has learned and forgotten; None: the base itself."""
    from plumbline.evaluate.drift import Margins, cells_of, domain_words, read_probes, score_probes
    from plumbline.evaluate.tasks.questions import bundled_tasks
    from plumbline.infer.local import TransformersEngine
    from plumbline.infer.questions import NO_CARD
    from plumbline.model.checkpoints import latest_complete

    folder = None if adapter is None else latest_complete(adapter).folder or adapter
    engine = TransformersEngine(domain.base, folder, batch_size=BATCH)
    probes = read_probes(domain.file("probes"), None, NO_CARD)
    words = domain_words(domain.file("val"))
    base = TransformersEngine(domain.base, batch_size=BATCH) if adapter is None else engine
    cells = cells_of(list(score_probes(probes, base, engine, words, ANSWER_TOKENS)), Margins())
    tasks = [task for task in bundled_tasks()[0] if task.group == "text"]
    from plumbline.infer.config import Sampling

    replies = engine.generate([task.question.request(Sampling(32)) for task in tasks])
    right = [task.is_right(reply.text) for task, reply in zip(tasks, replies, strict=True)]
    return {
        "f1_in": captions_f1(domain, engine, "val", scratch),
        "f1_others": captions_f1(domain, engine, "others", scratch),
        "kl": {cell.name: cell.kl.value for cell in cells},
        "leak": {cell.name: cell.leak.value for cell in cells if cell.leak is not None},
        "hallucination_ood": named_share(scratch / "others.jsonl", words),
        "text_acc": float(np.mean(right)),
    }


def captions_f1(domain: Domain, engine: Any, name: str, scratch: Path) -> float:
    """F1 at IoU .5 of the descriptions of a file's pictures, asked as in training."""
    from plumbline.data.answer import to_pixels
    from plumbline.data.parse import parse_answer
    from plumbline.data.read import read_records
    from plumbline.evaluate.run import evaluate_file
    from plumbline.infer.config import Sampling
    from plumbline.infer.engine import Request

    records = list(read_records(domain.file(name)))
    pictures = [Image.open(domain.folder / record.images[0]).convert("RGB") for record in records]
    requests = [
        Request(record.images[0], (picture,), SYSTEM, USER, Sampling(CAPTION_TOKENS))
        for record, picture in zip(records, pictures, strict=True)
    ]
    rows = []
    for record, reply in zip(records, engine.generate(requests), strict=True):
        assert record.width is not None and record.height is not None
        objects, _ = to_pixels(parse_answer(reply.text), "norm1000", record.width, record.height)
        found = [{item.shape.kind: item.shape.points.ravel().tolist(), "desc": item.desc} for item in objects]
        size = {"width": record.width, "height": record.height}
        rows.append({"key": record.images[0], "image": record.images[0], "objects": found, "text": reply.text, **size})
    path = scratch / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    figure = evaluate_file(domain.file(name), path, mode="dense", bootstraps=0).figures["f1_50"]
    return float(figure.value or 0.0)


def named_share(rows: Path, words: Sequence[str] | frozenset[str]) -> float:
    """Share of the answers that name a class of the domain."""
    texts = [json.loads(line)["text"] for line in rows.read_text(encoding="utf-8").splitlines()]
    return float(np.mean([any(word in text for word in words) for text in texts]))
