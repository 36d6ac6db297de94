"""Questions in the user's own words: a prompt on pictures, or chats to be answered; the replies are text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plumbline.data.contract import build_record, find_breaches
from plumbline.data.findings import Findings, data_error
from plumbline.data.images import ImagePolicy, load_image
from plumbline.data.messages import build_messages, control_text, own_images
from plumbline.data.prompts import default_prompts
from plumbline.data.read import parse_line, read_lines
from plumbline.errors import ConfigError, DataError, Problem, UserError
from plumbline.infer.captions import read_end
from plumbline.infer.config import InferSettings, Sampling
from plumbline.infer.engine import Engine, Reply, Request
from plumbline.infer.inputs import policy_of, read_items
from plumbline.infer.plan import RunPlan, answering, choose_mode, earlier_rows, find_weights
from plumbline.infer.runner import ERROR, INVALID, OK, RunReport, check_ours, run_work
from plumbline.model.checkpoints import CARD_FILE, Card
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown, shown_path

Turns = tuple[Mapping[str, Any], ...]
NO_CARD = Card("norm1000", default_prompts(), "mixed", "top_left", "qwen3_vl", None)
"""Of a model without a card: a question in the user's words is not about coordinates."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        key: Its identity within the input.
        turns: The chat up to the user's turn; its image items are `images`, in order.
        images: Names as the input has them, or data URLs.
        folder: What the names are relative to.
        policy: Which files may be opened.
        reference: The answer that the input holds, where it does.
        metadata: Of its record.
    """

    key: str
    turns: Turns
    images: tuple[str, ...]
    folder: Path
    policy: ImagePolicy
    reference: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def request(self, sampling: Sampling) -> Request:
        """What an engine is sent. Raises DataError for a picture that cannot be opened."""
        pictures = tuple(load_image(self.policy.reference(image, self.folder)) for image in self.images)
        return Request(self.key, pictures, "", self.text, sampling, turns=self.turns)

    @property
    def text(self) -> str:
        """The last turn's text."""
        content = self.turns[-1]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@dataclass(frozen=True)
class QuestionPlan(RunPlan[Question]):
    """A run over questions."""

    def as_dict(self) -> JsonObject:
        return super().as_dict() | {"mode": "question", "questions": len(self.items)}


class Questions:
    """One row per question: the runner's work."""

    def __init__(self, plan: QuestionPlan):
        self._sampling = plan.settings.sampling

    def ask(self, item: Question) -> Request:
        return item.request(self._sampling)

    def row(self, item: Question, request: Request | None, reply: Reply) -> JsonObject:
        problems = (reply.detail or reply.error,) if reply.error else read_end(reply)
        if not reply.error and not reply.text.strip():
            problems = (*problems, "the reply is empty")
        status = f"{ERROR}{reply.error}" if reply.error else INVALID if problems else OK
        row = {"key": item.key, "images": list(item.images), "question": item.text, "text": reply.text}
        row |= {} if item.reference is None else {"reference": item.reference}
        return row | {"status": status, "problems": list(problems)}


def is_question(settings: InferSettings) -> bool:
    """Whether a run asks in the user's words: it has a prompt, or its input is a file of chats."""
    if settings.prompt is not None or settings.images_per_prompt > 1:
        return True
    if not settings.input.is_file() or settings.input.suffix.lower() not in (".jsonl", ".json"):
        return False
    first = next(iter(read_lines(settings.input)), None)
    raw, found = parse_line(first, str(settings.input)) if first is not None else (None, [])
    return not found and isinstance(raw, dict) and "messages" in raw


def plan_questions(settings: InferSettings) -> QuestionPlan:
    """Find model, questions and earlier rows. Raises UserError; touches no file and loads no weights."""
    model, adapter, notes = find_weights(settings.model, settings.adapter)
    card = card_of(adapter or model)
    items = tuple(read_questions(settings, card))[: settings.limit]
    plan = QuestionPlan(settings, model, adapter, card, items, (), Counter(), notes)
    plan = replace(plan, todo=tuple(plan.run_options.own(plan.items)))
    output = plan.run_options.rows_path
    check_ours(output)
    if not settings.resume or not output.exists():
        return plan
    todo, done, more = earlier_rows(output, identity_of(plan), plan.todo, "questions")
    return replace(plan, todo=todo, done=done, notes=(*notes, *more))


def card_of(folder: Path) -> Card:
    """The card of a checkpoint, or `NO_CARD` where it has none."""
    return Card.read(folder) if (folder / CARD_FILE).exists() else NO_CARD


def run_questions(
    plan: QuestionPlan, engine: Callable[[], Engine], progress: Callable[[int], None] = lambda count: None
) -> RunReport:
    """Answer every question of the plan, a row each; one that fails costs itself alone."""
    return run_work(plan.items, Questions(plan), engine, plan.run_options, identity_of(plan), None, progress)


def identity_of(plan: QuestionPlan) -> JsonObject:
    """What makes rows comparable."""
    settings = plan.settings
    own = {"mode": "question", "prompt": settings.prompt, "system": settings.system}
    return answering(settings, plan.model, plan.adapter, plan.card) | own | {"group": settings.images_per_prompt}


def read_questions(settings: InferSettings, card: Card) -> list[Question]:
    """The questions of an input: chats of a JSONL, or the prompt on its pictures, some of them together.

    Raises:
        ConfigError: A prompt for chats, which bring their own, or none for pictures.
        DataError: A record that breaks the contract.
    """
    chats = list(read_chats(settings))
    if chats:
        if settings.prompt is not None or settings.images_per_prompt > 1:
            what = f"the chats of {shown_path(settings.input)} bring their own questions"
            raise ConfigError(Problem("--prompt", what, "leave it out"))
        return chats
    system, user = _prompt(settings, card)
    items = read_items(settings.input, settings.image_roots, settings.image_url_allow)
    found = []
    size = settings.images_per_prompt
    for group in (items[start : start + size] for start in range(0, len(items), size)):
        images = tuple(item.image for item in group)
        first = group[0]
        found.append(Question(first.key, question_turns(images, system, user), images, first.folder, first.policy))
    return found


def question_turns(images: Sequence[str], system: str, user: str) -> Turns:
    """A chat of one question about `images`; UserError for control text in it."""
    for text in (system, user):
        if token := control_text(text):
            what = f"control text {shown(token)}"
            raise UserError(Problem("--prompt", what, "remove it: the template would obey it instead of showing it"))
    content: list[JsonObject] = [{"type": "image", "image": image} for image in images]
    turn = {"role": "user", "content": [*content, {"type": "text", "text": user}]}
    return ({"role": "system", "content": system}, turn) if system else (turn,)


def _prompt(settings: InferSettings, card: Card) -> tuple[str, str]:
    """(system, user); those of training for groups without a prompt."""
    if settings.prompt is not None:
        return settings.system or "", settings.prompt
    return card.prompts.of_mode(choose_mode(card, settings.mode))


def read_chats(settings: InferSettings) -> Iterator[Question]:
    """The chats of a JSONL, each up to its last user turn; nothing for another input."""
    source = settings.input
    if not source.is_file() or source.suffix.lower() not in (".jsonl", ".json"):
        return
    policy = policy_of(source, settings.image_roots, settings.image_url_allow)
    for number, line in enumerate(read_lines(source)):
        raw, found = parse_line(line, str(source))
        if found:
            raise data_error(found)
        if not isinstance(raw, dict) or "messages" not in raw:
            if number == 0:
                return
            what = "a described picture among chats"
            raise DataError(Problem(f"{shown_path(source)}:{line.number}", what, "keep them in files of their own"))
        yield _chat(raw, source, line.number, policy)


def _chat(raw: JsonObject, source: Path, number: int, policy: ImagePolicy) -> Question:
    messages = raw["messages"]
    is_open = isinstance(messages, list) and messages and isinstance(messages[-1], dict)
    is_open = is_open and messages[-1].get("role") == "user"
    # The contract's chats end with an answer; one that is still to be given is left open here.
    whole = raw | {"messages": [*messages, {"role": "assistant", "content": "?"}]} if is_open else raw
    found = Findings(str(source), number)
    find_breaches(whole, found)
    if found:
        raise data_error(found)
    record = build_record(whole, str(source), number)
    turns = tuple(build_messages(record, "chat", default_prompts())["messages"])
    answer = turns[-1]["content"]
    reference = None if is_open else answer if isinstance(answer, str) else "".join(part["text"] for part in answer)
    images = tuple(own_images(record))
    return Question(f"line:{number}", turns[:-1], images, source.parent, policy, reference, record.metadata)
