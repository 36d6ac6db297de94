"""Answers as earlier checkpoints were taught them: written on request, read always."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from plumbline.data.answer import encode_answer, parse_answer
from plumbline.data.answer_form import AnswerForm
from plumbline.data.answer_kinds import COORDINATES, byte_kinds
from plumbline.data.answer_schema import dense_schema
from plumbline.data.contract import build_record
from plumbline.data.messages import build_turn
from plumbline.data.prompts import Prompts
from plumbline.errors import DamagedFileError
from plumbline.model.checkpoints import CARD_FILE, Card

RECORD = build_record(
    {
        "images": ["a.png"],
        "width": 100,
        "height": 50,
        "objects": [
            {"bbox_2d": [10, 5, 30, 25], "desc": '一"个'},
            {"poly": [50, 5, 90, 5, 90, 45], "desc": "b"},
            {"line": [0, 0, 10, 10, 20, 0], "desc": "c"},
        ],
    },
    "a.jsonl",
    1,
)
FORMS = [
    AnswerForm(key_order=order, points=points, image_key=image)
    for order, points, image in product(("geometry_first", "desc_first"), ("flat", "pairs"), ("image_N", "图片_N"))
]
PROMPTS = Prompts("s", "d?", "s", "s?")


def text(form: AnswerForm) -> str:
    return encode_answer(RECORD.objects, 100, 50, "none", "top_left", form)


def test_the_spelling_of_each_form() -> None:
    assert text(AnswerForm()) == encode_answer(RECORD.objects, 100, 50, "none")
    assert text(AnswerForm(key_order="desc_first", points="pairs")) == (
        '{"object_1": {"desc": "c", "line_points": 3, "line": [[0, 0], [10, 10], [20, 0]]}, '
        '"object_2": {"desc": "一\\"个", "bbox_2d": [[10, 5], [30, 25]]}, '
        '"object_3": {"desc": "b", "poly": [[50, 5], [90, 5], [90, 45]]}}'
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_and_its_coordinates_are_known(form: AnswerForm) -> None:
    plain, found = parse_answer(text(AnswerForm())), parse_answer(text(form))
    assert found == plain and not found.problems
    told = text(form).encode()
    marked = bytes(byte for byte, kind in zip(told, byte_kinds(told), strict=True) if kind == COORDINATES)
    assert marked == b"00101020010530255059059045"


@pytest.mark.parametrize("form", FORMS)
def test_several_pictures_are_named_as_asked_and_read_alike(form: AnswerForm) -> None:
    chat = build_turn([RECORD, RECORD], "dense", PROMPTS, "none", "top_left", form)
    answer = chat["messages"][-1]["content"]
    assert answer.startswith(f'{{"{form.image_name(1)}": ') and f', "{form.image_name(2)}": ' in answer
    found = parse_answer(answer)
    assert [item.image for item in found.objects] == [1, 1, 1, 2, 2, 2] and not found.problems


@pytest.mark.parametrize("form", FORMS)
def test_the_schema_of_servers_follows_the_form(form: AnswerForm) -> None:
    kinds = dense_schema("none", form)["patternProperties"]["^object_[1-9][0-9]{0,3}$"]["anyOf"]
    for kind, spelled in zip(kinds, ("bbox_2d", "quad", "poly", "line"), strict=True):
        assert (next(iter(kind["properties"])) == "desc") is (form.key_order == "desc_first")
        inner = kind["properties"][spelled]["items"]
        assert (inner["type"] == "array") is (form.points == "pairs")


def test_the_card_keeps_the_form(tmp_path: Path) -> None:
    form = AnswerForm(key_order="desc_first", image_key="图片_N")
    card = Card("none", PROMPTS, "dense", "top_left", "qwen3_vl", None, answer=form)
    card.write(tmp_path)
    assert Card.read(tmp_path) == card
    content = json.loads((tmp_path / CARD_FILE).read_text("utf-8"))
    del content["answer"]  # a card of an earlier version
    (tmp_path / CARD_FILE).write_text(json.dumps(content))
    assert Card.read(tmp_path).answer == AnswerForm()
    for wrong in ({"points": "triples"}, {"colour": 1}, []):
        (tmp_path / CARD_FILE).write_text(json.dumps(content | {"answer": wrong}))
        with pytest.raises(DamagedFileError):
            Card.read(tmp_path)
