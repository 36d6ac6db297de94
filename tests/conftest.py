"""Fixtures for every test; torch is imported only where a fixture that needs it is asked for.

`train` runs `plumbline train` inside the test's own process, where the heavy imports are paid once.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how fast the machine is proves nothing
settings.load_profile("untimed")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = ("BBU设备", "标签", "光纤", "电线")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--store-golden", action="store_true", help="write tests/golden anew instead of comparing")


_LONGEST = ("test_demo", "test_ddp", "test_upstream", "test_stage_a_runs", "test_infer")
"""Modules that start whole programs: begun first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, quick ones last; otherwise the order stays."""

    def rank(item: pytest.Item) -> int:
        if item.path.stem in _LONGEST:
            return _LONGEST.index(item.path.stem)
        return len(_LONGEST) + (item.get_closest_marker("slow") is None)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, built once per session, also when the session runs in several processes."""
    from filelock import FileLock

    from plumbline.model.tiny import build_tiny

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = shared / "tiny-model"
    with FileLock(shared / "tiny-model.lock"):
        return folder if folder.exists() else build_tiny(folder)


def write_records(folder: Path, name: str, count: int, seed: int) -> Path:
    """`count` records over small noisy pictures, two objects each, and a summary."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        width, height = int(rng.integers(48, 128)), int(rng.integers(48, 128))
        picture = folder / f"{name}_{number}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(picture)
        objects = [
            {"desc": WORDS[number % 4], "bbox_2d": [4, 4, width // 2, height // 2]},
            {"desc": WORDS[(number + 1) % 4], "line": [1, 1, width - 2, height - 3]},
        ]
        rows.append(
            {
                "images": [picture.name],
                "width": width,
                "height": height,
                "objects": objects,
                "summary": f"{WORDS[number % 4]}×1",
            }
        )
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class FinishedRun:
    """A run folder and what it logged."""

    folder: Path
    exit_code: int

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def series(self, name: str) -> list[float]:
        """The logged values of one metric, in order."""
        return [line[name] for line in self.log if name in line]

    def names(self) -> set[str]:
        return {name for line in self.log for name in line}

    @property
    def last(self) -> Path:
        return max(self.folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(train.jsonl of 8 records, val.jsonl of 3); shared by all tests of a worker, so that none may write to them."""
    folder = tmp_path_factory.mktemp("records")
    files = write_records(folder, "train", 8, 0), write_records(folder, "val", 3, 1)
    for file in files:
        file.chmod(0o444)
    return files


@pytest.fixture
def make_records() -> Callable[[Path, str, int, int], Path]:
    """`make_records(folder, name, count, seed)`: another JSONL like those of `records`."""
    return write_records


def deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = deep_merge(base.get(key, {}), value) if isinstance(value, dict) else value
    return merged


@pytest.fixture
def write_run(tmp_path: Path, tiny_model: Path, records: tuple[Path, Path]) -> Callable[..., Path]:
    """Writes a run's YAML: small, quick, on the CPU; keyword sections are merged over it. Returns the file's path."""

    def write(name: str = "run", **sections: Any) -> Path:
        base = {
            "global_max_length": 1024,
            "model": {"model": str(tiny_model), "torch_dtype": "float32"},
            "tuner": {
                "tuner_type": "lora",
                "lora_rank": 4,
                "lora_alpha": 8,
                "lora_dropout": 0.0,
                "target_modules": ["all-linear"],
                "freeze_llm": False,
                "freeze_vit": True,
                "freeze_aligner": False,
            },
            "training": {
                "use_cpu": True,
                "bf16": False,
                "output_dir": str(tmp_path / name),
                "max_steps": 2,
                "per_device_train_batch_size": 2,
                "per_device_eval_batch_size": 2,
                "gradient_accumulation_steps": 1,
                "learning_rate": 1.0e-3,
                "logging_steps": 1,
                "eval_strategy": "no",
                "save_strategy": "steps",
                "save_steps": 100,
                "dataloader_num_workers": 0,
                "gradient_checkpointing": False,
                "report_to": ["tensorboard"],
                "seed": 11,
            },
            "custom": {"train_jsonl": str(records[0]), "val_jsonl": str(records[1])},
            "prompts": {"system_dense": "", "user_dense": "描述", "system_summary": "", "user_summary": "概括"},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(deep_merge(base, sections), allow_unicode=True), encoding="utf-8")
        return path

    return write


@pytest.fixture
def train(write_run: Callable[..., Path]) -> Callable[..., FinishedRun]:
    """Trains: `train("name", section={...})`; finite losses are a condition of every run."""

    def run(name: str = "run", resume: bool = True, **sections: Any) -> FinishedRun:
        from plumbline.train.launch import TrainOptions
        from plumbline.train.run import run_training

        outcome = run_training(write_run(name, **sections), TrainOptions(resume=resume))
        assert outcome.folder is not None
        finished = FinishedRun(outcome.folder, outcome.exit_code)
        assert all(math.isfinite(value) for value in finished.series("loss"))
        return finished

    return run


@pytest.fixture
def plumbline(monkeypatch, capsys):
    """Runs the command line in this process: `plumbline("data", "check", ...)` -> (exit code, output, errors)."""
    from plumbline import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["plumbline", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (ended.value.code, *capsys.readouterr())

    return run
