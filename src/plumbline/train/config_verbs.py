"""What `plumbline config ...` prints. Every function returns the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from plumbline.config.printed import print_check, print_json, print_notes
from plumbline.config.recipes import recipe_text, recipes
from plumbline.config.render import inline
from plumbline.config.schema import json_schema
from plumbline.config.tree import Origin
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, ConfigError, OutputError, Problem, writing
from plumbline.storage.files import write_atomically
from plumbline.train.config import CheckedFile, check_file, root_section
from plumbline.train.migrate import migrate as rewrite


def check(file: Path, base_config: Path | None, as_json: bool) -> int:
    """Print every problem of a file, each key checked by itself; 0 without problems, else 2."""
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


def migrate(
    old: Path,
    output: Path | None,
    problems_elsewhere: Callable[[Path], tuple[Problem, ...] | None],
    *,
    overwrite: bool,
) -> int:
    """Write an earlier configuration in today's names, and print what was changed and what is left to decide.

    problems_elsewhere: what is wrong with a file that is no training run's; None for one that is.
    """
    if output is not None and output.exists() and not overwrite:
        raise OutputError(Problem(str(output), "is there already", "name another file with --output, or --overwrite"))
    found, unread = rewrite(old)
    if unread:
        raise ConfigError(unread)
    for change in found.changes:
        print(change, file=sys.stderr)
    left = _left_to_decide(old, found.text, problems_elsewhere)
    for problem in left:
        print(f"decide: {problem}", file=sys.stderr)
    if output is None:
        print(found.text, end="")
    else:
        with writing(output):
            write_atomically(output, found.text)
        print(f"wrote {output}: {len(found.changes)} changes, {len(left)} to decide", file=sys.stderr)
    return EXIT_FINDINGS if left else EXIT_OK


def _left_to_decide(
    old: Path, text: str, problems_elsewhere: Callable[[Path], tuple[Problem, ...] | None]
) -> list[Problem]:
    """What the check says of the new text, which is checked in the old file's folder: what it extends is there."""
    with NamedTemporaryFile("w", suffix=".yaml", dir=old.absolute().parent, encoding="utf-8") as scratch:
        scratch.write(text)
        scratch.flush()
        problems = problems_elsewhere(Path(scratch.name))
        problems = check_file(scratch.name).problems if problems is None else problems
        return [Problem(each.where.replace(scratch.name, str(old)), each.what, each.fix) for each in problems]


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
