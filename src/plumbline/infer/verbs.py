"""What `plumbline infer` does on the command line. Returns the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import EXIT_OK, ConfigError, Problem
from plumbline.infer.captions import CaptionRow
from plumbline.infer.config import InferSettings
from plumbline.infer.plan import Plan, plan_captions
from plumbline.infer.runner import CaptionReport, OnCaption, run_captions

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 5

Draw = Callable[["Image.Image", Any], "Image.Image"]


def infer(settings: InferSettings, draw_folder: Path | None, draw: Draw, as_json: bool, dry_run: bool) -> int:
    """Plan, tell the plan, run, tell the result. draw: (picture, objects) -> picture."""
    plan = plan_captions(settings)
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    if dry_run:
        print(json.dumps(plan.as_dict(), ensure_ascii=False) if as_json else _plan_line(plan))
        return EXIT_OK
    on_caption = None if draw_folder is None else overlays(draw_folder, draw)
    with redirect_stdout(sys.stderr), progress_bar(plan) as advance:  # libraries talk there, the result is ours alone
        report = run_captions(plan, make_engine(plan), on_caption, advance) if plan.todo else finished(plan)
    tell(report, as_json)
    return report.exit_code


def finished(plan: Plan) -> CaptionReport:
    """The report of a run that has nothing left to do, so that no model is loaded."""
    return CaptionReport(plan.items, plan.settings.output, plan.done)


def make_engine(plan: Plan) -> Any:
    """The engine of a plan; this is where torch and the weights are loaded."""
    from plumbline.infer.engine import TransformersEngine

    return TransformersEngine(
        plan.model,
        plan.adapter,
        sampling=plan.settings.sampling,
        batch_size=plan.settings.batch_size,
        max_pixels=plan.card.max_pixels,
    )


def overlays(folder: Path, draw: Draw) -> OnCaption:
    """A callback that saves each picture with its objects under its key, as PNG (`a.png`, but `a.jpg.png`)."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(Problem("--draw", f"{folder} is a file", "name a folder"))

    def save(row: CaptionRow, picture: Image.Image) -> None:
        name = safe_name(row.key)
        path = folder / (name if name.lower().endswith(".png") else f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(picture, row.objects).save(path)

    return save


def safe_name(key: str) -> str:
    """A key as a relative path that stays below the folder it is put in."""
    steps = [step for step in key.replace("\\", "/").replace(":", "_").split("/") if step not in ("", ".", "..")]
    return "/".join(steps) or "picture"


@contextmanager
def progress_bar(plan: Plan) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error; elsewhere nothing is printed."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("captions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("captions", total=plan.items, completed=plan.done.total())
        yield lambda count: progress.advance(task, count)


def tell(report: CaptionReport, as_json: bool) -> None:
    """Print the result: one JSON object, or a line per fact."""
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for failure in report.failures[:SHOWN]:
        print(f"failed: {failure}", file=sys.stderr)
    if len(report.failures) > SHOWN:
        print(f"failed: and {len(report.failures) - SHOWN} more, see the rows whose status is error", file=sys.stderr)
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(report.statuses.items())) or "no rows"
        print(f"{report.output}: {counts} of {report.images} pictures; {report.written} written now")
    if report.interrupted:
        print("interrupted between two rows: the same command goes on from here", file=sys.stderr)


def _plan_line(plan: Plan) -> str:
    tuned = f" with {plan.adapter}" if plan.adapter else ""
    done = f", {plan.done.total()} of them done" if plan.done else ""
    return f"{plan.items} pictures{done}; {plan.mode} answers in {plan.card.emit_norm} from {plan.model}{tuned}"
