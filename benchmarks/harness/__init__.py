"""What every benchmark shares: its options, how figures are printed and kept, and runs in a fresh process."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

RESULTS = Path(__file__).parents[1] / "results"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--json` and `--save`; the module's docstring is its help."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    made.add_argument("--save", action="store_true", help="keep the figures under benchmarks/results/")
    return made


def show(figures: Figures, options: argparse.Namespace, lines: str | None = None) -> None:
    """Print the figures, as `lines` instead where a person reads them; keep them with `--save`."""
    if options.save:
        print(f"kept as {save(figures)}", file=sys.stderr)
    if options.json:
        print(json.dumps(figures))
    else:
        print(lines or "\n".join(f"{key}: {value}" for key, value in figures.items()))


def fresh_process(script: str, *words: object) -> Figures:
    """The JSON object that a script prints in a fresh process."""
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr[-4000:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def save(figures: Figures) -> str:
    """Write the figures with their command, date, hardware and commit; the newest of a command replaces the older.

    Returns the file's name below `benchmarks/results/`.
    """
    RESULTS.mkdir(exist_ok=True)
    hardware = hardware_class()
    words = [Path(sys.argv[0]).stem, *(word for word in sys.argv[1:] if word not in ("--json", "--save"))]
    path = RESULTS / f"{_slug('-'.join([*words, hardware]))}.json"
    made = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "hardware": hardware,
        "commit": _commit(),
        "figures": figures,
    }
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return path.name


def hardware_class() -> str:
    """The CUDA device's name, or the number of cores and the architecture."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{len(os.sched_getaffinity(0))} {platform.machine()} cores"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()


def _slug(text: str) -> str:
    letters = "".join(letter if letter.isalnum() or letter == "_" else "-" for letter in text.lower())
    return "-".join(filter(None, letters.split("-")))
