"""What `plumbline infer` does on the command line. Returns the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from plumbline.data.contract import build_record
from plumbline.errors import EXIT_OK, ConfigError, Problem
from plumbline.infer.anchors import AnchorReport, AnchorSettings, build_anchors, plan_anchors
from plumbline.infer.caption_run import OnCaption, run_captions
from plumbline.infer.config import InferSettings
from plumbline.infer.open_engine import open_engine
from plumbline.infer.plan import CaptionPlan, plan_captions
from plumbline.infer.questions import QuestionPlan, is_question, plan_questions, run_questions
from plumbline.infer.runner import QUARANTINE_SUFFIX, RunReport
from plumbline.storage.rows import read_rows
from plumbline.storage.text import next_command, printable

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 5
TERMINAL = Path("-")
"""The output of somebody who wants to read one reply, not to keep it."""

Draw = Callable[["Image.Image", Any], "Image.Image"]


def infer(settings: InferSettings, draw_folder: Path | None, draw: Draw, as_json: bool, dry_run: bool) -> int:
    """Plan, print the plan, run, print the result. draw: (picture, objects) -> picture."""
    asks = is_question(settings)
    if asks and draw_folder is not None:
        raise ConfigError(Problem("--draw", "the replies are text: there is nothing to draw", "leave it out"))
    if settings.output == TERMINAL and not dry_run:
        return _ask_once(settings, as_json) if asks else _describe(settings, draw_folder, draw, as_json)
    plan = plan_questions(settings) if asks else plan_captions(settings)
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    if dry_run:
        print(json.dumps(plan.as_dict(), ensure_ascii=False) if as_json else _plan_line(plan))
        return EXIT_OK
    things = "questions" if asks else "pictures"
    with redirect_stdout(sys.stderr), progress_bar(things, len(plan.todo)) as advance:
        # Libraries talk there, the result is ours alone.
        report = _run(plan, None if draw_folder is None else overlays(draw_folder, draw), advance)
    print_report(report, things, as_json)
    if isinstance(plan, CaptionPlan) and settings.input.suffix == ".jsonl" and not (as_json or report.interrupted):
        print(next_command("evaluate", settings.input, report.output, "--html", report.output.with_suffix(".html")))
    if draw_folder is not None:
        print(f"pictures with their objects: {draw_folder}", file=sys.stderr)
    return report.exit_code


def anchors(settings: AnchorSettings, as_json: bool, dry_run: bool) -> int:
    """Ask the base, write the anchors, and say how they are used."""
    plan = plan_anchors(settings)
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    if dry_run:
        print(json.dumps(plan.as_dict()) if as_json else f"{len(plan.items)} questions to {plan.model}")
        return EXIT_OK
    with redirect_stdout(sys.stderr), progress_bar("questions", len(plan.items)) as advance:
        report, made = build_anchors(settings, plan, lambda: open_engine(plan), advance)
    if made is None or not as_json:
        print_report(report, "questions", as_json)
    if made is None:
        return report.exit_code
    if as_json:
        print(json.dumps(report.as_dict() | made.as_dict(), ensure_ascii=False))
    else:
        _print_anchors(settings, made)
    return report.exit_code


def _print_anchors(settings: AnchorSettings, made: AnchorReport) -> None:
    kept = ", ".join(f"{count} {name}" for name, count in made.kept.items()) or "none"
    print(f"{settings.run.output}: {made.kept.total()} anchors ({kept}), {made.val} of them for validation")
    for reason, count in made.left_out.most_common():
        print(f"left out: {count} {printable(reason)}")
    if not made.kept:
        print("no anchor is left: try a larger --max-new-tokens, or another model", file=sys.stderr)
        return
    roots = [str(folder.resolve()) for folder in (*settings.photos, *(file.parent for file in settings.training))]
    val = f", val_jsonl: {settings.val}" if settings.val is not None else ""
    print("Next: add to the run's YAML\n\ncustom:")
    if roots:
        print(f"  image_roots: [{', '.join(dict.fromkeys(roots))}]")
    source = f"{{name: anchors, role: anchor, train_jsonl: {settings.run.output}{val}, token_share: 0.2}}"
    print(f"  fusion:\n    sources:\n      - {source}")


def _run(plan: CaptionPlan | QuestionPlan, on_caption: OnCaption | None, advance: Callable[[int], None]) -> RunReport:
    if isinstance(plan, QuestionPlan):
        return run_questions(plan, lambda: open_engine(plan), advance)
    return run_captions(plan, lambda: open_engine(plan), on_caption, advance)


def _ask_once(settings: InferSettings, as_json: bool) -> int:
    """One question for somebody who looks on: the reply as it is written."""
    with TemporaryDirectory() as scratch:
        plan = plan_questions(replace(settings, output=Path(scratch) / "answers.jsonl"))
        _check_single(len(plan.items), "questions")
        written = _Typed()
        with redirect_stdout(sys.stderr):
            report = run_questions(plan, lambda: open_engine(plan, None if as_json else written))
        rows = list(read_rows(plan.run_options.rows_path))
    return report.exit_code if report.interrupted else _show_row(rows[0], written, as_json, report.exit_code)


def _describe(settings: InferSettings, draw_folder: Path | None, draw: Draw, as_json: bool) -> int:
    """One picture for somebody who looks on: the reply as it is written, then what was read out of it."""
    with TemporaryDirectory() as scratch:
        plan = plan_captions(replace(settings, output=Path(scratch) / "captions.jsonl"))
        _check_single(len(plan.items), "pictures")
        on_caption = None if draw_folder is None else overlays(draw_folder, draw)
        written = _Typed()
        with redirect_stdout(sys.stderr):
            on_text = None if as_json else written
            report = run_captions(plan, lambda: open_engine(plan, on_text), on_caption)
        rows = list(read_rows(plan.run_options.rows_path))
    if report.interrupted:
        return report.exit_code
    (row,) = rows
    code = _show_row(row, written, as_json, report.exit_code)
    if not as_json:
        print(f"{row['status']}: {len(row['objects'])} objects in {row['width']} x {row['height']}", file=sys.stderr)
    return code


def _check_single(count: int, things: str) -> None:
    if count != 1:
        what = f"there are {count} {things}, and no file to write to"
        raise ConfigError(Problem("--output", what, "name one, or --limit 1"))


def _show_row(row: Mapping[str, Any], written: _Typed, as_json: bool, code: int) -> int:
    """The rest of a reply that was written as it came, or the whole row as JSON; returns `code`."""
    if as_json:
        print(json.dumps(row, ensure_ascii=False))
        return code
    written(row["text"])  # engines that do not write as they go
    print()
    for problem in row["problems"]:
        print(f"  {printable(problem)}", file=sys.stderr)
    return code


class _Typed:
    """Writes a growing text to the terminal, each part once; what a terminal would obey is shown escaped."""

    def __init__(self) -> None:
        self._out, self._length = sys.stdout, 0

    def __call__(self, text: str) -> None:
        whole = text.rstrip("\ufffd")  # a character whose last bytes are still to come
        self._out.write(printable(whole[self._length :], keep="\n"))
        self._out.flush()
        self._length = max(self._length, len(whole))


def overlays(folder: Path, draw: Draw) -> OnCaption:
    """A callback that saves each picture with its objects under its key, as PNG (`a.png`, but `a.jpg.png`)."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(Problem("--draw", f"{folder} is a file", "name a folder"))

    def save(row: Mapping[str, Any], picture: Image.Image) -> None:
        name = safe_name(row["key"])
        path = folder / (name if name.lower().endswith(".png") else f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(picture, build_record({"objects": row["objects"]}, row["key"], 0).objects).save(path)

    return save


def safe_name(key: str) -> str:
    """A key as a relative path that stays below the folder it is put in."""
    steps = [step for step in key.replace("\\", "/").replace(":", "_").split("/") if step not in ("", ".", "..")]
    return "/".join(steps) or "picture"


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on a terminal's standard error; elsewhere nothing is printed."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn

    class Rate(TextColumn):
        """Items per second."""

        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: Task) -> Any:
            from rich.text import Text

            return Text(f"{task.speed:,.2f}/s" if task.speed else "")

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as progress:
        task = progress.add_task(name, total=total)
        yield lambda count: progress.advance(task, count)


def print_report(report: RunReport, things: str, as_json: bool) -> None:
    """Print the result: one JSON object, or a line per fact."""
    for warning in report.warnings:
        print(f"note: {printable(warning)}", file=sys.stderr)
    for failure in report.failures[:SHOWN]:
        print(f"failed: {printable(failure)}", file=sys.stderr)
    if report.errors > SHOWN:
        quarantine = report.output.name + QUARANTINE_SUFFIX
        print(f"failed: {report.errors} in all, see {quarantine}", file=sys.stderr)
    if report.unreadable:
        print(f"failed: none of the replies could be read: {printable(report.unreadable)}", file=sys.stderr)
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(report.statuses.items())) or "no rows"
        known = f" ({report.cached} known replies)" if report.cached else ""
        print(f"{report.output}: {counts} of {report.items} {things}; {report.written} written now{known}")
    if report.interrupted:
        print("interrupted between two rows: the same command goes on from here", file=sys.stderr)
    if report.over_budget:
        print("stopped: more errors than --max-error-rate allows; the same command goes on", file=sys.stderr)


def _plan_line(plan: CaptionPlan | QuestionPlan) -> str:
    tuned = f" with {plan.adapter}" if plan.adapter else ""
    done = f", {plan.done.total()} of them done" if plan.done else ""
    if isinstance(plan, QuestionPlan):
        return f"{len(plan.items)} questions{done} to {plan.model}{tuned}"
    return f"{len(plan.items)} pictures{done}; {plan.mode} answers in {plan.card.emit_norm} from {plan.model}{tuned}"
