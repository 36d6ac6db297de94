"""Stage-B with the real engines: a model in this process, a server on loopback, the documents' script."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from plumbline.cli import app
from plumbline.infer.local import TransformersEngine
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.engine import open_verdict_engine
from plumbline.stage_b.estimate import estimate
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.rollout import Items, Rollouts, candidates_of
from plumbline.storage.rows import read_rows
from serving import Answering, completion
from stage_b_folders import Inspector, run_over, ticket_rows, write_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_a_model_that_cannot_judge_passes_nothing(tiny_model: Path, tmp_path: Path, capsys) -> None:
    engine = {"model": str(tiny_model), "batch_size": 4}
    grid = [{"temperature": 0.0, "max_new_tokens": 4}, {"temperature": 0.9, "max_new_tokens": 4}]
    run = run_over(tmp_path, ticket_rows(3), engine=engine, sampler={"grid": grid})
    config = tmp_path / "stage_b.yaml"
    assert app(["stage-b", "run", str(config), "--dry-run", "--json"], result_action="return_value") == 0
    (plan,) = json.loads(capsys.readouterr().out)["runs"]
    assert (plan["calls"], plan["reply_tokens"]) == (6, 24) and plan["seconds"] > 0
    assert app(["stage-b", "run", str(config), "--json"], result_action="return_value") == 3
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert told["unreadable"].endswith(" times)")
    assert (told["calls"], told["statuses"], told["reply_tokens"]) == (6, {"invalid": 6}, 24)
    rows = list(read_rows(run.store.trajectories))
    assert all(row["result"]["verdict"] is None and row["result"]["scores"] is None for row in rows)
    chosen = [row["result"] for row in read_rows(run.store.folder / "selections.jsonl")]
    assert [(row["verdict"], row["summary_confidence"], row["selected_candidate"]) for row in chosen] == [
        (None, "needs_review", None)
    ] * 3


def test_the_dry_run_counts_the_tokens_that_the_model_reads(tiny_model: Path, tmp_path: Path, capsys) -> None:
    run = run_over(tmp_path, ticket_rows(5), engine={"model": str(tiny_model)}, sampler={"grid": [{}]})
    work, engine = Rollouts(run.first_guidance(), run.config.judge.weights), TransformersEngine(tiny_model)
    items = Items(run.data.tickets, candidates_of(run.config.sampler, 0, 1), 1)
    assert estimate(run).prompt_tokens == sum(len(engine.prompt_ids(work.ask(item))) for item in items)


def test_servers_are_asked_and_share_the_beginning_of_every_prompt(tmp_path: Path) -> None:
    said = "不通过\n理由: image_1 接地螺丝不符合要求"
    with Answering(answers=[completion(said)] * 16) as server:
        run = run_over(tmp_path, ticket_rows(4), engine={"servers": [server.url]})
        report = run_mission(run, lambda: open_verdict_engine(run.config.engine), Budget())
        asked = [body["messages"] for body in server.asked]
    assert (report.exit_code, report.statuses) == (0, {"ok": 16})
    assert len({json.dumps(messages[0], ensure_ascii=False) for messages in asked}) == 1
    assert asked[0][0]["role"] == "system" and len(asked) == 16


def test_the_script_of_the_documents_runs_on_recorded_replies(tmp_path: Path) -> None:
    recorded = run_over(tmp_path / "recorded", ticket_rows(6))
    run_mission(recorded, Inspector, Budget())
    engine = {"kind": "replay", "replies": str(recorded.store.trajectories)}
    config = write_config(tmp_path, tmp_path / "recorded" / "tickets.jsonl", engine=engine)
    command = ["bash", str(ROOT / "scripts" / "stage_b_run.sh"), str(config), "--log-level", "debug"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "24 ok" in done.stdout and "epoch 1: 24 candidates" in done.stderr and "检查重点" in done.stderr
