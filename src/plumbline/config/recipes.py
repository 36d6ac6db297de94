"""The recipes that ship: listed, written out for a user to change."""

from __future__ import annotations

from pathlib import Path

import yaml

from plumbline.config.load import load_tree
from plumbline.config.shipped import shipped
from plumbline.config.tree import plain
from plumbline.errors import ConfigError, Problem

_VERBATIM = ("missions", "stage_b_training_free")
"""Files that extend nothing: they are written as they are, comments included."""


def recipes() -> dict[str, str]:
    """Name of each recipe -> its first line of comment."""
    return {file.stem: _headline(file) for file in sorted(shipped().glob("*.yaml"))}


def _headline(file: Path) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def recipe_text(name: str) -> str:
    """A recipe as one file, with all that it extends. Raises ConfigError for a name that is none."""
    known = recipes()
    if name not in known:
        raise ConfigError(Problem(name, "is no recipe", f"there are {', '.join(known)}"))
    return _text_of(name, known[name])


def _text_of(name: str, headline: str) -> str:
    file = shipped(f"{name}.yaml")
    if name in _VERBATIM:
        return file.read_text(encoding="utf-8")
    problems: list[Problem] = []
    values = plain(load_tree(file, None, lambda node, _: node, problems))
    assert isinstance(values, dict)
    if problems:
        raise ConfigError(problems)
    values.pop("extends", None)
    head = f"# {headline}\n# Recipe {name}. Set model.model, custom.train_jsonl and custom.val_jsonl, then:\n"
    head += "#   plumbline train THIS_FILE --dry-run\n"
    return head + yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=120)
