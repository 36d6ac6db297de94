"""A distillation step: ours against ms-swift's GKD trainer and against plain fine-tuning.

    python benchmarks/kd_step.py --json

The tiny checkpoint in two sizes (hidden 256 x 8 layers; hidden 64 x 4 layers under `small`), LoRA of the language
model, float32, one process, the same four ragged samples in every step, the same adapters (which have moved) on every
side, JSD 0.5 at temperature 1 plus cross-entropy. Each figure comes from a fresh process: the median step after the
first, and the growth of the peak resident set once the trainer stands. The upstream's GKD encodes its batch inside the
step, as it does for its users. `upper_half` has adapters in the upper half of the layers alone.

Loss and gradient norm of the compared trainers must agree to 1e-4, or this fails.

`floor` beside each size is the FLOP that no way of computing the step leaves out. With H the hidden size, I the
intermediate one, V the vocabulary, T tokens (padding included), N supervised tokens, and L layers whose projections
have P = L * (2 H * heads * head_dim + 2 H * kv_heads * head_dim + 3 H * I) weights:

    forward pass of the layers          F = 2 T P
    backward pass, adapters alone       F: the gradient of the rows; frozen weights need none
    head, per product with it           2 N H V
    plain fine-tuning                   2 F + 2 products (logits, gradient of the rows)
    distillation                        3 F + 3 products (the teacher's forward and logits besides)
    adapters in the upper half          1.5 F + 2 products, and 2 F + 3 products: the lower half runs once for both
                                        sides and has no backward

Left out on every side: the adapters themselves, attention among tokens, the frozen vision tower (one forward pass).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import yaml

SIZES = {"top": "small", "small": "tiny"}  # the model's own names of its sizes
LAYERS = {"top": 8, "small": 4}
LIMITS = {"top": 1.4, "small": 1.15, "upper_half": 1.25}
PASSES = {"sft": (2.0, 2), "kd": (3.0, 3)}  # (forward passes of the layers, products with the head) of a step
UPPER_PASSES = {"sft": (1.5, 2), "kd": (2.0, 3)}
FROZEN = {"freeze_vit": True, "freeze_aligner": True}
TRAINING = {
    "bf16": False,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1.0e-12,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "report_to": ["none"],
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "seed": 3,
}


def tuner(layers: int, upper: bool) -> dict[str, Any]:
    """LoRA on the language model, or on the upper half of its layers."""
    shared = {"tuner_type": "lora", "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.0, **FROZEN}
    if not upper:
        return {**shared, "target_modules": ["all-linear"]}
    numbers = "|".join(str(number) for number in range(layers // 2, layers))
    return {**shared, "target_regex": rf".*language_model\.layers\.({numbers})\.(self_attn|mlp)\..*_proj"}


def run_ours(folder: Path, shape: dict[str, Any], *, teacher: bool) -> None:
    """Our trainer on our records."""
    from plumbline.train.launch import TrainOptions
    from plumbline.train.run import run_training

    run: dict[str, Any] = {
        "global_max_length": 4096,
        "model": {"model": shape["model"], "torch_dtype": "float32"},
        "tuner": shape["tuner"],
        "training": {
            **TRAINING,
            "use_cpu": shape["device"] == "cpu",
            "max_steps": shape["steps"],
            "per_device_train_batch_size": shape.get("batch", 4),
            "gradient_accumulation_steps": shape.get("accumulation", 1),
            "output_dir": str(folder / "ours"),
            "eval_strategy": "no",
        },
        "custom": {"train_jsonl": shape["records"], **shape.get("custom", {})},
        "prompts": {"system_dense": "", "user_dense": shape.get("prompt", "描述")},
    }
    if teacher:
        run["rlhf"] = {"rlhf_type": "gkd", "teacher_model": shape["model"], "beta": 0.5, **shape.get("rlhf", {})}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, allow_unicode=True), encoding="utf-8")
    run_training(path, TrainOptions())


def run_upstream(folder: Path, shape: dict[str, Any], *, teacher: bool) -> None:
    """ms-swift's own trainer on the same chats."""
    from swift.arguments import RLHFArguments, SftArguments
    from swift.pipelines.train.rlhf import SwiftRLHF
    from swift.pipelines.train.sft import SwiftSft

    arguments: dict[str, Any] = {
        "model": shape["model"],
        "model_type": "qwen3_vl",
        "torch_dtype": "float32",
        "dataset": [shape["chats"]],
        "split_dataset_ratio": 0.0,
        "max_length": 4096,
        "output_dir": str(folder / "upstream"),
        "add_version": False,
        "max_steps": shape["steps"],
        **shape["tuner"],
        **TRAINING,
        "use_cpu": shape["device"] == "cpu",
    }
    if not teacher:
        SwiftSft(SftArguments(**arguments)).main()
        return
    kd = {"rlhf_type": "gkd", "teacher_model": shape["model"], "beta": 0.5, "sft_alpha": 1.0, "lmbda": 0.0}
    SwiftRLHF(RLHFArguments(**arguments, **kd, temperature=1.0)).main()


CASES = {
    "sft": (run_upstream, False),
    "upstream_gkd": (run_upstream, True),
    "own_sft": (run_ours, False),
    "ours": (run_ours, True),
}


def one_case(name: str, shape_file: Path) -> dict[str, Any]:
    """Run a case in this process."""
    from harness import stepclock

    stepclock.install()
    runner, teacher = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        runner(Path(folder), json.loads(shape_file.read_text(encoding="utf-8")), teacher=teacher)
    clock = stepclock.StepClock.last
    return {
        "s": statistics.median(clock.seconds[1:]),
        "mb": clock.grown_mb(),
        "loss": clock.losses[0],
        "norm": clock.norms[0],
        "last": {"loss": clock.losses[-1], "norm": clock.norms[-1]},
        "tokens": clock.tokens,
        "supervised": round(clock.logs[0].get("train/token_count", 0)),
        "logged": {name: value for name, value in clock.logs[0].items() if name.startswith("train/")},
    }


def fresh(name: str, shape_file: Path) -> dict[str, Any]:
    """Run a case in a fresh process."""
    figures = harness.fresh_process(__file__, "--case", name, "--shape", shape_file)
    print(f"{shape_file.parent.name}, {name}: {figures}", file=sys.stderr)
    return figures


def agree(one: dict[str, Any], two: dict[str, Any], what: str) -> tuple[float, float]:
    """(relative error of the loss, of the gradient norm); stops where they are not equal."""
    errors = tuple(abs(one[name] - two[name]) / abs(two[name]) for name in ("loss", "norm"))
    assert max(errors) < 1e-4, f"{what}: {one} and {two}"
    return errors  # type: ignore[return-value]


def write_shape(folder: Path, name: str, steps: int, device: str) -> Path:
    """Model, records and chats of a size or of `upper_half`, and the file that tells a case about them."""
    from packing_train import write_chats, write_records

    from plumbline.model.tiny import build_tiny
    from plumbline.train.config import load_run
    from plumbline.train.datasets import open_datasets

    upper = name == "upper_half"
    size = "top" if upper else name
    place = folder / name
    place.mkdir()
    model = build_tiny(place / "model", SIZES[size])  # type: ignore[arg-type]
    records = write_records(place, 4, most=6)
    shape = {
        "model": str(model),
        "records": str(records),
        "chats": "",
        "steps": steps,
        "device": device,
        "tuner": tuner(LAYERS[size], upper),
    }
    probe = {
        "global_max_length": 4096,
        "model": {"model": str(model)},
        "tuner": shape["tuner"],
        "training": {"output_dir": str(place / "probe")},
        "custom": {"train_jsonl": str(records)},
        "prompts": {"system_dense": "", "user_dense": "描述"},
    }
    config = place / "probe.yaml"
    config.write_text(yaml.safe_dump(probe, allow_unicode=True), encoding="utf-8")
    samples = open_datasets(load_run(config).run)[0]
    shape["chats"] = str(write_chats(place, samples, model))
    file = place / "shape.json"
    file.write_text(json.dumps(shape), encoding="utf-8")
    return file


def floor_of(model: Path, figures: dict[str, Any], passes: dict[str, tuple[float, int]]) -> dict[str, Any]:
    """FLOP of a step on paper; see the module's text. figures: our trainer's, whose log tells the supervised tokens."""
    text = json.loads((model / "config.json").read_text(encoding="utf-8"))["text_config"]
    hidden, heads = text["hidden_size"], text["num_attention_heads"] + text["num_key_value_heads"]
    weights = text["num_hidden_layers"] * hidden * (2 * heads * text["head_dim"] + 3 * text["intermediate_size"])
    forward = 2 * figures["tokens"] * weights
    product = 2 * figures["supervised"] * hidden * text["vocab_size"]
    step = {name: layers * forward + head * product for name, (layers, head) in passes.items()}
    return {
        "tokens": figures["tokens"],
        "supervised_tokens": figures["supervised"],
        "forward_gflop": round(forward / 1e9, 2),
        "head_product_gflop": round(product / 1e9, 2),
        "sft_gflop": round(step["sft"] / 1e9, 2),
        "kd_gflop": round(step["kd"] / 1e9, 2),
        "kd_over_sft": round(step["kd"] / step["sft"], 3),
    }


def figures_of(name: str, file: Path) -> dict[str, Any]:
    """Every trainer on one size, or on `upper_half`."""
    found = {case: fresh(case, file) for case in CASES}
    loss, norm = agree(found["ours"], found["upstream_gkd"], f"{name}, distillation")
    agree(found["own_sft"], found["sft"], f"{name}, fine-tuning")
    passes = UPPER_PASSES if name == "upper_half" else PASSES

    def ratio(key: str, one: str, two: str) -> float:
        return round(found[one][key] / found[two][key], 3)

    return {
        **{f"{case}_s": round(figures["s"], 4) for case, figures in found.items()},
        **{f"{case}_mb": round(figures["mb"], 1) for case, figures in found.items()},
        "loss_rel_err": loss,
        "grad_rel_err": norm,
        "over_sft": ratio("s", "ours", "sft"),
        "over_sft_limit": LIMITS[name],
        "over_own_sft": ratio("s", "ours", "own_sft"),
        "over_upstream_gkd": ratio("s", "ours", "upstream_gkd"),
        "own_sft_over_sft": ratio("s", "own_sft", "sft"),
        "mb_over_sft": ratio("mb", "ours", "sft"),
        "mb_over_upstream_gkd": ratio("mb", "ours", "upstream_gkd"),
        "own_sft_mb_over_sft": ratio("mb", "own_sft", "sft"),
        "floor": floor_of(file.with_name("model"), found["ours"], passes),
    }


def measure(steps: int, names: Sequence[str] = tuple(LIMITS), device: str = "cpu") -> dict[str, Any]:
    """Everything that is printed: figures by size, those of `top` at the top level."""
    with tempfile.TemporaryDirectory() as folder:
        result = {name: figures_of(name, write_shape(Path(folder), name, steps, device)) for name in names}
    return {**result.pop("top", {}), **result}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--steps", type=int, default=6, help="steps per case; the first is not counted")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        with contextlib.redirect_stdout(sys.stderr):
            figures = one_case(options.case, options.shape)
        print(json.dumps(figures))
        return
    figures = measure(options.steps)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
