"""`model.download: true` against a hub on loopback: downloaded once, then from the cache; half of it is no model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hub_on_loopback import hub_of

pytestmark = pytest.mark.slow
NAME = "Qwen/Qwen3-VL-Tiny"


@pytest.fixture
def train_from(write_run, tmp_path):
    """`train` in a process of its own with the hub at an address: (exit code, errors)."""

    def go(address, *words):
        config = write_run("run", model={"model": NAME, "download": True})
        environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "plumbline", "train", str(config), *words]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    return go


def test_a_model_is_downloaded_once(train_from, tiny_model, tmp_path):
    with hub_of(NAME, tiny_model) as (address, asked):
        code, said = train_from(address)
        assert code == 0, said[-2000:]
        assert sorted(asked) == sorted(path.name for path in Path(tiny_model).iterdir())
        asked.clear()
        assert train_from(address)[0] == 0
        assert asked == []


def test_a_download_without_all_files_stops_the_run(train_from, tiny_model, tmp_path):
    with hub_of(NAME, tiny_model, lost="model.safetensors") as (address, _asked):
        code, said = train_from(address)
    assert code == 2, said[-2000:]
    assert NAME in said and "cannot be downloaded" in said and "hf download" in said
    assert not (tmp_path / "run").exists()


def test_a_hub_that_does_not_answer_stops_the_run(train_from):
    code, said = train_from("http://127.0.0.1:9")
    assert code == 2 and "cannot be downloaded" in said and "hf download" in said
