"""The demonstration's own mechanics: remembered stages, written configurations, followed commands."""

import json
import sys

import pytest

from plumbline.demo import stages
from plumbline.demo.recipes import Places, Recipe, write_anchored, write_sft
from plumbline.demo.run import DemoOptions, StageFailedError, _follow, caption_facts, run_demo, training_facts
from plumbline.demo.stages import Ledger
from plumbline.errors import UserError
from plumbline.report.log import read_log
from plumbline.train.config import load_run


# --------------------------------------------------------------------------------------------------------------- stages
def walk(output, names=("one", "two", "three"), inputs=None, missing=()):
    """Go through stages; returns the names that were done anew."""
    ledger, done = Ledger(output), []
    for name in names:
        if ledger.recall(name, (inputs or {}).get(name, {}), lambda name=name: name not in missing) is None:
            ledger.record(name, 1.5, {"made": name})
            done.append(name)
    return ledger, done


def test_finished_stages_are_recalled_with_what_they_measured(tmp_path):
    assert walk(tmp_path)[1] == ["one", "two", "three"]
    ledger, done = walk(tmp_path)
    assert done == []
    assert [(stage.name, stage.seconds, stage.reused, stage.facts["made"]) for stage in ledger.done] == [
        ("one", 1.5, True, "one"),
        ("two", 1.5, True, "two"),
        ("three", 1.5, True, "three"),
    ]


def test_other_inputs_do_this_stage_and_every_later_one_anew(tmp_path):
    walk(tmp_path)
    assert walk(tmp_path, inputs={"two": {"steps": 3}})[1] == ["two", "three"]
    assert walk(tmp_path, inputs={"two": {"steps": 3}})[1] == []


def test_a_stage_whose_result_is_gone_is_done_anew_with_all_that_follows(tmp_path):
    walk(tmp_path)
    assert walk(tmp_path, missing=("two",))[1] == ["two", "three"]


def test_a_stage_that_was_cut_short_has_no_record(tmp_path):
    walk(tmp_path)
    Ledger(tmp_path).recall("one", {"steps": 9}, lambda: True)  # begun, never recorded
    assert walk(tmp_path)[1] == ["one", "two", "three"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"fingerprint": 1}'])
def test_a_damaged_record_is_no_record(tmp_path, damage):
    walk(tmp_path)
    (tmp_path / "stages" / "one.json").write_text(damage, encoding="utf-8")
    assert walk(tmp_path)[1] == ["one", "two", "three"]


def test_other_code_reuses_nothing(tmp_path, monkeypatch):
    walk(tmp_path)
    monkeypatch.setattr(stages, "code_digest", lambda: "another version")
    assert walk(tmp_path)[1] == ["one", "two", "three"]


# -------------------------------------------------------------------------------------------------------------- recipes
def test_the_configurations_are_valid_and_hold_what_the_recipe_says(tmp_path):
    places, recipe = Places(tmp_path / "a demo: #1"), Recipe(steps=12, anchor_ratio=0.5, seed=7)
    sft = load_run(write_sft(places, recipe)).run
    assert sft.upstream["max_steps"] == 3 and sft.upstream["seed"] == 7
    assert sft.upstream["model"] == str(places.model)
    assert sft.custom.train_jsonl == str(places.data / "train.jsonl")
    assert sft.rlhf is None and sft.custom.fusion is None
    anchored = load_run(write_anchored(places, recipe)).run
    assert anchored.upstream["max_steps"] == 12 and anchored.weights_from is None
    assert anchored.rlhf.teacher_model == str(places.model) and anchored.rlhf.llm_kd_weight == 0
    (source,) = anchored.custom.fusion.sources
    assert source.is_anchor and (source.ratio, source.train_jsonl) == (0.5, str(places.anchors))
    assert source.val_jsonl == str(places.probes) and anchored.custom.drift.on_budget == "warn"


def test_steps_on_the_command_line_shorten_both_runs(tmp_path):
    assert DemoOptions(tmp_path, steps=50).recipe().steps == 50
    with pytest.raises(UserError, match="not at least 1"):
        run_demo(DemoOptions(tmp_path / "x", steps=0))
    assert not (tmp_path / "x").exists()


def test_an_output_that_cannot_be_written_is_one_clean_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_demo(DemoOptions(tmp_path / "file" / "demo"))


# -------------------------------------------------------------------------------------------------------------- numbers
def test_training_facts_come_from_the_log(tmp_path):
    rows = [{"train/loss": 9 - step, "global_step/max_steps": f"{step}/3"} for step in (1, 2, 3)]
    rows.append({"eval/loss": 5.5, "global_step/max_steps": "3/3"})
    path = tmp_path / "logging.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    facts = training_facts(read_log(path))
    assert facts == {
        "steps": 3,
        "loss_first": 8.0,
        "loss_last": 6.0,
        "metrics": ["eval/loss", "train/loss"],
        "eval_last": {"eval/loss": 5.5},
    }
    path.write_text("", encoding="utf-8")
    with pytest.raises(StageFailedError, match="no train/loss"):
        training_facts(read_log(path))


def test_only_replies_read_in_full_with_an_object_count_as_parsed(tmp_path):
    box = {"bbox_2d": [0, 0, 5, 5], "desc": "a"}
    rows = [
        {"key": "1", "status": "ok", "objects": [box]},
        {"key": "2", "status": "ok", "objects": []},
        {"key": "3", "status": "invalid", "objects": [box, box]},
        {"key": "4", "status": "error:image", "objects": []},
    ]
    path = tmp_path / "after.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    facts = caption_facts(path, {"ok": 2})
    assert (facts["images"], facts["parse_rate"], facts["objects"]) == (4, 0.25, 3)


# ------------------------------------------------------------------------------------------------------------- commands
def test_a_failed_command_shows_the_end_of_its_output(tmp_path):
    command = [sys.executable, "-c", "print('first'); print('the reason'); raise SystemExit(3)"]
    with pytest.raises(StageFailedError, match=r"exit code 3(.|\n)*the reason"):
        list(_follow(command, tmp_path / "logs" / "x.log", tmp_path / "none"))


def test_a_command_that_is_not_followed_any_more_is_ended(tmp_path):
    metrics, ready = tmp_path / "logging.jsonl", tmp_path / "ready"
    metrics.write_text("", encoding="utf-8")
    code = "\n".join([
        "import pathlib, signal, sys, time",
        f"gone = pathlib.Path({str(tmp_path / 'gone')!r})",
        "signal.signal(signal.SIGTERM, lambda *_: (gone.write_text('yes'), sys.exit(143)))",
        f"pathlib.Path({str(ready)!r}).write_text('')",
        "time.sleep(60)",
    ])  # fmt: skip
    following = _follow([sys.executable, "-c", code], tmp_path / "x.log", metrics)
    while not ready.exists():
        next(following)
    following.close()
    assert (tmp_path / "gone").read_text() == "yes"
