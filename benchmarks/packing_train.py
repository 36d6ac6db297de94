"""Useful tokens per second of training: our packs against ms-swift's padded batches of four.

    python benchmarks/packing_train.py --json

The tiny checkpoint, LoRA on all linear layers, vision tower frozen, float32, one process, one dataloader worker on each
side. Both train on the same chats over the same pictures for one epoch of their own batches; start-up is not counted
(each trainer's own `train_runtime`). Before anything is timed, both sides' encodings must have the same lengths and the
untrained model the same loss on the same samples, packed by us and padded by the upstream's collator.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import yaml
from PIL import Image

CAPACITY = 2048
DESCS = ("BBU设备/品牌:华为/型号:5900", "螺丝/符合要求", "光纤/颜色:黄色", "标签/4G-RRU3-光纤", "电线/捆扎整齐")


def write_records(folder: Path, count: int, most: int = 14) -> Path:
    """Pictures of 64 to 320 pixels with 1 to `most` objects: lengths as ragged as site photos give them."""
    draw, noise = random.Random(0), np.random.default_rng(0)
    rows = []
    for number in range(count):
        width, height = draw.randint(64, 320), draw.randint(64, 320)
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        objects = []
        for _ in range(draw.randint(1, most)):
            x, y = draw.randint(0, width - 20), draw.randint(0, height - 20)
            objects.append({"bbox_2d": [x, y, x + 20, y + 20], "desc": draw.choice(DESCS)})
        rows.append({"images": [f"{number}.png"], "width": width, "height": height, "objects": objects})
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_run(folder: Path, model: Path, data: Path) -> Path:
    """Our run: packed, one epoch."""
    run = {
        "global_max_length": CAPACITY,
        "model": {"model": str(model), "torch_dtype": "float32"},
        "data": {"dataloader_num_workers": 1, "dataloader_pin_memory": False},
        "tuner": TUNER,
        "training": {
            **TRAINING,
            "output_dir": str(folder / "ours"),
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1,
            "packing": True,
            "eval_strategy": "no",
        },
        "custom": {"train_jsonl": str(data)},
        "prompts": {"system_dense": "", "user_dense": "描述"},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, allow_unicode=True), encoding="utf-8")
    return path


TUNER = {
    "tuner_type": "lora",
    "lora_rank": 8,
    "lora_alpha": 16,
    "target_modules": ["all-linear"],
    "freeze_vit": True,
    "freeze_aligner": True,
}
TRAINING = {
    "use_cpu": True,
    "bf16": False,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1.0e-4,
    "logging_steps": 1000,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "report_to": ["none"],
    "seed": 3,
}


def train_ours(config: Path) -> tuple[float, dict[str, Any]]:
    """(seconds of training, what the packs were)."""
    from plumbline.train.config import load_run
    from plumbline.train.datasets import open_datasets, plan_training
    from plumbline.train.launch import TrainOptions
    from plumbline.train.run import run_training

    run = load_run(config).run
    packs = plan_training(run, open_datasets(run)[0], 1).schedule
    run_training(config, TrainOptions())
    return _runtime(Path(run.upstream["output_dir"])), {"packs": len(packs), "fill": round(packs.fill, 4)}  # type: ignore[attr-defined]


def train_upstream(folder: Path, model: Path, chats: Path) -> float:
    """Seconds of ms-swift's own training on the same chats, batches of four."""
    from swift.arguments import SftArguments
    from swift.pipelines.train.sft import SwiftSft

    arguments = SftArguments(
        model=str(model),
        model_type="qwen3_vl",
        torch_dtype="float32",
        dataset=[str(chats)],
        split_dataset_ratio=0.0,
        max_length=CAPACITY,
        output_dir=str(folder / "upstream"),
        add_version=False,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        dataloader_num_workers=1,
        dataloader_pin_memory=False,
        **TUNER,
        **TRAINING,
    )
    SwiftSft(arguments).main()
    return _runtime(folder / "upstream")


def _runtime(folder: Path) -> float:
    lines = [json.loads(line) for line in (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()]
    return next(float(line["train_runtime"]) for line in reversed(lines) if "train_runtime" in line)


def write_chats(folder: Path, samples: Any, model: Path) -> Path:
    """The same samples in the upstream's own form, over pictures that are on the model's grid already."""
    from plumbline.batch.lengths import PixelLimits, resize_to_grid
    from plumbline.data.images import load_image

    limits = PixelLimits.of_folder(model)
    rows = []
    for position in range(len(samples)):
        sample = samples.item(position)
        question, answer = sample.messages[-2]["content"][-1]["text"], sample.messages[-1]["content"]
        turns = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
        picture = folder / f"grid_{position}.png"
        resize_to_grid(load_image(sample.images[0]), limits).save(picture)
        rows.append({"messages": turns, "images": [str(picture)]})
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def assert_equal(model_folder: Path, samples: Any, chats: Path) -> tuple[int, float]:
    """(tokens of an epoch, largest difference of the loss): both sides encode and judge alike, or this stops."""
    from swift.model import get_model_processor
    from swift.template import get_template

    from plumbline.batch.lengths import PixelLimits
    from plumbline.model.packed_attention import enable_packing, segments_of
    from plumbline.train.batches import BatchCollator, Encoder

    model, processor = get_model_processor(str(model_folder), torch_dtype=torch.float32, model_type="qwen3_vl")
    template = get_template(processor, template_type="qwen3_vl")
    template.set_mode("train")
    template.model = model
    vision = model.config.vision_config.spatial_merge_size
    encoder = Encoder(template, PixelLimits.of_folder(model_folder), CAPACITY, model.config.image_token_id, vision)
    rows = [encoder(samples.item(position)) for position in range(len(samples))]
    theirs = [template.encode(json.loads(line)) for line in chats.read_text(encoding="utf-8").splitlines()]
    assert [len(row["input_ids"]) for row in rows] == [len(row["input_ids"]) for row in theirs], "lengths differ"
    padded = BatchCollator(template)([theirs[:4]])
    del padded["tally"]
    with torch.no_grad():
        wanted = float(model(**padded).loss)
        enable_packing(model)
        packed = {
            key: value for key, value in BatchCollator(template, packing=True)([rows[:4]]).items() if key != "tally"
        }
        labels = packed.pop("labels")[:, 1:]
        hidden = model.model(**packed, **segments_of(packed["position_ids"]), use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1])[labels != -100]
        found = float(torch.nn.functional.cross_entropy(logits, labels[labels != -100]))
    assert abs(wanted - found) < 1e-4, f"losses differ: {wanted} and {found}"
    return sum(len(row["input_ids"]) for row in rows), abs(wanted - found)


def measure(count: int) -> dict[str, Any]:
    """Everything that is printed."""
    from plumbline.model.tiny import build_tiny
    from plumbline.train.config import load_run
    from plumbline.train.datasets import open_datasets

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, data = build_tiny(folder / "model"), write_records(folder, count)
        config = write_run(folder, model, data)
        samples = open_datasets(load_run(config).run)[0]
        chats = write_chats(folder, samples, model)
        tokens, difference = assert_equal(model, samples, chats)
        upstream_s = train_upstream(folder, model, chats)
        ours_s, packs = train_ours(config)
    return {
        "ours_tokens_per_s": round(tokens / ours_s, 1),
        "upstream_tokens_per_s": round(tokens / upstream_s, 1),
        "ratio": round(upstream_s / ours_s, 3),
        "tokens": tokens,
        "samples": count,
        "loss_difference": difference,
        **packs,
        "floor": "the head alone costs 6 * tokens with labels * hidden size * vocabulary FLOP on both sides",
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--samples", type=int, default=96, help="samples of the epoch")
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # the trainer's own lines
        figures = measure(options.samples)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
