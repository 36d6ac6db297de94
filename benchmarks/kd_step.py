"""A distillation step: ours against ms-swift's GKD trainer and against plain fine-tuning.

    python benchmarks/kd_step.py --json

The tiny checkpoint in two sizes (hidden 256 x 8 layers; hidden 64 x 4 layers under `small`), LoRA of the language
model, float32, one process, the same four ragged samples in every step, the same adapters (which have moved) on every
side, JSD 0.5 at temperature 1 plus cross-entropy. Each figure comes from a fresh process: the median step after the
first, and the growth of the peak resident set once the trainer stands. The upstream's GKD encodes its batch inside the
step, as it does for its users. `upper_half` has adapters in the upper half of the layers alone.

Loss and gradient norm of the compared trainers must agree to 1e-4, or this fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

SIZES = {"top": "small", "small": "tiny"}  # the model's own names of its sizes
LAYERS = {"top": 8, "small": 4}
LIMITS = {"top": 1.4, "small": 1.15, "upper_half": 1.25}
FROZEN = {"freeze_vit": True, "freeze_aligner": True}
TRAINING = {
    "use_cpu": True,
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
    from plumbline.train.run import TrainOptions, run_training

    run: dict[str, Any] = {
        "global_max_length": 4096,
        "model": {"model": shape["model"], "torch_dtype": "float32"},
        "tuner": shape["tuner"],
        "training": {
            **TRAINING,
            "max_steps": shape["steps"],
            "per_device_train_batch_size": shape.get("batch", 4),
            "output_dir": str(folder / "ours"),
            "eval_strategy": "no",
        },
        "custom": {"train_jsonl": shape["records"]},
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
    import stepclock

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
    }


def fresh(name: str, shape_file: Path) -> dict[str, Any]:
    """Run a case in a fresh process."""
    command = [sys.executable, __file__, "--case", name, "--shape", str(shape_file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-4000:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"{shape_file.parent.name}, {name}: {figures}", file=sys.stderr)
    return figures


def agree(one: dict[str, Any], two: dict[str, Any], what: str) -> tuple[float, float]:
    """(relative error of the loss, of the gradient norm); stops where they are not equal."""
    errors = tuple(abs(one[name] - two[name]) / abs(two[name]) for name in ("loss", "norm"))
    assert max(errors) < 1e-4, f"{what}: {one} and {two}"
    return errors  # type: ignore[return-value]


def write_shape(folder: Path, size: str, steps: int, *, upper: bool = False, **more: Any) -> Path:
    """Model, records and chats of a size, and the file that tells a case about them."""
    from packing_train import write_chats, write_records

    from plumbline.model.tiny import build_tiny
    from plumbline.train.config import load_train_run
    from plumbline.train.datasets import open_datasets

    place = folder / f"{size}{'_upper' if upper else ''}"
    place.mkdir()
    model = build_tiny(place / "model", SIZES[size])  # type: ignore[arg-type]
    records = write_records(place, 4, most=6)
    shape = {
        "model": str(model),
        "records": str(records),
        "chats": "",
        "steps": steps,
        "tuner": tuner(LAYERS[size], upper),
        **more,
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
    samples = open_datasets(load_train_run(config).run)[0]
    shape["chats"] = str(write_chats(place, samples, model))
    file = place / "shape.json"
    file.write_text(json.dumps(shape), encoding="utf-8")
    return file


def figures_of(size: str, file: Path) -> dict[str, Any]:
    """Every trainer on one size."""
    found = {name: fresh(name, file) for name in CASES}
    loss, norm = agree(found["ours"], found["upstream_gkd"], f"{size}, distillation")
    agree(found["own_sft"], found["sft"], f"{size}, fine-tuning")
    seconds = {f"{name}_s": round(case["s"], 4) for name, case in found.items()}
    memory = {f"{name}_mb": round(case["mb"], 1) for name, case in found.items()}
    return {
        **seconds,
        **memory,
        "loss_rel_err": loss,
        "grad_rel_err": norm,
        "over_sft": round(found["ours"]["s"] / found["sft"]["s"], 3),
        "over_own_sft": round(found["ours"]["s"] / found["own_sft"]["s"], 3),
        "over_upstream_gkd": round(found["ours"]["s"] / found["upstream_gkd"]["s"], 3),
        "own_sft_over_sft": round(found["own_sft"]["s"] / found["sft"]["s"], 3),
        "over_sft_limit": LIMITS[size],
    }


def measure(steps: int) -> dict[str, Any]:
    """Everything that is printed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {size: figures_of(size, write_shape(folder, size, steps)) for size in SIZES}
        upper_file = write_shape(folder, "top", steps, upper=True)
        upper = {case: fresh(case, upper_file) for case in ("sft", "ours", "upstream_gkd")}
    agree(upper["ours"], upper["upstream_gkd"], "upper half")
    return {
        **result.pop("top"),
        **result,
        "upper_half": {
            **{f"{case}_s": round(figures["s"], 4) for case, figures in upper.items()},
            "over_sft": round(upper["ours"]["s"] / upper["sft"]["s"], 3),
            "over_sft_limit": LIMITS["upper_half"],
        },
        "floor": "6 * label tokens * hidden * vocabulary FLOP of the head, 4 of which plain fine-tuning has too; "
        "the teacher adds a forward (2 of 6 per weight and token with frozen weights: 2 forward, 2 backward) "
        "to the layers that train",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="steps per case; the first is not counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        with contextlib.redirect_stdout(sys.stderr):
            figures = one_case(options.case, options.shape)
        print(json.dumps(figures))
        return
    figures = measure(options.steps)
    print(json.dumps(figures) if options.json else "\n".join(f"{key}: {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
