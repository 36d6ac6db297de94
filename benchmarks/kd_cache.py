"""A distillation step with the teacher's rows cached, against a plain fine-tuning step of this project.

    python benchmarks/kd_cache.py --json

A Qwen3-VL of 24 layers and hidden 512 (random weights), LoRA of the language model, float32, one process, the same
sample in every step, a tenth of their tokens supervised. The cache fills in the first step, which is not counted, and
serves all others. Each figure is the median of the steps of a fresh process; processes of the three kinds take turns.

The loss of a cached step must equal that of an uncached one to 1e-4, or this fails.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import kd_step
from packing_train import write_records

SIZE = {"hidden": 512, "layers": 24, "heads": 8, "key_value_heads": 4, "head_dim": 64}
VISION = {"vision_hidden": 64, "vision_depth": 4, "vision_heads": 4}
PROMPT = "描述画面中的每一个物体。" * 90


def write_shape(folder: Path, steps: int, device: str) -> Path:
    """Model, records, and the file that tells a case about them."""
    from plumbline.model.tiny import TinySize, build_model, build_processor

    model = folder / "model"
    build_model(TinySize(**SIZE, **VISION), seed=0).save_pretrained(model)
    build_processor().save_pretrained(model)
    shape = {
        "model": str(model),
        "records": str(write_records(folder, 1, most=2)),
        "steps": steps,
        "device": device,
        "batch": 1,
        "prompt": PROMPT,
        "tuner": kd_step.tuner(SIZE["layers"], upper=False),
    }
    (folder / "shape.json").write_text(json.dumps(shape), encoding="utf-8")
    cached = {**shape, "rlhf": {"teacher_cache": str(folder / "cache")}}
    (folder / "cached.json").write_text(json.dumps(cached), encoding="utf-8")
    return folder


def supervised_tokens(folder: Path) -> int:
    """Rows that the cache holds, one for each supervised token."""
    from safetensors import safe_open

    kept = 0
    for path in (folder / "cache").glob("*/rows-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            kept += sum(file.get_slice(key).get_shape()[0] for key in file.keys())  # noqa: SIM118
    return kept


def measure(steps: int, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Everything that is printed."""
    cases = {"sft": ("own_sft", "shape.json"), "cached": ("ours", "cached.json"), "uncached": ("ours", "shape.json")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as name:
        folder = write_shape(Path(name), steps, device)
        for _ in range(rounds):
            for case, (kind, file) in cases.items():
                found[case].append(kd_step.fresh(kind, folder / file))
        supervised = supervised_tokens(folder)
    seconds = {case: statistics.median(figures["s"] for figures in runs) for case, runs in found.items()}
    loss, norm = kd_step.agree(found["cached"][0] | found["cached"][0]["last"], found["uncached"][0], "cached")
    tokens = found["sft"][0]["tokens"]
    assert supervised <= 0.1 * tokens, f"{supervised} of {tokens} tokens are supervised"
    return {
        "cached_kd_s": round(seconds["cached"], 4),
        "uncached_kd_s": round(seconds["uncached"], 4),
        "sft_s": round(seconds["sft"], 4),
        **{f"{case}_mb": round(statistics.median(run["mb"] for run in runs), 1) for case, runs in found.items()},
        "ratio": round(seconds["cached"] / seconds["sft"], 3),
        "loss_rel_err": loss,
        "grad_rel_err": norm,
        "tokens": tokens,
        "supervised_tokens": supervised,
        **SIZE,
        "floor": "2 * supervised * hidden * vocabulary FLOP on top of fine-tuning: the teacher against the head",
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--steps", type=int, default=6, help="steps per process; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        figures = measure(options.steps, options.rounds)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
