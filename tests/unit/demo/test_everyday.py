"""Everyday scenes: the annotation is what is painted, and every answer is true of the plan."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from plumbline.demo.everyday import (
    COLOURS,
    EMPTY_SUMMARY,
    KINDS,
    SIZES,
    everyday_record,
    plan_everyday,
    render_everyday,
)
from plumbline.demo.everyday_talk import GENERAL, describe_en, describe_zh, place_of, random_exchange, text_exchanges
from plumbline.geometry import Box
from plumbline.infer.anchors import question_texts

SCENES = [plan_everyday(3, number) for number in range(200)]


def test_a_number_gives_the_same_scene_and_another_number_another_one() -> None:
    again = plan_everyday(3, 7)
    assert [thing.desc for thing in again.things] == [thing.desc for thing in SCENES[7].things]
    assert np.array_equal(render_everyday(again), render_everyday(SCENES[7]))
    assert len({tuple(thing.desc for thing in scene.things) for scene in SCENES}) > 150
    assert plan_everyday(3, 7, ((128, 96),)).width == 128


def test_things_lie_inside_the_picture_and_hide_nothing() -> None:
    assert {thing.kind for scene in SCENES for thing in scene.things} == set(KINDS)
    assert {(scene.width, scene.height) for scene in SCENES} == set(SIZES)
    for scene in SCENES:
        for thing in scene.things:
            left, top, right, bottom = thing.shape.bounds()
            assert 0 <= left < right <= scene.width and 0 <= top < bottom <= scene.height


def test_what_is_annotated_is_what_is_painted() -> None:
    """A block's pixels are of its colour inside, up to the light, and not of it outside."""
    seen = 0
    for scene in SCENES:
        if len(scene.things) != 1 or scene.things[0].kind != "方块":
            continue
        pixels = render_everyday(scene).astype(float)
        left, top, right, bottom = (round(side) for side in scene.things[0].shape.bounds())
        wanted = np.array(COLOURS[scene.things[0].colour][1], float)
        wide, high = (right - left) // 8, (bottom - top) // 8
        inside = pixels[top + high : bottom - high, left + wide : right - wide]
        assert np.abs(inside - wanted).max() < 0.2 * 255
        if left > 8:
            assert np.abs(pixels[top:bottom, left - 6 : left - 3] - wanted).mean() > 10
        seen += 1
    assert seen >= 2


def test_the_record_sums_up_its_things_and_an_empty_scene_says_so() -> None:
    empty = next(scene for scene in SCENES if not scene.things)
    assert everyday_record(empty, "a.png").is_negative and everyday_record(empty, "a.png").summary == EMPTY_SUMMARY
    assert describe_zh(empty).endswith("没有物体。") and describe_en(empty).endswith("nothing in it.")
    scene = next(scene for scene in SCENES if len(scene.things) == 3)
    summary = str(everyday_record(scene, "a.png").summary)
    assert sum(int(part.rpartition("×")[2]) for part in summary.split("，")) == 3


def test_every_general_question_is_one_that_anchors_ask_and_has_an_answer() -> None:
    about, _ = question_texts(None)
    assert set(GENERAL) <= set(about) and len(GENERAL) >= 45
    assert all(answer(scene).strip() for answer in GENERAL.values() for scene in SCENES[:40])


@pytest.mark.parametrize("english", [False, True])
def test_answers_about_colour_place_and_number_are_true(english: bool) -> None:
    draw = np.random.default_rng(0)
    kinds = Counter[str]()
    for scene in SCENES:
        names = Counter(KINDS[thing.kind] if english else thing.kind for thing in scene.things)
        for exchange in (random_exchange(scene, draw) for _ in range(20)):
            if exchange.question.startswith("What colour is the ") and english:
                name = exchange.question.removeprefix("What colour is the ").rstrip("?")
                (thing,) = [thing for thing in scene.things if KINDS[thing.kind] == name]
                assert exchange.answer.lower() == COLOURS[thing.colour][0] + "."
                kinds["colour"] += 1
            if exchange.question.startswith("图中有几个") and not english:
                name = exchange.question.removeprefix("图中有几个").rstrip("?")
                assert exchange.answer == "零一两三四"[names[name]] + "个。"
                kinds["count"] += 1
            if exchange.question.endswith("在哪里?") and not english:
                (thing,) = [thing for thing in scene.things if thing.kind == exchange.question.removesuffix("在哪里?")]
                assert exchange.answer == f"在{place_of(scene, thing, english=False)}。"
                kinds["place"] += 1
    assert min(kinds.values()) > 50


def test_a_place_is_the_third_of_the_picture_that_holds_the_middle() -> None:
    scene = SCENES[0]
    for box, chinese, english in (
        ((0, 0, 9, 9), "左上方", "upper left"),
        ((scene.width / 2 - 1, scene.height / 2 - 1, scene.width / 2 + 1, scene.height / 2 + 1), "中间", "centre"),
        ((scene.width - 4, scene.height / 2 - 1, scene.width, scene.height / 2 + 1), "右侧", "middle right"),
    ):
        thing = plan_everyday(3, 1).things[0].__class__("方块", "红色", Box(np.array(box, float).reshape(2, 2)))
        assert place_of(scene, thing, english=False) == chinese
        assert place_of(scene, thing, english=True) == english


def test_text_questions_differ_and_have_answers() -> None:
    exchanges = text_exchanges()
    assert len({exchange.question for exchange in exchanges}) == len(exchanges) >= 100
    assert all(exchange.question.strip() and exchange.answer.strip() for exchange in exchanges)
