"""The answer codec: encoding and parsing are inverse up to rounding, and parsing survives anything."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plumbline.data.answer import EMIT_NORMS, encode_answer, parse_answer, round_shape, to_pixels
from plumbline.data.contract import is_right_count
from plumbline.data.record import DataObject
from plumbline.geometry import order_objects, shape_from_flat

WIDTH, HEIGHT = 1333, 750
SCALES = {"none": None, "norm100": 100, "norm1000": 1000}
descs = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@st.composite
def objects(draw: st.DrawFn) -> DataObject:
    kind, count = draw(
        st.sampled_from([("bbox_2d", 2), ("quad", 4), ("poly", 3), ("poly", 7), ("line", 2), ("line", 6)])
    )
    point = st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT))
    numbers = [value for _ in range(count) for value in draw(point)]
    return DataObject(draw(descs), shape_from_flat(kind, numbers))


@given(st.lists(objects(), max_size=6), st.sampled_from(EMIT_NORMS), st.sampled_from(["top_left", "center"]))
def test_parsing_an_answer_gives_its_rounded_objects(items, norm, ordering) -> None:
    text = encode_answer(items, WIDTH, HEIGHT, norm, ordering)
    assert len(text.splitlines()) == 1
    parsed = parse_answer(text)
    assert parsed.problems == ()
    shapes = [item.shape.canonical() for item in items]
    order = order_objects(shapes, ordering)
    assert [(o.kind, list(o.numbers), o.desc, o.index) for o in parsed.objects] == [
        (shapes[i].kind, round_shape(shapes[i], WIDTH, HEIGHT, norm), items[i].desc, n)
        for n, i in enumerate(order, start=1)
    ]


@given(st.lists(objects(), max_size=4), st.sampled_from(EMIT_NORMS))
def test_coming_back_to_pixels_costs_half_a_step_at_most(items, norm) -> None:
    back, problems = to_pixels(parse_answer(encode_answer(items, WIDTH, HEIGHT, norm)), norm, WIDTH, HEIGHT)
    assert problems == ()
    shapes = [item.shape.canonical() for item in items]
    scale = SCALES[norm]
    step = (1.0, 1.0) if scale is None else (WIDTH / scale, HEIGHT / scale)
    for item, index in zip(back, order_objects(shapes), strict=True):
        given_bounds, bounds = shapes[index].bounds(), item.shape.bounds()
        for axis in range(4):
            assert abs(given_bounds[axis] - bounds[axis]) <= step[axis % 2] / 2 + 1e-6


@given(st.lists(objects(), min_size=1, max_size=4), st.data())
def test_a_cut_answer_keeps_its_complete_objects(items, data) -> None:
    text = encode_answer(items, WIDTH, HEIGHT)
    whole = parse_answer(text).objects
    end = data.draw(st.integers(0, len(text) - 1))
    parsed = parse_answer(text[:end])
    assert parsed.objects == whole[: len(parsed.objects)]
    assert parsed.problems
    ends = [text.index(f', "object_{n}"') for n in range(2, len(items) + 1)] + [len(text) - 1]
    if all("object_" not in item.desc for item in items):
        assert len(parsed.objects) == sum(stop <= end for stop in ends)


fragments = st.sampled_from(
    ['{"object_1": ', '"object_2": {', '"image_1": {', '"bbox_2d": [1, 2, 3, 4]', '"line": [[1, 2], [3, 4]]',
     '"desc": "x"',
     '"line_points": 2', ", ", "}", "]", "[", "{", '"', "\\", "```json\n", "NaN", "1e999", "9" * 30, "\x00", "ok"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(fragments, max_size=40).map("".join)), st.sampled_from(EMIT_NORMS))
@example("{", "none")
@example('{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "\\ud800"}}', "norm1000")
@example('{"object_99999999999999999999": {}}', "norm1000")
def test_any_text_is_parsed_without_an_error_and_never_out_of_range(text, norm) -> None:
    parsed = parse_answer(text)
    for item in parsed.objects:
        assert is_right_count(item.kind, len(item.numbers))
        assert item.desc.strip()
        item.desc.encode()
    kept, _ = to_pixels(parsed, norm, WIDTH, HEIGHT)
    for kept_object in kept:
        x1, y1, x2, y2 = kept_object.shape.bounds()
        assert 0 <= x1 <= x2 <= WIDTH
        assert 0 <= y1 <= y2 <= HEIGHT


@given(
    st.lists(objects(), max_size=4), st.sampled_from([(",", ":"), (" , ", " : ")]), st.booleans(), st.text(max_size=9)
)
def test_spacing_nesting_fences_and_prose_change_nothing(items, separators, nested, prose) -> None:
    rows = json.loads(encode_answer(items, WIDTH, HEIGHT))
    expected = parse_answer(json.dumps(rows)).objects
    for row in rows.values():
        kind = next(key for key in row if key not in ("desc", "line_points"))
        if nested:
            row[kind] = [row[kind][i : i + 2] for i in range(0, len(row[kind]), 2)]
    body = json.dumps(rows, ensure_ascii=nested, separators=separators)
    parsed = parse_answer(f"{prose.replace('{', '')}\n```json\n{body}\n```\n{prose}")
    assert parsed.objects == expected
    assert parsed.problems == ()


@pytest.mark.parametrize("norm", EMIT_NORMS)
def test_both_edges_are_reachable(norm) -> None:
    box = DataObject("all", shape_from_flat("bbox_2d", [0, 0, WIDTH, HEIGHT]))
    scale = SCALES[norm]
    limits = (WIDTH, HEIGHT) if scale is None else (scale, scale)
    assert parse_answer(encode_answer([box], WIDTH, HEIGHT, norm)).objects[0].numbers == (0, 0, *limits)
