"""Reading a training run's logging.jsonl back into curves."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.errors import DamagedFileError, Problem
from plumbline.storage.objects import JsonObject


@dataclass(frozen=True)
class Curve:
    """One logged number over the optimiser steps, in order; values are finite or NaN where the run logged none."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def finite(self) -> tuple[float, ...]:
        """The values without NaN and infinity."""
        return tuple(value for value in self.values if math.isfinite(value))


@dataclass(frozen=True)
class RunLog:
    """What a run logged: curves by name, and lines that could not be read (a torn last line does not count)."""

    curves: dict[str, Curve] = field(default_factory=dict)
    steps: int = 0
    planned_steps: int = 0
    unreadable: tuple[int, ...] = ()

    def values(self, name: str) -> tuple[float, ...]:
        """Finite values of a curve; empty when it was never logged."""
        return self.curves[name].finite if name in self.curves else ()

    def metric_names(self) -> list[str]:
        """Names with the prefix `train/` or `eval/`, sorted."""
        return sorted(name for name in self.curves if name.startswith(("train/", "eval/")))


def read_log(path: str | Path) -> RunLog:
    """Read logging.jsonl; where a step was logged twice (a resumed run) the later line wins.

    Raises DamagedFileError when the file is not there.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise DamagedFileError(
            Problem(str(path), f"the run's log cannot be read: {error.strerror}", "give a training run's folder")
        ) from error
    points: dict[str, dict[int, float]] = {}
    unreadable, last, planned = [], 0, 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(line)
        if row is None:
            if number < len(lines):
                unreadable.append(number)
            continue
        step, total = _progress(row)
        if step is None:
            continue
        last, planned = max(last, step), max(planned, total)
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                points.setdefault(name, {})[step] = float(value)
    curves = {name: _curve(name, series) for name, series in points.items()}
    return RunLog(curves, last, planned, tuple(unreadable))


def _row(line: str) -> JsonObject | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _progress(row: JsonObject) -> tuple[int | None, int]:
    """(step, planned steps) of a row that has them: the log writes `"global_step/max_steps": "3/40"`."""
    step, _, total = str(row.get("global_step/max_steps", "")).partition("/")
    return (int(step), int(total)) if step.isdecimal() and total.isdecimal() else (None, 0)


def _curve(name: str, series: dict[int, float]) -> Curve:
    steps = sorted(series)
    return Curve(name, tuple(steps), tuple(series[step] for step in steps))
