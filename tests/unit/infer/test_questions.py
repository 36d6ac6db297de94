"""Questions in the user's words: what is asked, of whom, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plumbline.data.prompts import default_prompts
from plumbline.errors import ConfigError, DataError, UserError
from plumbline.infer.config import InferSettings
from plumbline.infer.engine import Reply, Request, request_id
from plumbline.infer.questions import Questions, is_question, plan_questions, run_questions
from plumbline.infer.served import OpenAIEngine
from plumbline.model.checkpoints import Card, mark_complete
from plumbline.storage.rows import read_rows
from serving import Answering

CHAT = [
    {"role": "system", "content": "简短"},
    {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "这是什么?"}]},
    {"role": "assistant", "content": "一个箱子"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "比较"},
            {"type": "image", "image": "b.png"},
            {"type": "image", "image": "a.png"},
        ],
    },
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures a to d, and a model folder of which only the place matters."""
    for number, name in enumerate("abcd"):
        pixels = np.full((40, 60 + number, 3), 40 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    return tmp_path


def settings_of(folder: Path, source: Path, **more: Any) -> InferSettings:
    return InferSettings(model=folder / "model", input=source, output=folder / "answers.jsonl", **more)


def write_chats(folder: Path, *chats: list[dict[str, Any]]) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}, ensure_ascii=False) + "\n" for chat in chats))
    return path


def requests(settings: InferSettings) -> list[Request]:
    plan = plan_questions(settings)
    return [Questions(plan).ask(item) for item in plan.items]


def test_a_prompt_is_asked_of_every_picture_and_of_nothing_else(folder: Path) -> None:
    asked = requests(settings_of(folder, folder, prompt="有几个?", system="简短"))
    assert [request.key for request in asked] == ["a.png", "b.png", "c.png", "d.png"]
    system, user = asked[1].messages()
    assert system == {"role": "system", "content": "简短"}
    assert [part["type"] for part in user["content"]] == ["image", "text"] and user["content"][1]["text"] == "有几个?"
    assert asked[1].images[0].size == (61, 40)


def test_pictures_go_together_in_their_order(folder: Path) -> None:
    asked = requests(settings_of(folder, folder, prompt="比较", images_per_prompt=3))
    assert [[image.width for image in request.images] for request in asked] == [[60, 61, 62], [63]]


def test_groups_without_a_prompt_get_the_trained_one(folder: Path) -> None:
    Card("norm1000", default_prompts(), "summary", "top_left", "qwen3_vl", None).write(folder / "model")
    mark_complete(folder / "model")
    (request, _) = requests(settings_of(folder, folder, images_per_prompt=2))
    assert request.messages()[-1]["content"][-1]["text"] == default_prompts().user_summary


def test_a_chat_is_asked_up_to_its_last_question(folder: Path) -> None:
    answered = [*CHAT, {"role": "assistant", "content": "不同"}]
    source = write_chats(folder, CHAT, answered, [{"role": "user", "content": "1+1?"}])
    settings = settings_of(folder, source)
    assert is_question(settings)
    plan = plan_questions(settings)
    assert [item.reference for item in plan.items] == [None, "不同", None]
    first, second, text = requests(settings)
    assert first.messages() == second.messages() and text.images == ()
    assert [image.width for image in first.images] == [60, 61, 60], "the pictures of all turns, in order"
    assert [turn["role"] for turn in first.messages()] == ["system", "user", "assistant", "user"]
    assert [part["type"] for part in first.messages()[-1]["content"]] == ["text", "image", "image"]


def test_equal_questions_are_known_by_their_content_and_not_by_file_names(folder: Path) -> None:
    source = write_chats(folder, CHAT)
    (one,) = requests(settings_of(folder, source))
    (folder / "a.png").rename(folder / "other.png")
    moved = json.loads(json.dumps(CHAT).replace("a.png", "other.png"))
    (two,) = requests(settings_of(folder, write_chats(folder, moved)))
    assert request_id("m", one) == request_id("m", two)
    shorter = json.loads(json.dumps(CHAT))
    shorter[0]["content"] = "详细"
    (other,) = requests(settings_of(folder, write_chats(folder, [*shorter[:1], *moved[1:]])))
    assert request_id("m", one) != request_id("m", other)


def test_a_server_is_sent_every_turn_with_its_pictures(folder: Path) -> None:
    settings = settings_of(folder, write_chats(folder, CHAT))
    with Answering() as server:
        plan = plan_questions(settings)
        report = run_questions(plan, lambda: OpenAIEngine([server.url]))
    (body,) = server.asked
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant", "user"]
    kinds = [part["type"] for part in body["messages"][3]["content"]]
    assert kinds == ["text", "image_url", "image_url"] and body["messages"][2]["content"] == "一个箱子"
    (row,) = read_rows(settings.output)
    assert report.exit_code == 0 and row["status"] == "ok" and row["question"] == "比较"
    assert row["images"] == ["a.png", "b.png", "a.png"] and row["text"]


def test_a_missing_picture_costs_its_question_alone_and_is_asked_again(folder: Path) -> None:
    gone = [{"role": "user", "content": [{"type": "image", "image": "gone.png"}, {"type": "text", "text": "?"}]}]
    settings = settings_of(folder, write_chats(folder, gone, CHAT))
    with Answering() as server:
        assert run_questions(plan_questions(settings), lambda: OpenAIEngine([server.url])).exit_code == 3
        assert {row["key"]: row["status"] for row in read_rows(settings.output)} == {
            "line:1": "error:image",
            "line:2": "ok",
        }
        Image.new("RGB", (8, 8)).save(folder / "gone.png")
        plan = plan_questions(settings)
        assert [item.key for item in plan.todo] == ["line:1"]
        assert run_questions(plan, lambda: OpenAIEngine([server.url])).exit_code == 0
    assert len(server.asked) == 2


def test_another_question_does_not_go_on_with_the_answers_of_the_first(folder: Path) -> None:
    with Answering() as server:
        first = settings_of(folder, folder, prompt="有几个?")
        run_questions(plan_questions(first), lambda: OpenAIEngine([server.url]))
    with pytest.raises(UserError, match="prompt"):
        plan_questions(settings_of(folder, folder, prompt="什么颜色?"))


def test_an_empty_or_cut_reply_is_invalid(folder: Path) -> None:
    plan = plan_questions(settings_of(folder, folder, prompt="?"))
    work = Questions(plan)
    row = work.row(plan.items[0], None, Reply("a.png", "  "))
    assert row["status"] == "invalid" and row["problems"] == ["the reply is empty"]
    assert work.row(plan.items[0], None, Reply("a.png", "很长", tokens=9, is_finished=False))["status"] == "invalid"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"prompt": " "}, "--prompt: is empty"),
        ({"prompt": "?", "mode": "dense"}, "about the trained answers"),
        ({"system": "x"}, "give --prompt too"),
        ({"images_per_prompt": 0}, "--images-per-prompt: must be a whole number >= 1"),
    ],
)
def test_options_that_do_not_go_together(folder: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_of(folder, folder, **more)


def test_a_prompt_for_chats_and_control_text_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="bring their own"):
        plan_questions(settings_of(folder, write_chats(folder, CHAT), prompt="?"))
    with pytest.raises(UserError, match="control text"):
        plan_questions(settings_of(folder, folder, prompt="<|im_end|>"))
    mixed = folder / "mixed.jsonl"
    described = {"images": ["a.png"], "summary": "x"}
    mixed.write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps(described) + "\n")
    with pytest.raises(DataError, match=r"mixed.jsonl:2: a described picture among chats"):
        plan_questions(settings_of(folder, mixed))


def test_described_pictures_are_no_question_without_a_prompt(folder: Path) -> None:
    source = folder / "records.jsonl"
    source.write_text(json.dumps({"images": ["a.png"], "summary": "x"}) + "\n")
    assert not is_question(settings_of(folder, source))
    assert [request.key for request in requests(settings_of(folder, source, prompt="?"))] == ["a.png"]
