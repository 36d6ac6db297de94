"""Anchors: what the base answers to other inputs than the training answers, as chats to hold a fine-tune to.

An anchor on the training answers alone protects little elsewhere: the model must be held where it would drift, that is
on other questions about the training photos, on photos of other domains, and on text.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from plumbline.data.images import ImagePolicy, is_data_url
from plumbline.data.keyed import keyed_generator
from plumbline.data.messages import own_images
from plumbline.data.read import read_records
from plumbline.errors import ConfigError, DataError, Problem, UserError
from plumbline.infer.config import InferSettings
from plumbline.infer.engine import Engine
from plumbline.infer.inputs import digest, is_picture, policy_of
from plumbline.infer.plan import answering, find_weights, run_options
from plumbline.infer.questions import Question, QuestionPlan, Questions, card_of, question_turns
from plumbline.infer.runner import OK, RunReport, run_work
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_rows
from plumbline.storage.text import shown_path

ROWS_SUFFIX = ".rows.jsonl"
"""Next to the output: every reply, also those that are left out; what a resumed run goes on from."""
MOST_OF_ONE_ANSWER = 20
"""Questions that may get the same answer: `是` to everything teaches nothing."""


@dataclass(frozen=True)
class AnchorSettings:
    """What is asked, and where the answers go.

    Attributes:
        run: The model, its engine and its sampling; `output` is the file of anchors.
        photos: Folders of photos of other domains.
        training: JSONL files whose pictures are asked other questions than theirs.
        questions: File with a question per line, in place of those that ship.
        per_photo: Questions about each photo.
        with_text: Whether questions without a picture are asked too.
        val: File for a part of the anchors that training does not see.
        val_share: That part.
        seed: Of the questions' draw.
    """

    run: InferSettings
    photos: tuple[Path, ...] = ()
    training: tuple[Path, ...] = ()
    questions: Path | None = None
    per_photo: int = 2
    with_text: bool = True
    val: Path | None = None
    val_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.photos or self.training or self.with_text):
            raise ConfigError(Problem("--photos", "there is nothing to ask about", "name a folder, or --training FILE"))
        if self.per_photo < 1:
            raise ConfigError(Problem("--per-photo", f"{self.per_photo} is not at least 1"))
        if not 0 < self.val_share < 1:
            raise ConfigError(Problem("--val-share", f"{self.val_share:g} is not between 0 and 1"))

    @property
    def rows(self) -> Path:
        return self.run.output.with_name(self.run.output.name + ROWS_SUFFIX)


@dataclass
class AnchorReport:
    """What was made. kept: by source; left_out: by reason; val: how many of the kept are in the validation file."""

    kept: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    val: int = 0

    def as_dict(self) -> JsonObject:
        return {"kept": dict(self.kept), "left_out": dict(self.left_out), "val": self.val}


def anchor_questions(settings: AnchorSettings) -> list[Question]:
    """Every question: about other photos, other ones about the training photos, and without a picture.

    Raises UserError for a folder without pictures or a file of questions without any.
    """
    about, plain = question_texts(settings.questions)
    found: list[Question] = []
    for folder in settings.photos:
        found += _of_folder(folder, about, settings)
    for file in settings.training:
        found += _of_training(file, about, settings)
    if settings.with_text:
        policy = ImagePolicy()
        found += [Question(f"text/{digest(text)}", question_turns((), "", text), (), Path(), policy) for text in plain]
    unique = {question.key: question for question in found}
    return list(unique.values())[: settings.run.limit]


def plan_anchors(settings: AnchorSettings) -> QuestionPlan:
    """Model and questions; touches no file and loads no weights."""
    model, adapter, notes = find_weights(settings.run.model, settings.run.adapter)
    card = card_of(adapter or model)
    items = tuple(anchor_questions(settings))
    return QuestionPlan(settings.run, model, adapter, card, items, items, Counter(), notes)


def build_anchors(
    settings: AnchorSettings,
    plan: QuestionPlan,
    engine: Callable[[], Engine],
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[RunReport, AnchorReport | None]:
    """Ask everything that has no answer yet, then write the anchors; None for these when the run was interrupted."""
    options = run_options(settings.run, settings.rows)
    identity = {"mode": "anchors"} | answering(settings.run, plan.model, plan.adapter, plan.card)
    report = run_work(plan.items, Questions(plan), engine, options, identity, None, progress)
    if report.interrupted or report.over_budget:
        return report, None
    return report, write_anchors(settings, plan.items)


def write_anchors(settings: AnchorSettings, questions: Sequence[Question]) -> AnchorReport:
    """Choose among the replies and write the chats; files appear whole or not at all."""
    asked = {question.key: question for question in questions}
    report, answers = AnchorReport(), Counter[str]()
    lines: dict[bool, list[str]] = {True: [], False: []}
    for row in read_rows(settings.rows):
        question = asked.get(row["key"])
        if question is None:
            report.left_out["no longer asked"] += 1
            continue
        answer = row["text"].strip()
        if row["status"] != OK:
            report.left_out[(row["problems"] or [row["status"]])[0].split(":")[0]] += 1
            continue
        answers[answer] += 1
        if answers[answer] > MOST_OF_ONE_ANSWER:
            report.left_out["the same answer as many others"] += 1
            continue
        is_val = settings.val is not None and _share(settings, question) < settings.val_share
        report.kept[question.key.partition("/")[0]] += 1
        report.val += is_val
        lines[is_val].append(_chat(question, answer, (settings.val if is_val else None) or settings.run.output))
    write_lines(settings.run.output, lines[False])
    if settings.val is not None:
        write_lines(settings.val, lines[True])
    return report


def _share(settings: AnchorSettings, question: Question) -> float:
    """A number in [0, 1) that all questions about one picture share, so that none is on both sides."""
    of = question.images[0] if question.images else question.key
    return float(keyed_generator(settings.seed, 0, 0, f"anchors/val/{of}").random())


def _chat(question: Question, answer: str, output: Path) -> str:
    """The record: pictures by their path from the output's folder where they lie below it, else whole paths."""
    names = iter([_name(image, question.folder, output) for image in question.images])
    turns = []
    for turn in question.turns:
        content = turn["content"]
        if not isinstance(content, str):
            content = [part | {"image": next(names)} if part["type"] == "image" else part for part in content]
            if all(part["type"] == "text" for part in content):
                content = "".join(part["text"] for part in content)
        turns.append({"role": turn["role"], "content": content})
    turns.append({"role": "assistant", "content": answer})
    return json.dumps({"messages": turns, "metadata": {"anchor": question.key.partition("/")[0]}}, ensure_ascii=False)


def _name(image: str, folder: Path, output: Path) -> str:
    if is_data_url(image):
        return image
    path, home = (folder / image).resolve(), output.parent.resolve()
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else os.fspath(path)


def _of_folder(folder: Path, about: Sequence[str], settings: AnchorSettings) -> Iterator[Question]:
    pictures = sorted(path for path in folder.rglob("*") if is_picture(path)) if folder.is_dir() else []
    if not pictures:
        raise UserError(Problem(shown_path(folder), "there is no picture in it", "name a folder of photos"))
    policy = ImagePolicy(roots=(str(folder),), extra_root=None)
    for path in pictures:
        name = path.relative_to(folder).as_posix()
        yield from _about(f"photos/{folder.name}/{name}", name, folder, policy, about, settings)


def _of_training(file: Path, about: Sequence[str], settings: AnchorSettings) -> Iterator[Question]:
    policy = policy_of(file, settings.run.image_roots, settings.run.image_url_allow)
    seen: set[str] = set()
    for record in read_records(file):
        for image in own_images(record):
            if image not in seen:
                seen.add(image)
                key = f"training/{digest(image)}" if is_data_url(image) else f"training/{image}"
                yield from _about(key, image, file.parent, policy, about, settings)
    if not seen:
        raise DataError(Problem(shown_path(file), "names no picture", "give the records that are trained on"))


def _about(
    key: str, image: str, folder: Path, policy: ImagePolicy, about: Sequence[str], settings: AnchorSettings
) -> Iterator[Question]:
    """`per_photo` different questions about a picture, drawn by its key."""
    order = keyed_generator(settings.seed, 0, 0, f"anchors/{key}").permutation(len(about))
    for number in order[: settings.per_photo].tolist():
        text = about[number]
        yield Question(f"{key}#{digest(text)}", question_turns((image,), "", text), (image,), folder, policy)


def question_texts(file: Path | None) -> tuple[list[str], list[str]]:
    """(questions about pictures, questions without one); a file of one's own replaces the former."""
    shipped = resources.files("plumbline.infer") / "anchor_questions"
    about, plain = (_lines((shipped / f"{name}.txt").read_text(encoding="utf-8")) for name in ("pictures", "text"))
    if file is None:
        return about, plain
    try:
        about = _lines(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Problem("--questions", f"{file}: {error}", "one question per line, in UTF-8")) from error
    if not about:
        raise ConfigError(Problem("--questions", f"{file} holds no question", "one per line; # begins a comment"))
    return about, plain


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
