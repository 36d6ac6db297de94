"""How `plumbline config ...` prints: problems for people and for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import EXIT_OK, EXIT_USAGE, Problem


def print_check(file: Path, problems: Sequence[Problem], notes: Iterable[str], *, as_json: bool) -> int:
    """Print what is wrong with a file; returns the exit code."""
    if as_json:
        print_json({"ok": not problems, "problems": _rows(problems), "notes": list(notes)})
    else:
        print_notes(notes)
        for problem in problems:
            print(problem)
        count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
        print(f"{file}: {count if problems else 'ok'}")
    return EXIT_USAGE if problems else EXIT_OK


def _rows(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Problems for machines: the place split into file, line and col where it has them."""
    rows = []
    for problem in problems:
        parts = problem.where.rsplit(":", 2)
        placed = len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit()
        file, line, col = (parts[0], int(parts[1]), int(parts[2])) if placed else (problem.where, None, None)
        rows.append({"file": file, "line": line, "col": col, "what": problem.what, "fix": problem.fix})
    return rows


def print_notes(notes: Iterable[str]) -> None:
    """Print what a user should know, apart from the result."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
