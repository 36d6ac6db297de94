"""Film strips, leaks, the best checkpoint and the next commands of a run's report, from what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from plumbline.model.checkpoints import mark_complete
from plumbline.report.film import FRAMES, film_strips, last_probes, leak_line, read_answers
from plumbline.report.run import best_of, next_commands, write_run_report

BOX = '{"object_1": {"bbox_2d": [100, 100, 900, 900], "desc": "<script>猫</script>"}}'


def row(step: int, kind: str = "picture", key: str = "domain:1", text: str = BOX, **more) -> dict:
    base = {"step": step, "kind": kind, "key": key, "text": text, "expected": BOX, "images": [], "emit_norm": ""}
    return base | more


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "logging.jsonl").write_text('{"loss": 1.0, "global_step/max_steps": "8/8"}\n', encoding="utf-8")
    Image.new("RGB", (80, 60), "white").save(tmp_path / "a.png")
    return folder


def write(folder: Path, *rows: dict, end: str = "\n") -> None:
    text = "\n".join(json.dumps(each, ensure_ascii=False) for each in rows) + end
    (folder / "answers.jsonl").write_text(text, encoding="utf-8")


def test_a_strip_has_the_annotation_and_some_evaluations(run: Path) -> None:
    picture = {"images": [str(run.parent / "a.png")], "emit_norm": "norm1000"}
    write(run, *(row(step, **picture) for step in range(10, 210, 10)), row(10, text="no answer", **picture))
    (strip,) = film_strips(read_answers(run))
    titles = [frame["title"] for frame in strip["frames"]]
    assert len(titles) == FRAMES + 1 and titles[:2] == ["annotated", "step 10"] and titles[-1] == "step 200"
    captions = [frame["caption"] for frame in strip["frames"]]
    assert captions[0] == "1 objects" and captions[1] == "0 objects, 1 not read", "the later row of a step counts"
    html = write_run_report(run).read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == FRAMES + 1 and "<script" not in html


def test_rows_that_cannot_be_read_are_counted_and_a_lost_picture_costs_its_strip(run: Path) -> None:
    (run / "answers.jsonl").write_text(
        "\n".join(["[1]", "{", '{"step": "3"}', json.dumps(row(2, images=["gone.png"]))]) + '\n{"torn', encoding="utf-8"
    )
    answers = read_answers(run)
    assert (len(answers.rows), answers.unreadable) == (1, 3)
    assert list(film_strips(answers)) == [] and leak_line(answers) is None
    assert "rows of answers.jsonl could not be read" in write_run_report(run).read_text(encoding="utf-8")


def test_leaks_are_a_share_by_step_and_answers_stand_beside_the_base(run: Path) -> None:
    probes = [
        row(step, "probe", key, leak="猫" if (step, key) == (4, "b") else "", question="<b>?", expected="!")
        for step in (2, 4)
        for key in ("a", "b")
    ]
    write(run, *probes)
    answers = read_answers(run)
    line = leak_line(answers)
    assert line is not None and (line.curve.steps, line.curve.values) == ((2, 4), (0.0, 0.5))
    assert [each["leak"] for each in last_probes(answers)] == ["", "猫"]
    html = write_run_report(run).read_text(encoding="utf-8")
    assert "&lt;b&gt;?" in html and "leaks: share" in html


def test_the_best_checkpoint_is_named_with_its_metric(run: Path) -> None:
    folders = [run / "checkpoint-2", run / "checkpoint-4"]
    history = [{"step": 2, "eval_loss": 0.25, "eval/loss": 0.25}, {"step": 4, "eval_loss": 0.5}]
    for folder in folders:
        folder.mkdir()
        state = {"best_model_checkpoint": "/elsewhere/checkpoint-2", "best_metric": 0.25, "log_history": history}
        (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
        mark_complete(folder)
    best = best_of(folders)
    assert best is not None and (best.name, best.metric, best.value, best.step) == (
        "checkpoint-2",
        "eval/loss",
        0.25,
        2,
    )
    assert best_of(folders[1:]) is None, "it is gone"
    html = write_run_report(run).read_text(encoding="utf-8")
    assert "Best checkpoint" in html and "eval/loss 0.25 at step 2" in html
    commands = dict(next_commands(run, best, has_drift=False))
    assert f"--model '{run}/checkpoint-2'" in commands["describe the validation pictures"], "the folder has a space"
    assert "let the base answer other questions" not in dict(next_commands(run, best, has_drift=True))
    (folders[1] / "trainer_state.json").write_text("{}", encoding="utf-8")
    mark_complete(folders[1])
    assert best_of(folders) is None
