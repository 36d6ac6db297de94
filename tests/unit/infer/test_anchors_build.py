"""`anchors build`: what is asked, what is kept of the answers, and that training can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plumbline.data.check import Check, CheckOptions
from plumbline.data.images import ImagePolicy
from plumbline.data.read import read_records
from plumbline.errors import ConfigError, UserError
from plumbline.infer import anchors
from plumbline.infer.anchors import AnchorSettings, anchor_questions, build_anchors, plan_anchors
from plumbline.infer.config import InferSettings
from plumbline.infer.engine import Reply, Request


class Scripted:
    """An engine whose answers a test decides. asked: the requests so far."""

    identity = "scripted"

    def __init__(self, answer: Any = lambda request: f"答案 {request.key}"):
        self.answer, self.asked = answer, []

    def stream(self, requests: list[Request]) -> Any:
        for request in requests:
            self.asked.append(request)
            found = self.answer(request)
            yield found if isinstance(found, Reply) else Reply(request.key, found, tokens=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, training records over two pictures, and three photos of another domain."""
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    (tmp_path / "street").mkdir()
    for number in range(3):
        Image.new("RGB", (40 + number, 40)).save(tmp_path / "street" / f"s{number}.jpg")
    box = {"bbox_2d": [1, 1, 20, 20], "desc": "箱子"}
    rows = []
    for number in range(2):
        Image.new("RGB", (50, 50)).save(tmp_path / f"t{number}.png")
        rows.append({"images": [f"t{number}.png"], "width": 50, "height": 50, "objects": [box]})
    rows.append(rows[0])
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def settings_of(folder: Path, **more: Any) -> AnchorSettings:
    run = InferSettings(
        model=folder / "model", input=Path(), output=folder / "anchors.jsonl", limit=more.pop("limit", None)
    )
    sources: dict[str, Any] = {"photos": (folder / "street",), "training": (folder / "train.jsonl",)}
    return AnchorSettings(run, **(sources | more))


def built(settings: AnchorSettings, engine: Scripted) -> anchors.AnchorReport:
    _, made = build_anchors(settings, plan_anchors(settings), lambda: engine)
    assert made is not None
    return made


def test_all_three_kinds_are_asked_and_the_draw_is_the_same_every_time(folder: Path) -> None:
    questions = anchor_questions(settings_of(folder, per_photo=3))
    kinds = [question.key.partition("/")[0] for question in questions]
    assert kinds.count("photos") == 9 and kinds.count("training") == 6 and kinds.count("text") >= 30
    assert len({question.key for question in questions}) == len(questions), "a picture in two records is asked once"
    assert [q.text for q in anchor_questions(settings_of(folder, per_photo=3))] == [q.text for q in questions]
    other = anchor_questions(settings_of(folder, per_photo=3, seed=1))
    assert [q.text for q in other] != [q.text for q in questions]
    by_photo = [{q.text for q in questions if q.images == (f"s{n}.jpg",)} for n in range(3)]
    assert all(len(texts) == 3 for texts in by_photo) and len(set(map(frozenset, by_photo))) > 1


def test_more_questions_keep_the_answers_that_are_there(folder: Path) -> None:
    engine = Scripted()
    built(settings_of(folder, with_text=False), engine)
    first = len(engine.asked)
    built(settings_of(folder, with_text=False), engine)
    assert len(engine.asked) == first == 10
    built(settings_of(folder, with_text=False, per_photo=3), engine)
    assert len(engine.asked) == first + 5


def test_the_anchors_are_records_that_training_reads(folder: Path) -> None:
    made = built(settings_of(folder), Scripted())
    path = folder / "anchors.jsonl"
    records = list(read_records(path))
    assert len(records) == made.kept.total()
    assert all(record.messages is not None and record.messages[-1]["role"] == "assistant" for record in records)
    options = CheckOptions(images=True, policy=ImagePolicy(roots=(str(folder),)))
    assert list(Check([path], options).findings()) == []
    named = [
        part["image"]
        for r in records
        for part in r.messages[0]["content"]
        if isinstance(part, dict) and "image" in part
    ]
    assert {"street/s0.jpg", "t0.png"} <= set(named), "names start where the file lies"


def test_photos_elsewhere_are_named_in_full(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("out")
    settings = settings_of(folder, training=(), with_text=False)
    run = InferSettings(model=folder / "model", input=Path(), output=elsewhere / "anchors.jsonl")
    built(AnchorSettings(run, settings.photos, with_text=False), Scripted())
    text = (elsewhere / "anchors.jsonl").read_text(encoding="utf-8")
    assert str(folder / "street" / "s0.jpg") in text


def test_cut_repeating_empty_and_all_alike_answers_are_left_out_and_counted(folder: Path) -> None:
    def answer(request: Request) -> str | Reply:
        if request.key.startswith("photos/"):
            return Reply(request.key, "啊" * 99, tokens=99, is_finished=False, detail="it repeats itself")
        if request.key.startswith("training/"):
            return Reply(request.key, error="timeout", detail="timeout")
        return "是"

    made = built(settings_of(folder), Scripted(answer))
    assert made.kept == {"text": anchors.MOST_OF_ONE_ANSWER}
    assert made.left_out["the same answer as many others"] > 0
    assert sum(made.left_out.values()) + made.kept.total() == len(anchor_questions(settings_of(folder)))


def test_no_picture_is_on_both_sides(folder: Path) -> None:
    for number in range(3, 40):
        Image.new("RGB", (8, 8)).save(folder / "street" / f"s{number}.jpg")
    settings = settings_of(folder, val=folder / "val.jsonl", val_share=0.3, with_text=False, per_photo=4)
    made = built(settings, Scripted())

    def pictures(path: Path) -> set[str]:
        return {part["image"] for r in read_records(path) for part in r.messages[0]["content"] if "image" in part}

    train, val = pictures(folder / "anchors.jsonl"), pictures(folder / "val.jsonl")
    assert not train & val and 0.15 < len(val) / len(train | val) < 0.45
    assert made.val == len(list(read_records(folder / "val.jsonl")))


def test_own_questions_replace_those_that_ship(folder: Path) -> None:
    own = folder / "own.txt"
    own.write_text("# mine\n几扇门?\n\n", encoding="utf-8")
    asked = anchor_questions(settings_of(folder, questions=own, with_text=False))
    assert {question.text for question in asked} == {"几扇门?"} and len(asked) == 5
    own.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no question"):
        anchor_questions(settings_of(folder, questions=own))


def test_what_cannot_be_asked_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to ask about"):
        settings_of(folder, photos=(), training=(), with_text=False)
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="no picture in it"):
        anchor_questions(settings_of(folder, photos=(folder / "empty",)))


def test_answers_of_another_model_are_not_gone_on_with(folder: Path) -> None:
    built(settings_of(folder, with_text=False), Scripted())
    (folder / "other").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "other" / name).write_text("{}")
    run = InferSettings(model=folder / "other", input=Path(), output=folder / "anchors.jsonl")
    settings = AnchorSettings(run, (folder / "street",), with_text=False)
    with pytest.raises(UserError, match="model"):
        build_anchors(settings, plan_anchors(settings), Scripted)


def test_the_questions_that_ship_are_many_and_in_both_languages() -> None:
    about, plain = anchors.question_texts(None)
    assert len(about) == len(set(about)) >= 60 and len(plain) == len(set(plain)) >= 30
    for texts in (about, plain):
        chinese = sum(not text.isascii() for text in texts)
        assert 0.3 < chinese / len(texts) < 0.7
