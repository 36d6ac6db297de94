"""Questions with known answers: what counts as right, files of one's own, and the statistics of two models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from plumbline.data.prompts import default_prompts
from plumbline.errors import DataError
from plumbline.evaluate.tasks import questions
from plumbline.evaluate.tasks.questions import Task, bundled_tasks, read_tasks
from plumbline.evaluate.tasks.scores import TaskAnswer, score_tasks
from plumbline.infer.config import Sampling


@pytest.mark.parametrize(
    ("answers", "others", "text", "right"),
    [
        (["有"], ["没有"], "没有。", False),
        (["没有"], ["有"], "没有。", True),
        (["no"], ["yes"], "I do not know", False),
        (["no"], ["yes"], "No, there is none.", True),
        (["Paris", "巴黎"], [], "The capital is Paris.", True),
        (["12"], [], "There are 120.", False),
        (["室内"], ["室外"], "室外,不是室内", False),
        (["stone"], ["fabric"], "Stones.", True),
        (["red"], [], "", False),
    ],
)
def test_the_answer_that_is_named_first_counts(answers, others, text, right) -> None:
    (task, *_), _ = bundled_tasks()
    assert Task("g", task.question, tuple(answers), tuple(others)).is_right(text) is right


def test_what_ships_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, notes = bundled_tasks()
    groups = [task.group for task in tasks]
    assert (groups.count("text"), notes) == (100, []) and groups.count("photos") >= 50
    assert all(len(task.question.request(Sampling()).images) == (task.group == "photos") for task in tasks)
    assert not any(set(task.answers) & set(task.others) for task in tasks)
    assert len({(task.question.images, task.question.text) for task in tasks}) == len(tasks)
    monkeypatch.setattr(questions, "package_file", lambda inside: None)
    left, notes = bundled_tasks()
    assert {task.group for task in left} == {"text"} and "is not installed" in notes[0]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("[1]", "is not an object"),
        ('{"question": "", "answers": ["a"]}', "`question`"),
        ('{"question": "q", "answers": []}', "holds no answer"),
        ('{"question": "q", "answers": "a"}', "`answers` must be a list"),
        ('{"question": "q", "answers": ["a"], "answer": "b"}', "unknown key 'answer'"),
        ('{"question": "q", "answers": ["a"], "image": 3}', "`image`"),
        ("{", "Expecting"),
    ],
)
def test_a_line_that_is_no_task_is_named(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "q", "answers": ["a"]}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"own\.jsonl:2") as raised:
        read_tasks(path)
    assert what in str(raised.value)


def test_files_of_ones_own_are_groups(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"question": "q", "answers": ["a"], "others": ["b"]}) + "\n", encoding="utf-8")
    (task,) = read_tasks(path)
    assert (task.group, task.answers, task.others, task.question.key) == ("own", ("a",), ("b",), "own:1")
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError):
        read_tasks(path)


SUMMARY = {"images": ["a.jpg"], "width": 10, "height": 10, "objects": [], "summary": "BBU设备×1，标签×2"}


def test_a_summary_file_is_a_group_whose_items_must_be_right(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps(SUMMARY) + "\n", encoding="utf-8")
    (task,) = read_tasks(path, prompts=replace(default_prompts(), user_summary="概括图片。"))
    assert (task.group, task.question.text, task.question.images) == ("val", "概括图片。", ("a.jpg",))
    assert task.is_right("标签×2,BBU设备×1") and not task.is_right("BBU设备×1，标签×1") and not task.is_right("")
    bare = {name: value for name, value in SUMMARY.items() if name != "summary"}
    path.write_text(json.dumps(SUMMARY) + "\n" + json.dumps(bare) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"val\.jsonl:2: has no summary"):
        read_tasks(path)
    path.write_text(json.dumps(SUMMARY | {"width": -1}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"val\.jsonl:1.*width"):
        read_tasks(path)


def answered(group: str, both: int, lost: int, gained: int, neither: int) -> list[TaskAnswer]:
    kinds = [(True, True)] * both + [(True, False)] * lost + [(False, True)] * gained + [(False, False)] * neither
    return [TaskAnswer(f"{group}:{n}", group, "q", "", "", *pair) for n, pair in enumerate(kinds)]


def test_verdicts_need_evidence_and_are_corrected_for_the_number_of_groups() -> None:
    rows = [
        *answered("same", 40, 0, 0, 10),
        *answered("lost", 60, 30, 0, 10),
        *answered("few", 4, 1, 0, 0),
        *answered("fine", 400, 4, 6, 90),
    ]
    found = {score.group: score for score in score_tasks(rows)}
    assert {name: score.verdict for name, score in found.items()} == {
        "same": "not distinguishable",
        "lost": "drifted",
        "few": "undecided",
        "fine": "within margin",
    }
    assert found["lost"].base == pytest.approx(0.9) and found["lost"].tuned == pytest.approx(0.6)
    assert found["lost"].p == pytest.approx(4 * 2 * 0.5**30), "McNemar's, times the four groups"
    assert found["few"].p == 1.0 and found["lost"].low < -0.3 < found["lost"].high < -0.2
