"""What a run says at its evaluations, and that looking on changes nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.evaluate.in_run import AnswersAtEvaluation
from plumbline.report.run import write_run_report
from plumbline.train.launch import TrainOptions
from plumbline.train.run import run_training

pytestmark = pytest.mark.slow


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    """Three of the base's answers without a picture."""
    path = tmp_path / "anchors.jsonl"
    chats = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": "好。"}] for text in ("一?", "二?", "三?")
    ]
    path.write_text(
        "".join(
            json.dumps({"messages": chat, "metadata": {"anchor": "text"}}, ensure_ascii=False) + "\n" for chat in chats
        ),
        encoding="utf-8",
    )
    return path


def test_each_evaluation_leaves_answers_and_changes_no_number(write_run, anchors, tiny_model) -> None:
    sections = {
        "training": {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2},
        "rlhf": {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "llm_kd_weight": 0.1},
        "custom": {
            "drift": {"budget": 9.0, "probe": str(anchors)},
            "eval_answers": {"pictures": 2, "probes": 2, "max_new_tokens": 6},
        },
    }
    plain = run_training(write_run("plain", **sections), TrainOptions())
    reports: list[str] = []

    def report(at) -> None:
        reports.append(write_run_report(at.folder).read_text(encoding="utf-8"))

    watched = run_training(write_run("watched", **sections), TrainOptions(), (AnswersAtEvaluation(), report))
    logs = [
        [json.loads(line) for line in (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()]
        for folder in (plain.folder, watched.folder)
    ]
    figures = [[{k: v for k, v in line.items() if "loss" in k or "drift" in k} for line in log] for log in logs]
    assert figures[0] == figures[1] and any("eval/drift" in line for line in figures[0])
    assert not (plain.folder / "answers.jsonl").exists()
    rows = [json.loads(line) for line in (watched.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["step"], row["kind"]) for row in rows] == [
        (step, kind) for step in (2, 4) for kind in ("picture", "picture", "probe", "probe")
    ]
    assert [row["key"] for row in rows[:4]] == [row["key"] for row in rows[4:]], "the same questions each time"
    assert len(reports) == 2 and "step 2" in reports[0] and "step 4" not in reports[0], "written while the run lives"
    assert (
        "step 4" in reports[1]
        and "leaks: share" in reports[1]
        and "Best checkpoint" in write_run_report(watched.folder).read_text(encoding="utf-8")
    )


def test_an_observer_that_fails_is_named_and_the_run_goes_on(write_run, caplog) -> None:
    def broken(at) -> None:
        raise RuntimeError("nothing to see here")

    training = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    outcome = run_training(write_run(training=training), TrainOptions(), (broken,))
    assert outcome.exit_code == 0
    assert "nothing to see here" in caplog.text and "step 2" in caplog.text
