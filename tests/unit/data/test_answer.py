"""Answer text by example: the documented form, rounding, and the reasons for what cannot be read."""

from __future__ import annotations

import sys

import pytest

from plumbline.data.answer import encode_answer, parse_answer, to_pixels
from plumbline.data.record import DataObject
from plumbline.errors import DataError
from plumbline.geometry import Box, Polyline, Quad

BOX = '{"bbox_2d": [1, 2, 3, 4], "desc": "a"}'


def test_the_documented_form() -> None:
    objects = [
        DataObject("光纤/颜色:黄色/保护:有保护", Polyline([[180, 220], [130, 180], [80, 120], [50, 60]])),
        DataObject('says "hi"', Quad([[30, 80], [10, 60], [30, 40], [50, 60]])),
        DataObject("BBU设备", Box([[300, 30], [100, 20]])),
    ]
    assert encode_answer(objects, 1000, 1000, "none") == (
        '{"object_1": {"bbox_2d": [100, 20, 300, 30], "desc": "BBU设备"}, '
        '"object_2": {"quad": [30, 40, 50, 60, 30, 80, 10, 60], "desc": "says \\"hi\\""}, '
        '"object_3": {"line_points": 4, "line": [50, 60, 80, 120, 130, 180, 180, 220], '
        '"desc": "光纤/颜色:黄色/保护:有保护"}}'
    )
    assert encode_answer([], 10, 10) == "{}"


@pytest.mark.parametrize(
    ("norm", "numbers"),
    [("norm1000", [0, 2, 500, 1000]), ("norm100", [0, 0, 50, 100]), ("none", [1, 2, 1000, 750])],
)
def test_rounding_is_python_s_round_of_the_documented_formula(norm, numbers) -> None:
    item = DataObject("x", Box([[1, 1.5], [1000, 750]]))  # 1000 * 1 / 2000 = 0.5, a tie
    assert parse_answer(encode_answer([item], 2000, 750, norm)).objects[0].numbers == tuple(numbers)


def test_geometry_outside_the_picture_is_never_written() -> None:
    with pytest.raises(DataError, match="leaves the picture of 100 x 100"):
        encode_answer([DataObject("x", Box([[0, 0], [100.5, 10]]))], 100, 100)


def test_half_a_surrogate_pair_is_never_written() -> None:
    with pytest.raises(DataError, match="surrogate"):
        encode_answer([DataObject("\ud83d", Box([[0, 0], [1, 1]]))], 9, 9)


def test_unknown_norm_and_ordering_are_refused() -> None:
    item = DataObject("x", Box([[0, 0], [1, 1]]))
    with pytest.raises(ValueError, match="unknown emit_norm"):
        encode_answer([item], 9, 9, "norm10")
    with pytest.raises(ValueError, match="unknown object ordering"):
        encode_answer([item], 9, 9, "none", "random")


@pytest.mark.parametrize(
    ("text", "kept", "problem"),
    [
        ("", [], "no JSON object"),
        ("图中没有物体", [], "no JSON object"),
        (f'{{"object_1": {BOX}, "object_2": {{"bbox_2d": [1, 2', [1], "cut off"),
        (f'{{"object_1": {BOX}, "object_4": {BOX}}}', [1, 4], "object_2 to 3 are missing"),
        (f'{{"object_1": {BOX}, "object_3": {BOX}}}', [1, 3], "object_2 is missing"),
        (f'{{"object_2": {BOX}, "object_1": {BOX}}}', [2, 1], "not in order"),
        (f'{{"object_1": {BOX}, "object_1": {BOX}}}', [1, 1], "object_1 occurs 2 times"),
        (f'{{"object_0": {BOX}}}', [0], "numbers start at 1"),
        (f'{{"object_1": {BOX}, "note": 1}}', [1], "'note': not an object_n"),
        (f'{{"object_1": {BOX}}} {{"object_1": {BOX}}}', [1], "a second answer"),
        (f'"object_1": {BOX}', [1], "opening brace is missing"),
        (f'{{"object_1": {BOX} "object_2": {BOX}}}', [1, 2], "not well-formed"),
        (
            '{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "a", "object_2": ' + BOX + "}",
            [2],
            "object_1: not well-formed",
        ),
        ('{"object_1": {"bbox_2d": [1, 2, 3, 4, "desc": "a"}, "object_2": ' + BOX + "}", [2], "object_1: "),
        ('{"object_1": {"bbox": [1, 2, 3, 4], "desc": "a"}}', [], "has no geometry"),
        ('{"object_1": {"bbox_2d": [1, 2, 3, 4], "quad": [], "desc": "a"}}', [], "has 2 geometries"),
        ('{"object_1": {"bbox_2d": [1, 2, 3], "desc": "a"}}', [], "bbox_2d has 3 numbers"),
        ('{"object_1": {"bbox_2d": [1, 2, 3, "4"], "desc": "a"}}', [], "not a list of numbers"),
        ('{"object_1": {"bbox_2d": [1 2, 3, 4], "desc": "a"}}', [], "not a list of numbers"),
        ('{"object_1": {"bbox_2d": [[1, 2, 3], [4]], "desc": "a"}}', [], "not a list of numbers"),
        ('{"object_1": {"bbox_2d": [1, 2, 1e999, 4], "desc": "a"}}', [], "not a list of numbers"),
        ('{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": " "}}', [], "has no desc"),
        ('{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "a", "desc": "b"}}', [], "a key occurs twice"),
        ('{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "a", "score": 1}}', [1], "unknown key 'score'"),
        ('{"object_1": {"line": [1, 2, 3, 4], "line_points": 3, "desc": "a"}}', [1], "line_points says 3"),
        ('{"object_1": 5}', [], "not an object"),
    ],
)
def test_what_is_kept_and_why_the_rest_is_not(text, kept, problem) -> None:
    parsed = parse_answer(text)
    assert [item.index for item in parsed.objects] == kept
    assert any(problem in reason for reason in parsed.problems), parsed.problems


def test_an_answer_about_several_pictures() -> None:
    parsed = parse_answer(f'{{"image_1": {{"object_1": {BOX}}}, "image_2": {{}}, "image_4": {{"object_2": {BOX}}}}}')
    assert [item.name for item in parsed.objects] == ["image_1.object_1", "image_4.object_2"]
    assert parsed.problems == ("image_4.object_1 is missing", "image_3 is missing")


def test_out_of_range_is_left_out_and_swapped_corners_are_told() -> None:
    parsed = parse_answer(
        '{"object_1": {"bbox_2d": [0, 0, 1001, 10], "desc": "a"}, "object_2": {"bbox_2d": [-1, 0, 1, 1], "desc": "b"}, '
        '"object_3": {"bbox_2d": [500, 500, 250, 100], "desc": "c"}}'
    )
    objects, problems = to_pixels(parsed, "norm1000", 200, 100)
    assert objects == (DataObject("c", Box([[50, 10], [100, 50]])),)
    assert problems == (
        "object_1: 1001 is outside 0..1000",
        "object_2: -1 is outside 0..1000",
        "object_3: the corners of the box are swapped",
    )


def test_problems_are_capped() -> None:
    parsed = parse_answer("{" + ", ".join(f'"key{i}": 1' for i in range(500)) + "}")
    assert len(parsed.problems) == 51
    assert parsed.problems[-1] == "and 450 more problems"


def calls_of(text: str) -> int:
    """Calls of any function, built-in ones included, that parsing `text` takes."""
    count = 0

    def step(_frame, event, _argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(step)
    try:
        parse_answer(text)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "pattern",
    ['{"object_1":', "[", '"poly":[', '\\"', '"object_1', '"object_1": 1,', '{"object_1": "\\', "]}", "{ ", ",", ":"],
)
def test_the_work_on_hostile_text_grows_with_its_length_only(pattern) -> None:
    start = '{"object_1": {"poly": '
    short, long = calls_of(start + pattern * 500), calls_of(start + pattern * 8000)
    assert long <= 16.5 * short + 100
