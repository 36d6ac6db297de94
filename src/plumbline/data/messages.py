"""A record to the chat that the model is trained on, and to the chat that it answers.

The only spelling that leaves this module is `{"type": "image", "image": <text>}`: the template takes the value from
the key that equals the type, and a wrong key would lose the picture without an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plumbline.data.answer import encode_answer
from plumbline.data.answer_form import PLAIN_FORM, AnswerForm
from plumbline.data.contract import image_of
from plumbline.data.prompts import Prompts, irrelevant_answer
from plumbline.data.record import Record
from plumbline.errors import DataError, Problem
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown

Chat = JsonObject

NOTHING = "{}"
"""The answer of dense mode for a picture without objects."""
CONTROL_TEXT = re.compile(r"<\|[A-Za-z_0-9]{1,40}\|>|<(?:image|video|audio|bbox|ref-object|cot-process|start-image)>")
"""Text that a tokenizer or a template reads as a command: role marks, vision marks, media placeholders."""


def build_messages(
    record: Record,
    mode: str,
    prompts: Prompts,
    emit_norm: str = "norm1000",
    ordering: str = "top_left",
    form: AnswerForm = PLAIN_FORM,
) -> Chat:
    """{"messages": [...], "images": [str, ...]} of one training sample.

    mode: "dense" answers with the objects, "summary" with the summary; a record that is a chat keeps its own turns, in
    any mode, and is the only kind that "chat" accepts.
    Raises DataError, naming the record's file and line, when it lacks what the mode needs, when its text holds control
    text such as `<|im_end|>` or `<image>`, and when images and image places disagree.
    """
    if record.messages is not None:
        chat = _own_chat(record.messages)
    else:
        answer = _answer(record, mode, emit_norm, ordering, prompts.negative_summary, form)
        system, user = prompts.of_mode(mode)
        chat = ask_messages(record.images, system, user)
        chat["messages"].append({"role": "assistant", "content": answer})
    _refuse_control_text(record, chat)
    check_image_places(chat, record.place)
    return chat


def build_turn(
    records: Sequence[Record],
    mode: str,
    prompts: Prompts,
    emit_norm: str = "norm1000",
    ordering: str = "top_left",
    form: AnswerForm = PLAIN_FORM,
) -> Chat:
    """The chat of one record, or of several whose pictures are in one turn.

    The answer to several is `{"image_1": <answer>, "image_2": <answer>}` with the pictures in the turn's order, named
    as `form` says. mode "irrelevant" asks as "summary" does and answers with the text of `prompts/irrelevant.txt`.
    Raises DataError as `build_messages` does, and for a chat among several records.
    """
    if len(records) == 1 and mode != "irrelevant":
        return build_messages(records[0], mode, prompts, emit_norm, ordering, form)
    for record in records:
        if record.messages is not None:
            raise DataError(Problem(record.place, f"is a chat of its own, which mode {mode} cannot use"))
    answers = [_answer(record, mode, emit_norm, ordering, prompts.negative_summary, form) for record in records]
    system, user = prompts.of_mode("summary" if mode == "irrelevant" else mode)
    chat = ask_messages([image for record in records for image in record.images], system, user)
    chat["messages"].append({"role": "assistant", "content": _joined_answers(answers, mode, form)})
    for record in records:
        _refuse_control_text(record, chat)
    check_image_places(chat, records[0].place)
    return chat


def _joined_answers(answers: Sequence[str], mode: str, form: AnswerForm) -> str:
    if len(answers) == 1:
        return answers[0]
    parts = answers if mode == "dense" else [json.dumps(answer, ensure_ascii=False) for answer in answers]
    return "{" + ", ".join(f'"{form.image_name(number)}": {part}' for number, part in enumerate(parts, start=1)) + "}"


def ask_messages(images: Sequence[str], system: str, user: str) -> Chat:
    """{"messages", "images"} up to the user's turn: a model's question about `images`."""
    content = [{"type": "image", "image": image} for image in images]
    turns: list[JsonObject] = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": [*content, {"type": "text", "text": user}]})
    return {"messages": turns, "images": list(images)}


def check_image_places(chat: Mapping[str, Any], place: str) -> None:
    """DataError unless the image items of the turns are exactly `chat["images"]`, in order."""
    places = [item["image"] for _, item in _items(chat["messages"]) if item["type"] == "image"]
    if places != list(chat["images"]):
        what = f"{len(places)} image places for {len(chat['images'])} images"
        raise DataError(Problem(place, what, "every image needs exactly one place in a user turn"))


def own_images(record: Record) -> list[str]:
    """Every image the record names: its `images`, or those inside its own chat."""
    if record.messages is None:
        return list(record.images)
    return list(_own_chat(record.messages)["images"])


def with_images(chat: Mapping[str, Any], images: Sequence[str]) -> Chat:
    """The same chat over other image references, one for one (relative paths resolved, for example)."""
    fresh = iter(images)

    def swapped(content: Any) -> Any:
        if isinstance(content, str):
            return content
        return [item | {"image": next(fresh)} if item["type"] == "image" else item for item in content]

    turns = [turn | {"content": swapped(turn["content"])} for turn in chat["messages"]]
    return {"messages": turns, "images": list(images)}


def control_text(text: str) -> str:
    """The first piece of control text in `text`, or an empty string."""
    match = CONTROL_TEXT.search(text) if "<" in text else None
    return match[0] if match else ""


def _summary(record: Record, negative_summary: str) -> str:
    if record.summary is not None:
        return record.summary
    if record.is_negative and negative_summary:
        return negative_summary
    fix = "set prompts.negative_summary" if record.is_negative else "summary mode needs one on every record"
    raise DataError(Problem(record.place, "no `summary`", fix))


def _answer(record: Record, mode: str, emit_norm: str, ordering: str, negative_summary: str, form: AnswerForm) -> str:
    if mode == "irrelevant":
        return irrelevant_answer()
    if mode == "chat":
        raise DataError(Problem(record.place, "no `messages`", "mode chat needs them on every record"))
    if mode == "summary":
        return _summary(record, negative_summary)
    if record.is_negative and not record.objects:
        return NOTHING
    if not record.objects or record.width is None or record.height is None:
        raise DataError(Problem(record.place, "no `objects`", "dense mode needs at least one on every record"))
    try:
        return encode_answer(record.objects, record.width, record.height, emit_norm, ordering, form)
    except DataError as error:
        raise DataError(
            Problem(f"{record.place}: {problem.where}", problem.what, problem.fix) for problem in error.problems
        ) from error


def _own_chat(messages: Sequence[Mapping[str, Any]]) -> Chat:
    """The record's own turns with every image spelled as `image`."""
    turns = [{"role": turn["role"], "content": _plain_content(turn["content"])} for turn in messages]
    images = [item["image"] for _, item in _items(turns) if item["type"] == "image"]
    return {"messages": turns, "images": images}


def _plain_content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    items = [
        {"type": "text", "text": item["text"]} if item["type"] == "text" else {"type": "image", "image": image_of(item)}
        for item in content
    ]
    if all(item["type"] == "text" for item in items):
        return "".join(item["text"] for item in items)
    return items


def _items(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(turn, item) of all content; plain text counts as one text item."""
    for turn, message in enumerate(messages):
        content = message["content"]
        for item in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            yield turn, item


def _refuse_control_text(record: Record, chat: Chat) -> None:
    for turn, item in _items(chat["messages"]):
        token = control_text(item["text"]) if item["type"] == "text" else ""
        if token:
            what = f"control text {shown(token)} in turn {turn + 1} ({chat['messages'][turn]['role']})"
            raise DataError(Problem(record.place, what, "remove it: the template would obey it instead of showing it"))
