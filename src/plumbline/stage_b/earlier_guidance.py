"""Guidance of earlier versions, `{mission: {"step": 3, "experiences": {"G0": text, ...}}}`, as guidance of today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import DamagedFileError, DataError, OutputError, Problem
from plumbline.infer.verbs import safe_name
from plumbline.stage_b.config import MissionEntry
from plumbline.stage_b.guidance import (
    SCHEMA,
    Guidance,
    Rule,
    is_earlier_guidance,
    now,
    problem_of_text,
)
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import JsonObject, read_json_object

_FOCUS_NAMES = ("focus", "mission_focus")
_FIRST = "G0"
"""The experience that earlier versions seeded with the focus."""


@dataclass(frozen=True)
class Imported:
    """One mission. path: the file written; names: old name -> new rule, `focus` for the text that became the focus."""

    guidance: Guidance
    path: Path
    names: Mapping[str, str]


def import_guidance(
    source: Path, folder: Path, described: Mapping[str, MissionEntry], only: str | None, *, overwrite: bool
) -> list[Imported]:
    """Write a guidance file per mission into `folder`; nothing where one of them cannot be.

    described: missions whose focus is known; without one it is the file's own `focus`, or its first experience.
    Raises DataError for what is no such file, OutputError for a file that is there already.
    """
    found = [_imported(name, entry, folder, described, source) for name, entry in _missions(source, only)]
    taken = [each.path for each in found if each.path.exists() and not overwrite]
    if taken:
        raise OutputError(
            Problem(str(path), "is there already", "name another folder, or --overwrite") for path in taken
        )
    folder.mkdir(parents=True, exist_ok=True)
    for each in found:
        write_atomically(each.path, each.guidance.to_json())
    return found


def _missions(source: Path, only: str | None) -> Iterator[tuple[str, JsonObject]]:
    try:
        content = read_json_object(source)
    except DamagedFileError as error:
        raise DataError(error.problems) from error
    if not is_earlier_guidance(content):
        what = 'is no guidance of an earlier version: {"MISSION": {"experiences": {"G0": "text"}}} is'
        raise DataError(Problem(str(source), what))
    if only is not None and only not in content:
        raise DataError(Problem("--mission", f"no mission {only!r}", f"there are {', '.join(content)}"))
    return ((name, entry) for name, entry in content.items() if only in (None, name))


def _imported(
    mission: str, entry: Mapping[str, Any], folder: Path, described: Mapping[str, MissionEntry], source: Path
) -> Imported:
    texts = {name: _one_line(text) for name, text in entry["experiences"].items()}
    wrong = [(name, problem_of_text(text)) for name, text in texts.items()]
    if problems := [Problem(f"{source}: {mission}: {name}", what, "shorten it") for name, what in wrong if what]:
        raise DataError(problems)
    focus, used = _focus(mission, entry, texts, described)
    if not focus:
        raise DataError(
            Problem(f"{source}: {mission}", "has no focus and no experience", "add it to the missions file")
        )
    names = {name: "focus" if text == focus or name == used else "" for name, text in texts.items()}
    rules: list[Rule] = []
    for name, text in texts.items():
        if not names[name]:
            twin = next((rule for rule in rules if rule.text == text), None)
            rules += [] if twin else [Rule(f"R{len(rules) + 1}", text)]
            names[name] = twin.id if twin else rules[-1].id
    guidance = Guidance(SCHEMA, mission, 0, now(), focus, tuple(rules), next_rule=len(rules) + 1)
    return Imported(guidance, folder / f"{safe_name(mission)}.json", names)


def _focus(
    mission: str, entry: Mapping[str, Any], texts: Mapping[str, str], described: Mapping[str, MissionEntry]
) -> tuple[str, str]:
    """(the focus, the experience that it was)."""
    own = next((entry[name] for name in _FOCUS_NAMES if isinstance(entry.get(name), str) and entry[name].strip()), "")
    if own:
        return _one_line(own), ""
    if mission in described:
        return described[mission].focus, ""
    first = _FIRST if _FIRST in texts else next(iter(texts), "")
    return texts.get(first, ""), first


def _one_line(text: Any) -> str:
    return " ".join(str(text).split()) if isinstance(text, str) else ""
