"""The report of one training run: `report.html` in its folder, made from what the run left there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markupsafe import Markup

from plumbline.errors import DamagedFileError
from plumbline.model.checkpoints import checkpoint_folders, is_complete
from plumbline.report.charts import COLOURS, ChartLine, curve_svg
from plumbline.report.html import number, render_page, write_page
from plumbline.report.log import RunLog, read_log
from plumbline.storage.objects import JsonObject, read_json_object

REPORT_FILE = "report.html"
_TERMS = {
    "loss": "whole objective",
    "sft_loss": "cross-entropy",
    "llm_kd_loss": "distance to the teacher (weighted)",
    "vision_kd_loss": "distance of the visual features (weighted)",
}


@dataclass(frozen=True)
class RunChart:
    """A titled chart of a page."""

    title: str
    svg: Markup


_ANCHORED = {"train/llm_kd_loss", "train/vision_kd_loss"}
"""Curves of which a distillation run has at least one."""


def write_run_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a training run's folder and return its path.

    Shows curves, metrics, checkpoints, data, versions and the resolved configuration; what the run did not leave is
    named as missing. Raises DamagedFileError when the folder has no logging.jsonl.
    """
    folder = Path(run_folder)
    log = read_log(folder / "logging.jsonl")
    context = {
        "name": folder.resolve().name,
        "kind": "distillation (GKD)" if log.curves.keys() & _ANCHORED else "supervised fine-tuning",
        "steps": log.steps,
        "planned_steps": log.planned_steps,
        "unreadable": log.unreadable,
        "figures": _figures(log),
        "charts": list(loss_charts(log)) + list(_other_charts(log)),
        "metrics": [_metric(log, name) for name in log.metric_names()],
        "checkpoints": [{"name": path.name, "complete": is_complete(path)} for path in checkpoint_folders(folder)],
        "documents": _documents(folder),
    }
    return write_page(folder / REPORT_FILE, render_page("run.html", context))


def loss_charts(log: RunLog) -> Iterator[RunChart]:
    """One chart per loss term that was logged, training and evaluation together."""
    for term, title in _TERMS.items():
        lines = paired_lines(log, term)
        if lines:
            yield RunChart(f"{term}: {title}", curve_svg(lines))


def paired_lines(log: RunLog, term: str) -> list[ChartLine]:
    """`train/<term>` and `eval/<term>` where they were logged."""
    lines = []
    if log.values(f"train/{term}"):
        lines.append(ChartLine("train", log.curves[f"train/{term}"], COLOURS[0]))
    if log.values(f"eval/{term}"):
        lines.append(ChartLine("eval", log.curves[f"eval/{term}"], COLOURS[1], "points"))
    return lines


def _other_charts(log: RunLog) -> Iterator[RunChart]:
    if lines := paired_lines(log, "token_acc"):
        yield RunChart("token_acc: share of answer tokens guessed right", curve_svg(lines))
    plain: tuple[tuple[str, str, Literal["exact", "noisy"]], ...] = (
        ("learning_rate", "learning rate", "exact"),
        ("grad_norm", "gradient norm", "noisy"),
    )
    for name, title, style in plain:
        if log.values(name):
            yield RunChart(title, curve_svg([ChartLine(name, log.curves[name], COLOURS[2], style)]))


def _figures(log: RunLog) -> list[dict[str, str]]:
    """The numbers at the top of the page; only those that the run logged."""
    loss, accuracy = log.values("train/loss") or log.values("loss"), log.values("eval/token_acc")
    found = [
        ("training loss, first → last", f"{loss[0]:.3g} → {loss[-1]:.3g}" if loss else None),
        ("evaluation loss, last", _last(log.values("eval/loss"))),
        ("evaluation token accuracy, last", f"{accuracy[-1]:.1%}" if accuracy else None),
        ("answer tokens per step, mean", _mean(log.values("train/token_count"))),
        ("seconds per step", _last(log.values("train_speed(s/it)"))),
        ("peak memory, GiB", _last(log.values("memory(GiB)"))),
        ("steps left out as not finite", _sum(log.values("train/nonfinite_steps"))),
        ("answer tokens without a finite loss, last evaluation with any", _last(log.values("eval/nonfinite_tokens"))),
    ]
    return [{"label": label, "value": value} for label, value in found if value is not None]


def _last(values: Sequence[float]) -> str | None:
    return number(values[-1]) if values else None


def _sum(values: Sequence[float]) -> str | None:
    return number(sum(values)) if values else None


def _mean(values: Sequence[float]) -> str | None:
    return number(sum(values) / len(values)) if values else None


def _metric(log: RunLog, name: str) -> JsonObject:
    values = log.values(name)
    first, last, lowest, highest = (values[0], values[-1], min(values), max(values)) if values else (None,) * 4
    return {"name": name, "first": first, "last": last, "lowest": lowest, "highest": highest, "count": len(values)}


def _documents(folder: Path) -> list[JsonObject]:
    """The run's own papers; `text` is None where the file is missing."""
    papers = (
        ("Data", "data_manifest.json", _data_text),
        ("Versions", "versions.json", _versions_text),
        ("Resolved configuration", "resolved.yaml", lambda path: path.read_text(encoding="utf-8", errors="replace")),
    )
    return [
        {
            "title": title,
            "file": file,
            "open": False,
            "text": read(folder / file) if (folder / file).is_file() else None,
        }
        for title, file, read in papers
    ]


def _versions_text(path: Path) -> str:
    try:
        return "\n".join(f"{name:14} {value}" for name, value in read_json_object(path).items())
    except DamagedFileError as error:
        return str(error)


def _data_text(path: Path) -> str:
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return "\n".join(
            f"{entry['file']}\n  records {entry.get('records', '–')}, pictures {len(entry['images'])}, "
            f"sha256 {entry['sha256']}"
            for entry in files
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"cannot be read: {error}"
