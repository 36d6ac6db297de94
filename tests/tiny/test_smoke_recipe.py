"""The documented smoke test: 32 samples, a checkpoint every five steps, telemetry in logging.jsonl."""

import json
from pathlib import Path

import pytest
import yaml

from plumbline.model.checkpoints import is_complete

pytestmark = pytest.mark.slow

TWIN = Path(__file__).parents[2] / "configs" / "tiny" / "smoke.yaml"


def test_smoke_recipe_logs_every_term_and_writes_checkpoints(tiny_model, records, tmp_path):
    from plumbline.train.config import load_run
    from plumbline.train.launch import TrainOptions
    from plumbline.train.run import run_training

    overlay = {
        "extends": str(TWIN),
        "model": {"model": str(tiny_model)},
        "rlhf": {"teacher_model": str(tiny_model), "max_completion_length": 4},
        "custom": {"train_jsonl": str(records[0]), "val_jsonl": str(records[1])},
        "training": {"output_dir": str(tmp_path / "smoke"), "max_steps": 6},
    }
    config = tmp_path / "smoke.yaml"
    config.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    run = load_run(config).run
    assert (run.custom.sample_limit, run.upstream["save_steps"]) == (32, 5)
    outcome = run_training(config, TrainOptions())
    assert outcome.exit_code == 0
    names = {
        name for line in (tmp_path / "smoke" / "logging.jsonl").read_text().splitlines() for name in json.loads(line)
    }
    for metric in ("loss", "llm_kd_loss", "token_acc", "token_count"):
        assert {f"train/{metric}", f"eval/{metric}"} <= names
    assert "eval/sft_loss" in names
    assert all(is_complete(tmp_path / "smoke" / f"checkpoint-{step}") for step in (5, 6))
