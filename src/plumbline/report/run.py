"""The report of one training run: `report.html` in its folder, made from what the run left there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markupsafe import Markup

from plumbline.errors import DamagedFileError
from plumbline.model.checkpoints import checkpoint_folders, is_complete
from plumbline.report.charts import COLOURS, ChartLine, curve_svg
from plumbline.report.film import RunAnswers, film_strips, last_probes, leak_line, read_answers
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
    """Write `report.html` into a training run's folder and return its path; see `render_run_report`."""
    return write_page(Path(run_folder) / REPORT_FILE, render_run_report(run_folder))


def render_run_report(run_folder: str | Path) -> str:
    """The report of a training run.

    Shows curves, metrics, checkpoints, data, versions and the resolved configuration; what the run did not leave is
    named as missing. Raises DamagedFileError when the folder has no logging.jsonl.
    """
    folder = Path(run_folder)
    log, answers = read_log(folder / "logging.jsonl"), read_answers(folder)
    checkpoints = checkpoint_folders(folder)
    best = best_of(checkpoints)
    context = {
        "name": folder.resolve().name,
        "kind": "distillation (GKD)" if log.curves.keys() & _ANCHORED else "supervised fine-tuning",
        "steps": log.steps,
        "planned_steps": log.planned_steps,
        "unreadable": log.unreadable,
        "figures": _figures(log),
        "charts": [*loss_charts(log), *_drift_charts(log, answers), *_other_charts(log)],
        "strips": list(film_strips(answers)),
        "probes": last_probes(answers),
        "unreadable_answers": answers.unreadable,
        "best": best,
        "commands": next_commands(folder, best, has_drift=bool(log.values("eval/drift"))),
        "metrics": [_metric(log, name) for name in log.metric_names()],
        "checkpoints": [{"name": path.name, "complete": is_complete(path)} for path in checkpoints],
        "documents": _documents(folder),
    }
    return render_page("run.html", context)


@dataclass(frozen=True)
class BestCheckpoint:
    """The checkpoint that a run calls its best, and by what."""

    name: str
    metric: str
    value: float
    step: int


def best_of(checkpoints: Sequence[Path]) -> BestCheckpoint | None:
    """As the last whole checkpoint has it in `trainer_state.json`; None where the run did not choose, or it is gone."""
    for checkpoint in reversed([path for path in checkpoints if is_complete(path)]):
        try:
            state = read_json_object(checkpoint / "trainer_state.json")
            best, value = Path(str(state["best_model_checkpoint"])).name, float(state["best_metric"])
            step = int(best.rpartition("-")[2])
        except (DamagedFileError, KeyError, TypeError, ValueError):
            return None
        if best not in {path.name for path in checkpoints}:
            return None
        return BestCheckpoint(best, _metric_of(state, step, value), value, step)
    return None


def _metric_of(state: JsonObject, step: int, value: float) -> str:
    """The name that was logged with this value at this step, ours before upstream's."""
    logged = [line for line in state.get("log_history", []) if isinstance(line, dict) and line.get("step") == step]
    names = [name for line in logged for name, each in line.items() if name.startswith("eval") and each == value]
    return next((name for name in names if "/" in name), names[0] if names else "the chosen metric")


def next_commands(folder: Path, best: BestCheckpoint | None, *, has_drift: bool) -> list[tuple[str, str]]:
    """(what for, command), ready to copy."""
    model = shlex.quote(str(folder / best.name if best is not None else folder))
    rows = shlex.quote(str(folder / "captions.jsonl"))
    found = [
        ("describe the validation pictures", f"plumbline infer --model {model} --input val.jsonl --output {rows}"),
        ("measure them", f"plumbline evaluate val.jsonl {rows} --html {shlex.quote(str(folder / 'evaluation.html'))}"),
    ]
    if not has_drift:
        build = (
            "plumbline anchors build --model BASE --training train.jsonl --output anchors.jsonl --val anchors_val.jsonl"
        )
        found.append(("let the base answer other questions", build))
    found.append(
        ("see what was forgotten", f"plumbline drift BASE {model} --anchors anchors_val.jsonl --domain val.jsonl")
    )
    merged = shlex.quote(f"{folder}-merged")
    return [*found, ("merge it into its base", f"plumbline merge --adapter {model} --output {merged}")]


def _drift_charts(log: RunLog, answers: RunAnswers) -> Iterator[RunChart]:
    """How far the run is from its base: divergence on the probes, and leaks in its own answers."""
    names = [name for name in log.metric_names() if name.startswith("eval/drift/")] or ["eval/drift"]
    lines = [
        ChartLine(name.removeprefix("eval/"), log.curves[name], COLOURS[number % len(COLOURS)], "points")
        for number, name in enumerate(names)
        if log.values(name)
    ]
    if lines:
        yield RunChart("drift: forward KL from the base, nats per token", curve_svg(lines))
    if (leaks := leak_line(answers)) is not None:
        yield RunChart("leaks: share of the answers to anchors that hold the domain", curve_svg([leaks]))


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
        ("memory(GiB)", "GPU memory, GiB", "exact"),
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
