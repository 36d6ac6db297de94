"""How long a training step waits for its batch: real training, two dataloader workers, augmentation on.

    python benchmarks/loader.py --json

A tiny model on 12-megapixel pictures would be all decoding, a large model all training; so the pictures are those of a
small camera (1024 x 768, JPEG) and the step is the tiny model's on the CPU. The wait for the first batch, when workers
start, is told apart. `step_ms` includes the wait.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import yaml
from PIL import Image

WIDTH, HEIGHT, WORKERS = 1024, 768, 2


def write_records(folder: Path, count: int) -> Path:
    """Smooth noisy JPEGs with six boxes each."""
    draw, noise = random.Random(0), np.random.default_rng(0)
    rows = []
    for number in range(count):
        small = Image.fromarray(noise.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=85)
        objects = []
        for _ in range(6):
            x, y = draw.randint(0, WIDTH - 200), draw.randint(0, HEIGHT - 200)
            objects.append({"bbox_2d": [x, y, x + 180, y + 150], "desc": "BBU设备/品牌:华为"})
        rows.append({"images": [f"{number}.jpg"], "width": WIDTH, "height": HEIGHT, "objects": objects})
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_run(folder: Path, model: Path, data: Path, steps: int) -> Path:
    """A short run with augmentation."""
    chain = [{"name": "rotate", "params": {"max_deg": 8.0}}, {"name": "color_jitter"}, {"name": "random_crop"}]
    run = {
        "global_max_length": 4096,
        "model": {"model": str(model), "torch_dtype": "float32"},
        "template": {"max_pixels": 262144},
        "data": {"dataloader_num_workers": WORKERS, "dataloader_pin_memory": False},
        "tuner": {"tuner_type": "lora", "lora_rank": 8, "target_modules": ["all-linear"], "freeze_vit": True},
        "training": {
            "use_cpu": True,
            "bf16": False,
            "output_dir": str(folder / "run"),
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1.0e-4,
            "logging_steps": 1000,
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": ["none"],
        },
        "custom": {"train_jsonl": str(data), "augmentation": {"enabled": True, "ops": chain}},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, allow_unicode=True), encoding="utf-8")
    return path


def measure(steps: int) -> dict[str, Any]:
    """Everything that is printed."""
    from plumbline.model.tiny import build_tiny
    from plumbline.train.launch import TrainOptions
    from plumbline.train.run import run_training
    from plumbline.train.step import StepMixin

    waits: list[float] = []
    starts: list[float] = []
    original = StepMixin.get_batch_samples

    def timed(self: Any, *args: Any) -> Any:
        began = time.perf_counter()
        starts.append(began)
        found = original(self, *args)
        waits.append(time.perf_counter() - began)
        return found

    StepMixin.get_batch_samples = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_tiny(folder / "model")
        run_training(write_run(folder, model, write_records(folder, 48), steps), TrainOptions())
    waited = sum(waits[1:steps]) / (steps - 1)
    step = (starts[steps - 1] - starts[1]) / (steps - 2)
    return {
        "wait_ms": round(waited * 1e3, 2),
        "step_ms": round(step * 1e3, 1),
        "share": round(waited / step, 4),
        "first_wait_ms": round(waits[0] * 1e3, 1),
        "steps": steps,
        "workers": WORKERS,
        "floor": "0: the batch is there when the step ends",
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--steps", type=int, default=24, help="optimiser steps")
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # the trainer's own lines
        figures = measure(options.steps)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
