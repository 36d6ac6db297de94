"""Stage-A with the real model: in this process, and behind the upstream's own server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from adapters import make_adapter
from PIL import Image

from plumbline.errors import UserError
from plumbline.infer.config import Sampling
from plumbline.infer.doctor import examine
from plumbline.infer.local import TransformersEngine
from plumbline.model.merge import merge
from plumbline.stage_a.config import StageASettings
from plumbline.stage_a.summaries import plan_summaries
from plumbline.stage_a.verbs import stage_a
from plumbline.storage.rows import read_rows

pytestmark = pytest.mark.slow

MISSION = "挡风板安装检查"
PROMPTS = Path(__file__).parents[2] / "configs" / "prompts"


@pytest.fixture(scope="module")
def talkative(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model whose replies differ from picture to picture."""
    folder = tmp_path_factory.mktemp("merged")
    adapter = make_adapter(tiny_model, folder / "adapter", "lora", size=0.1)
    merge(adapter, folder / "model", base=tiny_model)
    return folder / "model"


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    for label in ("审核通过", "审核不通过"):
        folder = tmp_path / "tickets" / MISSION / label / "QC-1"
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng([number, len(label)]).integers(0, 255, (4, 4, 3), dtype=np.uint8)
            size = (64 + 32 * number, 96)
            Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).save(folder / f"p{number}.png")
    return tmp_path / "tickets"


def settings_of(model: Path, tickets: Path, output: Path, **more: object) -> StageASettings:
    values = {"model": model, "input": tickets, "output": output, "prompts": PROMPTS, "sampling": Sampling(8)}
    return StageASettings(**values | more)  # type: ignore[arg-type]


def test_a_run_in_this_process_says_the_same_whatever_the_batch(talkative, tickets, tmp_path, capsys) -> None:
    texts = []
    for size in (1, 4):
        output = tmp_path / f"out{size}"
        assert stage_a(settings_of(talkative, tickets, output, batch_size=size), as_json=True, dry_run=False) == 3
        (run,) = json.loads(capsys.readouterr().out)["runs"]
        assert run["unreadable"].endswith(" times)"), "the model never learned to end its summary"
        assert (run["items"], run["written"]) == (6, 6)
        rows = {row["key"]: row for row in read_rows(output / f"{MISSION}_stage_a.rows.jsonl")}
        texts.append({key: row["summary"] for key, row in rows.items()})
        gathered = (output / f"{MISSION}_stage_a.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["label"] for line in gathered] == ["pass", "fail"]
    assert texts[0] == texts[1] and len(set(texts[0].values())) > 1
    assert stage_a(settings_of(talkative, tickets, tmp_path / "dry"), as_json=True, dry_run=True) == 0
    (planned,) = json.loads(capsys.readouterr().out)["runs"]
    assert planned["estimate"]["prompt_tokens"] > 6 * 50 and planned["tickets"] == {"pass": 1, "fail": 1}
    assert not (tmp_path / "dry").exists()


def test_the_estimate_counts_the_tokens_that_the_model_reads(talkative, tickets, tmp_path) -> None:
    from plumbline.stage_a.estimate import estimate
    from plumbline.stage_a.summaries import Summaries

    (plan,), _ = plan_summaries(settings_of(talkative, tickets, tmp_path / "out"))
    engine, work = TransformersEngine(talkative), Summaries(plan)
    read = sum(len(engine.prompt_ids(work.ask(photo))) for photo in plan.found.photos)
    assert estimate(plan).prompt_tokens == read


def test_a_merged_model_behind_the_upstreams_server_answers_as_it_does_here(talkative, tickets, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # What `swift deploy` starts; the command itself would leave it behind when it is killed.
    command = [sys.executable, "-m", "swift.cli.deploy", "--model", str(talkative)]
    command += ["--model_type", "qwen3_vl", "--infer_backend", "transformers", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--torch_dtype", "float32", "--served_model_name", "talkative"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "MAX_PIXELS": "65536"}
    log = (tmp_path / "server.log").open("wb")
    with subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + 300
            while examine(url)[0].state != "ok":
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()[
                    -3000:
                ]
            local, served = tmp_path / "local", tmp_path / "served"
            stage_a(settings_of(talkative, tickets, local), as_json=True, dry_run=False)
            stage_a(settings_of(talkative, tickets, served, servers=(url,)), as_json=True, dry_run=False)
            here, there = (
                {row["key"]: row["summary"] for row in read_rows(output / f"{MISSION}_stage_a.rows.jsonl")}
                for output in (local, served)
            )
            assert here == there and len(here) == 6
            with pytest.raises(UserError, match="has no model 'other'"):
                again = settings_of(talkative, tickets, tmp_path / "x", servers=(url,), served_model="other")
                stage_a(again, as_json=True, dry_run=False)
        finally:
            server.kill()
    log.close()
    shutil.rmtree(local)
