"""Several training runs on one page: curves over each other, and only what their configurations have different."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from plumbline.errors import DamagedFileError, Problem
from plumbline.report.charts import COLOURS, ChartLine, curve_svg
from plumbline.report.html import number, render_page
from plumbline.report.log import RunLog, read_log
from plumbline.report.run import RunChart
from plumbline.report.runs import LOG, RESOLVED, RunLine
from plumbline.storage.objects import MAX_JSON_BYTES, JsonObject
from plumbline.storage.text import printable

_CURVES = {
    "train/loss": ("loss in training", "noisy"),
    "eval/loss": ("loss in validation", "points"),
    "eval/drift": ("drift: forward KL from the base, nats per token", "points"),
}
_NOT_COMPARED = ("training.output_dir", "training.logging_dir")


def render_comparison(lines: Sequence[RunLine], links: Mapping[str, str] | None = None) -> str:
    """The page.

    Args:
        lines: The runs, in the order in which they are shown.
        links: Folder -> address of its own report, where it is served.

    Raises DamagedFileError for a configuration that cannot be read.
    """
    folders = [Path(line.folder) for line in lines]
    logs = [read_log(folder / LOG) for folder in folders]
    names = _names(folders)
    context = {
        "runs": [
            _row(line, name, COLOURS[place % len(COLOURS)], (links or {}).get(line.folder, ""))
            for place, (line, name) in enumerate(zip(lines, names, strict=True))
        ],
        "charts": list(_charts(logs, names)),
        "names": [printable(name) for name in names],
        "differences": list(_differences([read_settings(folder) for folder in folders])),
    }
    return render_page("compare.html", context)


def _names(folders: Sequence[Path]) -> list[str]:
    """What tells the folders apart: their paths without what they have in common."""
    if len(folders) == 1:
        return [folders[0].resolve().name]
    common = os.path.commonpath([folder.resolve().parent for folder in folders])
    return [folder.resolve().relative_to(common).as_posix() for folder in folders]


def _row(line: RunLine, name: str, colour: str, link: str) -> JsonObject:
    best = "" if line.score is None else f"{number(line.score)} ({line.metric}) at {line.best}"
    return {
        "name": printable(name),
        "colour": colour,
        "link": link,
        "state": "finished" if line.is_finished else f"{line.steps} of {line.planned} steps",
        "loss": number(line.loss),
        "best": printable(best),
        "drift": number(line.drift),
        "leaks": number(line.leaks),
    }


def _charts(logs: Sequence[RunLog], names: Sequence[str]) -> Iterator[RunChart]:
    for name, (title, style) in _CURVES.items():
        curves = [
            ChartLine(printable(run), log.curves[name], COLOURS[place % len(COLOURS)], style)  # type: ignore[arg-type]
            for place, (log, run) in enumerate(zip(logs, names, strict=True))
            if log.values(name)
        ]
        if curves:
            yield RunChart(title, curve_svg(curves))


def read_settings(folder: Path) -> dict[str, str]:
    """The resolved configuration of a run, `section.key` -> value as text."""
    path = folder / RESOLVED
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("it is too long")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DamagedFileError(Problem(str(path), f"cannot be read: {error}")) from error
    return dict(_flat(content, "")) if isinstance(content, dict) else {}


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _differences(settings: Sequence[Mapping[str, str]]) -> Iterator[JsonObject]:
    for key in sorted({key for own in settings for key in own} - set(_NOT_COMPARED)):
        values = [own.get(key, "–") for own in settings]
        if len(set(values)) > 1:
            yield {"key": printable(key), "values": [printable(value, limit=120) for value in values]}
