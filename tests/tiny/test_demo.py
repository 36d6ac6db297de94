"""The demonstration as a user runs it, only shorter."""

import json
import shutil

import pytest

from plumbline.demo import run as demo_run
from plumbline.demo.recipes import Places
from plumbline.demo.run import DemoOptions, run_demo
from plumbline.report.log import read_log
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.mission import plan_missions
from plumbline.storage.rows import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished short demonstration: its places and its summary."""
    patch = pytest.MonkeyPatch()
    patch.setattr(demo_run, "SCENES", 6)
    patch.setattr(demo_run, "HELD_OUT", 1)
    patch.setattr(demo_run, "CAPTION_TOKENS", 24)
    patch.setattr(demo_run, "ANSWER_TOKENS", 8)
    patch.setattr(demo_run, "TASK_LIMIT", 4)
    patch.setattr(demo_run, "PHOTO_TICKETS", 4)
    patch.setattr(demo_run, "SUMMARY_TOKENS", 8)
    patch.setattr(demo_run, "SIMULATED_TICKETS", 60)
    output = tmp_path_factory.mktemp("demo") / "out"
    assert run_demo(DemoOptions(output, steps=3)) == 0
    yield Places(output), json.loads((output / "summary.json").read_text(encoding="utf-8"))
    patch.undo()


def test_summary_says_what_the_runs_logged(demo):
    places, summary = demo
    sft, anchored = (read_log(folder / "logging.jsonl") for folder in (places.sft, places.anchored))
    assert (summary["sft"]["steps"], summary["anchored"]["steps"]) == (sft.steps, anchored.steps) == (1, 3)
    assert summary["sft"]["loss_last"] == sft.values("train/loss")[-1]
    assert {"train/loss", "train/sft_loss", "train/llm_kd_loss/anchors"} <= set(summary["anchored"]["metrics"])
    assert {"eval/loss", "eval/drift/anchors", "eval/anchor_factor"} <= set(summary["anchored"]["metrics"])
    assert 0 <= summary["merge"]["max_abs_logit_diff"] <= 1e-4
    assert summary["captions"]["images"] == 2
    assert sum(summary["anchors"]["kept"].values()) > summary["anchors"]["val"] > 0
    for run in ("sft", "anchored"):
        found = summary["drift"][run]
        assert {"training", "photos", "text", "domain"} >= set(found["kl"]) >= {"text", "domain"}
        assert all(value >= 0 for value in found["kl"].values()) and set(found["leak"]) == set(found["kl"]) - {"domain"}
        assert 0 <= found["known_answers"]["text"] <= 1
    assert "drift_sft.html" in (places.output / "report.html").read_text(encoding="utf-8")
    assert 0 <= summary["evaluate"]["f1_50"] <= summary["evaluate"]["f1_50_any_class"] <= 1
    assert 'id="p-1"' in (places.output / summary["evaluate"]["page"]).read_text(encoding="utf-8")
    rows = list(read_rows(places.captions / "after.jsonl"))
    assert summary["captions"]["objects"] == sum(len(row["objects"]) for row in rows)
    assert summary["wall_s"] > 0 and not any(stage["reused"] for stage in summary["stages"].values())


def test_tickets_are_summarised_and_judged(demo):
    places, summary = demo
    assert (summary["stage_a"]["tickets"], summary["stage_a"]["images"]) == (4, 8)
    assert sum(summary["stage_a"]["statuses"].values()) == 8
    assert 0 <= summary["stage_b"]["accuracy_on_stage_a"] <= 1
    facts = summary["stage_b"]
    assert (facts["tickets"], facts["candidates"]) == (60, 8)
    assert [edit["outcome"] in ("accept", "reject", "insufficient_evidence") for edit in facts["edits"]] == [True] * 2
    html = (places.output / "report.html").read_text(encoding="utf-8")
    assert "simulated model" in html and facts["edits"][0]["text"] in html
    loaded = load_stage_b(places.stage_b / "simulated" / "stage_b.yaml")  # the same command by hand asks nothing
    (run,) = plan_missions(loaded.run)
    assert run_mission(run, lambda: pytest.fail("nothing to ask"), Budget()).calls == 0


def test_report_and_contact_sheet_are_there(demo):
    places, summary = demo
    html = (places.output / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and html.count("data:image/jpeg") == 4 + 2 * summary["captions"]["images"]
    assert f"{summary['merge']['max_abs_logit_diff']:.2e}" in html
    assert (places.output / "contact_sheet.png").stat().st_size < 500_000
    assert (places.sft / "report.html").is_file()


def test_a_second_run_reuses_everything_and_a_missing_result_is_made_again(demo, capfd):
    places, _ = demo
    weights = (places.merged / "model.safetensors").read_bytes()
    shutil.rmtree(places.merged)
    assert run_demo(DemoOptions(places.output, steps=3)) == 0
    stages = json.loads((places.output / "summary.json").read_text(encoding="utf-8"))["stages"]
    assert [name for name, stage in stages.items() if not stage["reused"]] == [
        "merge",
        "captions",
        "evaluate",
        "drift",
        "stage_a",
        "stage_b",
    ]
    assert (places.merged / "model.safetensors").read_bytes() == weights
    assert capfd.readouterr().err.count("done before, reused") == 6


def test_the_command_that_the_demonstration_ends_with_opens_the_review(demo, plumbline):
    """The same folder, as a static page: the served one is tested with a browser."""
    places, _ = demo
    config = places.stage_b / "photos" / "stage_b.yaml"
    code, out, err = plumbline("stage-b", "report", str(config))
    assert code == 0, err
    assert "report.html" in out + err
