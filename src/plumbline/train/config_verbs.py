"""What `plumbline config ...` prints. Every function returns the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbline.config.printed import print_check, print_json, print_notes
from plumbline.config.recipes import recipe_text, recipes
from plumbline.config.render import inline
from plumbline.config.schema import json_schema
from plumbline.config.tree import Origin
from plumbline.errors import EXIT_OK, ConfigError, OutputError, Problem, writing
from plumbline.model.checkpoints import write_atomically
from plumbline.train.config import CheckedFile, check_file, root_section


def check(file: Path, base_config: Path | None, as_json: bool) -> int:
    """Print every problem of a file, each key judged by itself; 0 without problems, else 2."""
    checked = check_file(file, base_config)
    return print_check(file, checked.problems, checked.notes, as_json=as_json)


def show(file: Path, base_config: Path | None, as_json: bool) -> int:
    """Print the resolved configuration, each value with its origin."""
    checked = _sound(file, base_config)
    if as_json:
        origins = {path: str(origin) for path, origin in checked.origins.items()}
        print_json({"resolved": checked.resolved, "origins": origins, "notes": list(checked.notes)})
    else:
        print_notes(checked.notes)
        print(checked.to_yaml(), end="")
    return EXIT_OK


def diff(first: Path, second: Path, as_json: bool) -> int:
    """Print the keys whose resolved values differ, with both values and where they come from."""
    a, b = _sound(first, None), _sound(second, None)
    left, right = _flat(a.resolved), _flat(b.resolved)
    paths = [path for path in dict.fromkeys([*left, *right]) if left.get(path, _UNSET) != right.get(path, _UNSET)]
    if as_json:
        print_json({path: {"first": left.get(path), "second": right.get(path)} for path in paths})
        return EXIT_OK
    for path in paths:
        print(f"{path}: {_side(path, left, a.origins)} -> {_side(path, right, b.origins)}")
    if not paths:
        print("no difference")
    return EXIT_OK


def new(name: str | None, output: Path | None, *, overwrite: bool) -> int:
    """Write a recipe as one file; without a name list the recipes."""
    if name is None:
        for each, headline in recipes().items():
            print(f"{each:26} {headline}")
        return EXIT_OK
    text, path = recipe_text(name), output or Path(f"{name}.yaml")
    if path.exists() and not overwrite:
        raise OutputError(Problem(str(path), "is there already", "name another file with --output, or --overwrite"))
    with writing(path):
        write_atomically(path, text)
    print(f"wrote {path}; next: plumbline config check {path}")
    return EXIT_OK


def schema() -> int:
    """Print the JSON Schema of a run's YAML."""
    print_json(json_schema(root_section(), "Plumbline training run"))
    return EXIT_OK


_UNSET: Any = object()


def _sound(file: Path, base_config: Path | None) -> CheckedFile:
    checked = check_file(file, base_config)
    if checked.problems:
        raise ConfigError(checked.problems)
    return checked


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _side(path: str, values: Mapping[str, Any], origins: Mapping[str, Origin]) -> str:
    return f"{inline(values[path])} ({origins.get(path, 'default')})" if path in values else "not set"
