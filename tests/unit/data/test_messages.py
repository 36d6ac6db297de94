"""Records to chats: the one spelling of images, control text refused, images and places in step."""

from __future__ import annotations

import pytest

from plumbline.data.answer import parse_answer
from plumbline.data.messages import ask_messages, build_messages, check_image_places, own_images, with_images
from plumbline.data.prompts import MODES, Prompts, default_prompts
from plumbline.data.record import DataObject, Record
from plumbline.errors import DataError
from plumbline.geometry import Box

PROMPTS = Prompts("sys dense", "describe", "sys summary", "sum up")
BOX = DataObject("BBU设备", Box([[10, 10], [50, 40]]))
RECORD = Record(("a.jpg",), 100, 80, (BOX,), "BBU设备×1", file="d.jsonl", line=7)


def chat(*turns: tuple[str, object]) -> Record:
    return Record(messages=tuple({"role": role, "content": content} for role, content in turns), file="d.jsonl", line=7)


def test_a_dense_sample() -> None:
    assert build_messages(RECORD, "dense", PROMPTS, "norm1000") == {
        "messages": [
            {"role": "system", "content": "sys dense"},
            {"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "describe"}]},
            {"role": "assistant", "content": '{"object_1": {"bbox_2d": [100, 125, 500, 500], "desc": "BBU设备"}}'},
        ],
        "images": ["a.jpg"],
    }


def test_a_summary_over_several_pictures() -> None:
    record = Record(("a.jpg", "b.jpg"), summary="无关图片")
    built = build_messages(record, "summary", PROMPTS)
    assert [turn["role"] for turn in built["messages"]] == ["system", "user", "assistant"]
    assert built["messages"][0]["content"] == "sys summary"
    assert [item["type"] for item in built["messages"][1]["content"]] == ["image", "image", "text"]
    assert built["messages"][2]["content"] == "无关图片"
    assert built["images"] == ["a.jpg", "b.jpg"]


def test_without_a_system_prompt_there_is_no_system_turn() -> None:
    assert [turn["role"] for turn in ask_messages(["a"], "", "q")["messages"]] == ["user"]


def test_a_chat_keeps_its_turns_and_gets_one_spelling_of_images() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "a.jpg"}},
        {"type": "image_url", "image_url": "b.jpg"},
        {"type": "image", "image": "c.jpg"},
        {"type": "text", "text": "which?"},
    ]
    record = chat(("user", parts), ("assistant", [{"type": "text", "text": "the "}, {"type": "text", "text": "third"}]))
    built = build_messages(record, "dense", PROMPTS)
    assert built["images"] == own_images(record) == ["a.jpg", "b.jpg", "c.jpg"]
    assert [item.get("image") for item in built["messages"][0]["content"]] == ["a.jpg", "b.jpg", "c.jpg", None]
    assert built["messages"][1]["content"] == "the third"


@pytest.mark.parametrize("token", ["<image>", "<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<bbox>", "<video>"])
@pytest.mark.parametrize("where", ["desc", "summary", "chat", "prompt"])
def test_control_text_is_refused_wherever_it_stands(token, where) -> None:
    text = f"see {token} here"
    desc = Record(("a.jpg",), 100, 80, (DataObject(text, BOX.shape),), text, file="d.jsonl", line=7)
    prompts = Prompts("s", text, "s", text) if where == "prompt" else PROMPTS
    record = {"chat": chat(("user", "hi"), ("assistant", text)), "prompt": RECORD}.get(where, desc)
    with pytest.raises(DataError, match=r"d\.jsonl:7: control text"):
        build_messages(record, "summary" if where == "summary" else "dense", prompts)


@pytest.mark.parametrize(
    ("record", "mode", "message"),
    [
        (Record(("a.jpg",), 9, 9, summary="x", file="d", line=3), "dense", "d:3: no `objects`"),
        (Record(("a.jpg",), 9, 9, (BOX,), file="d", line=3), "summary", "d:3: no `summary`"),
        (Record(("a.jpg",), 9, 9, (BOX,), file="d", line=3), "chat", "d:3: no `messages`"),
        (Record(("a.jpg",), 40, 40, (BOX,), file="d", line=3), "dense", "d:3: objects: .*leaves the picture"),
    ],
)
def test_a_record_must_hold_what_the_mode_needs(record, mode, message) -> None:
    with pytest.raises(DataError, match=message):
        build_messages(record, mode, PROMPTS)


def test_images_and_places_must_agree() -> None:
    built = build_messages(RECORD, "dense", PROMPTS)
    for images in ([], ["a.jpg", "b.jpg"], ["b.jpg"]):
        with pytest.raises(DataError, match="image places"):
            check_image_places(built | {"images": images}, "d:1")


def test_other_references_are_put_in_place_without_touching_the_first_chat() -> None:
    built = build_messages(RECORD, "dense", PROMPTS)
    moved = with_images(built, ["/data/a.jpg"])
    assert moved["messages"][1]["content"][0] == {"type": "image", "image": "/data/a.jpg"}
    assert moved["images"] == ["/data/a.jpg"]
    assert built["messages"][1]["content"][0]["image"] == "a.jpg"


def test_the_shipped_prompts_name_the_scale_and_the_format() -> None:
    for norm, word in (("norm1000", "1000"), ("norm100", "100"), ("none", "像素")):
        prompts = default_prompts(norm)
        assert word in prompts.system_dense
        assert "{coordinates}" not in prompts.system_dense
        for mode in MODES:
            assert all(prompts.of_mode(mode))
    assert all(kind in prompts.system_dense for kind in ("bbox_2d", "quad", "poly", "line_points", "desc"))
    with pytest.raises(ValueError, match="unknown mode"):
        prompts.of_mode("both")


def test_the_shipped_prompts_show_no_readable_example_answer() -> None:
    assert parse_answer(default_prompts().system_dense).objects == ()
