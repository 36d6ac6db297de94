"""What `plumbline config ...` prints. Every function returns the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plumbline.config.render import inline
from plumbline.config.schema import json_schema
from plumbline.config.tree import Origin
from plumbline.errors import EXIT_OK, EXIT_USAGE, ConfigError, Problem
from plumbline.train.config import CheckedFile, check_file, root_section


def check(file: Path, base_config: Path | None, as_json: bool) -> int:
    """Print every problem of a file, each key judged by itself; 0 without problems, else 2."""
    checked = check_file(file, base_config)
    if as_json:
        _print_json({"ok": not checked.problems, "problems": _rows(checked.problems), "notes": list(checked.notes)})
    else:
        _print_notes(checked.notes)
        for problem in checked.problems:
            print(problem)
        print(f"{file}: {len(checked.problems)} problem(s)" if checked.problems else f"{file}: ok")
    return EXIT_USAGE if checked.problems else EXIT_OK


def show(file: Path, base_config: Path | None, as_json: bool) -> int:
    """Print the resolved configuration, each value with its origin."""
    checked = _sound(file, base_config)
    if as_json:
        origins = {path: str(origin) for path, origin in checked.origins.items()}
        _print_json({"resolved": checked.resolved, "origins": origins, "notes": list(checked.notes)})
    else:
        _print_notes(checked.notes)
        print(checked.to_yaml(), end="")
    return EXIT_OK


def diff(first: Path, second: Path, as_json: bool) -> int:
    """Print the keys whose resolved values differ, with both values and where they come from."""
    a, b = _sound(first, None), _sound(second, None)
    left, right = _flat(a.resolved), _flat(b.resolved)
    paths = [path for path in dict.fromkeys([*left, *right]) if left.get(path, _UNSET) != right.get(path, _UNSET)]
    if as_json:
        _print_json({path: {"first": left.get(path), "second": right.get(path)} for path in paths})
        return EXIT_OK
    for path in paths:
        print(f"{path}: {_side(path, left, a.origins)} -> {_side(path, right, b.origins)}")
    if not paths:
        print("no difference")
    return EXIT_OK


def schema() -> int:
    """Print the JSON Schema of a run's YAML."""
    _print_json(json_schema(root_section(), "Plumbline training run"))
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


def _rows(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Problems for machines: the place split into file, line and col where it has them."""
    rows = []
    for problem in problems:
        parts = problem.where.rsplit(":", 2)
        placed = len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit()
        file, line, col = (parts[0], int(parts[1]), int(parts[2])) if placed else (problem.where, None, None)
        rows.append({"file": file, "line": line, "col": col, "what": problem.what, "fix": problem.fix})
    return rows


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
