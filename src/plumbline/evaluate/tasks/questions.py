"""Questions with known answers: those that ship, and files of one's own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plumbline.data.contract import build_record, find_breaches
from plumbline.data.findings import Findings, data_error
from plumbline.data.images import ImagePolicy
from plumbline.data.prompts import Prompts, default_prompts
from plumbline.data.read import parse_line, read_lines
from plumbline.data.summary_items import count_items
from plumbline.errors import DataError, Problem
from plumbline.infer.inputs import policy_of
from plumbline.infer.questions import Question, question_turns
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import normalised, shown_path

BUNDLED = ("text", "photos")
"""General knowledge without a picture; what is to be seen in photographs with free licences."""
_LONG_WORD = 4
_KEYS = {"question", "answers", "others", "image"}
_WORDS, _SUMMARY = 32, 160
"""Longest answers, in tokens: the questions ask for a word or two."""


@dataclass(frozen=True)
class Task:
    """A question and the answers that count as right.

    Attributes:
        group: `text`, `photos`, or the name of the file it comes from.
        question: What is asked.
        answers: Right ones, any of them.
        others: Wrong ones that could be named as well: the one that is named first counts.
        is_summary: The answer is a summary: it is right when its items and their counts are.
    """

    group: str
    question: Question
    answers: tuple[str, ...]
    others: tuple[str, ...] = ()
    is_summary: bool = False

    @property
    def max_new_tokens(self) -> int:
        """Longest answer."""
        return _SUMMARY if self.is_summary else _WORDS

    def is_right(self, text: str) -> bool:
        """Whether a right answer is named, before any wrong one; of a summary, whether its items are right."""
        if self.is_summary:
            return count_items(normalised(text)) == count_items(normalised(self.answers[0]))
        found = [
            (place, -len(name), name) for name in (*self.answers, *self.others) if (place := _place(name, text)) >= 0
        ]
        return bool(found) and min(found)[2] in self.answers


def _place(name: str, text: str) -> int:
    """Where a text names something, letters of either case. -1: nowhere.

    A number or a short Latin word counts as a whole; a longer one may go on, as `stone` does in `stones`.
    """
    if not name.isascii():
        return text.find(name)
    end = "[a-z0-9]" if len(name) < _LONG_WORD else "[0-9]"
    match = re.search(rf"(?<![a-z0-9]){re.escape(name.lower())}(?!{end})", text.lower())
    return match.start() if match else -1


def bundled_tasks() -> tuple[list[Task], list[str]]:
    """The tasks that ship, and a note when the photographs of some are not installed."""
    found: list[Task] = []
    absent: Counter[str] = Counter()
    for group in BUNDLED:
        with resources.as_file(resources.files(__package__) / f"{group}.jsonl") as path:
            rows = list(_rows(path))
        for number, raw in rows:
            photo = package_file(raw["image"]) if "image" in raw else None
            if photo is not None:
                found.append(_task(group, number, raw, (photo.name,), photo.parent, ImagePolicy()))
            elif "image" not in raw:
                found.append(_task(group, number, raw, (), Path(), ImagePolicy()))
            else:
                absent[raw["image"].partition("/")[0]] += 1
    notes = [f"{count} questions about photographs left out: {name} is not installed" for name, count in absent.items()]
    return found, notes


def read_tasks(path: Path, image_roots: Sequence[str] = (), prompts: Prompts | None = None) -> list[Task]:
    """Tasks of a JSONL: `question`, `answers`, and if wanted `others` and `image`, a line each.

    A validation file of summaries is one as well: its records' pictures, asked in the words of `prompts`.

    Raises DataError with the file and line of what is neither.
    """
    policy = policy_of(path, image_roots)
    found = []
    for number, raw in _rows(path):
        if "images" in raw:
            found.append(_summary_task(path, number, raw, policy, prompts or default_prompts()))
            continue
        images = (raw["image"],) if "image" in raw else ()
        found.append(_task(path.stem, number, raw, images, path.parent, policy))
    if not found:
        raise DataError(Problem(shown_path(path), "holds no question"))
    return found


def _rows(path: Path) -> Iterator[tuple[int, JsonObject]]:
    for line in read_lines(path):
        raw, findings = parse_line(line, str(path))
        is_record = isinstance(raw, dict) and "images" in raw
        what = findings[0].what if findings else "" if is_record else _breach(raw)
        if what:
            fix = '{"question": "...", "answers": ["..."], "others": [], "image": "..."}'
            raise DataError(Problem(f"{shown_path(path)}:{line.number}", what, fix))
        yield line.number, raw


def _summary_task(path: Path, number: int, raw: JsonObject, policy: ImagePolicy, prompts: Prompts) -> Task:
    found = Findings(str(path), number)
    find_breaches(raw, found)
    if found:
        raise data_error(found)
    record = build_record(raw, str(path), number)
    if not record.summary:
        raise DataError(Problem(f"{shown_path(path)}:{number}", "has no summary", "only such records have an answer"))
    turns = question_turns(record.images, *prompts.of_mode("summary"))
    question = Question(f"{path.stem}:{number}", turns, record.images, path.parent, policy)
    return Task(path.stem, question, (record.summary,), is_summary=True)


def _breach(raw: Any) -> str:
    """What makes a line no task; empty when it is one."""
    if not isinstance(raw, dict):
        return "is not an object"
    if unknown := sorted(set(raw) - _KEYS):
        return f"unknown key {unknown[0]!r}"
    if not isinstance(raw.get("question"), str) or not raw["question"].strip():
        return "`question` must be a text"
    for name in ("answers", "others"):
        names = raw.get(name, [])
        if not isinstance(names, list) or not all(isinstance(each, str) and each.strip() for each in names):
            return f"`{name}` must be a list of texts"
    if not raw.get("answers"):
        return "`answers` holds no answer"
    return "" if isinstance(raw.get("image", ""), str) else "`image` must be a text"


def _task(
    group: str, number: int, raw: Mapping[str, Any], images: tuple[str, ...], folder: Path, policy: ImagePolicy
) -> Task:
    question = Question(f"{group}:{number}", question_turns(images, "", raw["question"]), images, folder, policy)
    return Task(group, question, tuple(raw["answers"]), tuple(raw.get("others", ())))


@cache
def package_file(inside: str) -> Path | None:
    """A file such as `skimage/data/coffee.png` of an installed package; None where it is not installed."""
    package, _, rest = inside.partition("/")
    spec = find_spec(package) if package else None
    paths = (Path(folder) / rest for folder in (spec.submodule_search_locations or ())) if spec else ()
    return next((path for path in paths if path.is_file()), None)
