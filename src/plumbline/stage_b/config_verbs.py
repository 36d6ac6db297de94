"""What `plumbline config ...` prints of Stage-B's files: a run's YAML, and its missions."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from plumbline.config.load import load_tree
from plumbline.config.printed import print_check, print_json
from plumbline.config.schema import json_schema
from plumbline.config.tree import MapNode, Scalar
from plumbline.errors import EXIT_OK, ConfigError, Problem
from plumbline.stage_b.config import load_stage_b, read_missions, stage_b_section

RUN, MISSIONS = "stage-b", "missions"
_OF_OTHERS = ("extends", "output")
"""Keys that say nothing about the kind of a file."""


def recognised(file: Path) -> str | None:
    """The kind of a Stage-B file, by its content; None for every other."""
    problems: list[Problem] = []
    try:
        entries = load_tree(file, None, lambda node, _: node, problems).entries
    except ConfigError:
        return None
    if set(entries) & (stage_b_section().fields.keys() - set(_OF_OTHERS)):
        return RUN
    is_mission = [
        "focus" in entry.node.entries if isinstance(entry.node, MapNode) else isinstance(entry.node, Scalar)
        for entry in entries.values()
    ]
    return MISSIONS if is_mission and all(is_mission) and not any(name.isascii() for name in entries) else None


def check(file: Path, kind: str, *, as_json: bool) -> int:
    """Print every problem of a file; 0 without problems, else 2."""
    return print_check(file, _problems(file, kind), (), as_json=as_json)


def problems_of(file: Path) -> tuple[Problem, ...] | None:
    """What is wrong with a Stage-B file; None for every other file."""
    kind = recognised(file)
    return None if kind is None else _problems(file, kind)


def _problems(file: Path, kind: str) -> tuple[Problem, ...]:
    try:
        if kind == RUN:
            load_stage_b(file)
        else:
            read_missions(file)
    except ConfigError as error:
        return error.problems
    return ()


def show(file: Path, kind: str, *, as_json: bool) -> int:
    """Print what a file results in; of a run each value with its origin."""
    if kind == MISSIONS:
        found = {
            name: {"focus": entry.focus, "items": list(entry.items)} for name, entry in read_missions(file).items()
        }
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return EXIT_OK
    text = load_stage_b(file).resolved_yaml
    if as_json:
        print_json({"resolved": yaml.safe_load(text)})
    else:
        print(text, end="")
    return EXIT_OK


def schema() -> int:
    """Print the JSON Schema of a run's YAML."""
    print_json(json_schema(stage_b_section(), "Plumbline Stage-B run"))
    return EXIT_OK
