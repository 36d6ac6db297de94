"""What `plumbline drift` does on the command line. Returns the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from plumbline.data.prompts import Prompts
from plumbline.errors import EXIT_GATE, EXIT_OK
from plumbline.evaluate.drift import (
    CELLS,
    CellDrift,
    Margins,
    Probe,
    ProbeScore,
    cells_of,
    domain_words,
    dumped,
    read_probes,
    result_of,
    score_probes,
)
from plumbline.evaluate.tasks.questions import Task, bundled_tasks, read_tasks
from plumbline.evaluate.tasks.scores import TaskAnswer, TaskScore, answer_tasks, score_tasks
from plumbline.infer.plan import find_weights
from plumbline.infer.questions import card_of
from plumbline.infer.verbs import progress_bar
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import printable

SHOWN = 10


@dataclass(frozen=True)
class DriftOptions:
    """Options of `plumbline drift`.

    Attributes:
        anchors: The base's answers, `anchors build --val`.
        domain: Records of the domain: the trained question, and the words that leak.
        output: JSON file of the result.
        margins: What still counts as the same.
        max_new_tokens: Of the tuned model's own answers.
        limit: Most probes of each cell.
        image_roots: Where pictures may lie.
        gate: Exit 4 when a cell or a group of tasks has drifted.
        task_files: Questions with known answers, in addition to those that ship.
        bundled_tasks: Whether those that ship are answered.
        page: HTML file of the result.
    """

    anchors: Path
    domain: Path | None = None
    output: Path | None = None
    margins: Margins = field(default_factory=Margins)
    max_new_tokens: int = 128
    limit: int | None = None
    image_roots: tuple[str, ...] = ()
    gate: bool = False
    task_files: tuple[Path, ...] = ()
    bundled_tasks: bool = True
    page: Path | None = None


DrawPage = Callable[
    [Path, tuple[Path, Path], Sequence[Probe], Sequence[ProbeScore], Sequence[TaskAnswer], JsonObject], Path
]


def drift(base: Path, tuned: Path, options: DriftOptions, draw: DrawPage, *, as_json: bool = False) -> int:
    """Measure, print, write; 0, or 4 with `gate` when a cell has drifted. draw: writes the page."""
    folder, adapter, notes = find_weights(tuned, None)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    card = card_of(adapter or folder)
    probes = read_probes(options.anchors, options.domain, card, options.image_roots)
    if options.limit is not None:
        probes = [probe for name in CELLS for probe in [p for p in probes if p.cell == name][: options.limit]]
    tasks, absent = tasks_of(options, card.prompts)
    for note in absent:
        print(f"note: {note}", file=sys.stderr)
    words = domain_words(options.domain)
    with redirect_stdout(sys.stderr), progress_bar("probes", len(probes) + 2 * len(tasks)) as advance:
        from plumbline.infer.local import TransformersEngine

        # An adapter on this very base serves both sides: no second model is loaded.
        theirs = None if adapter is not None and folder.resolve() == base.resolve() else TransformersEngine(base)
        mine = TransformersEngine(folder, adapter, max_pixels=card.max_pixels)
        scores = list(score_probes(probes, theirs or mine, mine, words, options.max_new_tokens, advance))
        answers = answer_tasks(tasks, theirs or mine, mine, advance)
    cells, task_scores = cells_of(scores, options.margins), score_tasks(answers, options.margins.tasks)
    result = result_of(cells, scores, task_scores, options.margins)
    _write(options, (base, tuned), probes, scores, answers, result, draw)
    if as_json:
        print(json.dumps(result, ensure_ascii=True))
    else:
        _show(cells, task_scores, scores)
    return EXIT_GATE if options.gate and result["drifted"] else EXIT_OK


def tasks_of(options: DriftOptions, prompts: Prompts) -> tuple[list[Task], list[str]]:
    """The tasks to be answered, at most `limit` of each group, and what could not be used."""
    found, notes = bundled_tasks() if options.bundled_tasks else ([], [])
    for path in options.task_files:
        found += read_tasks(path, options.image_roots, prompts)
    if options.limit is None:
        return found, notes
    groups = dict.fromkeys(task.group for task in found)
    return [task for name in groups for task in [t for t in found if t.group == name][: options.limit]], notes


def _write(
    options: DriftOptions,
    models: tuple[Path, Path],
    probes: Sequence[Probe],
    scores: Sequence[ProbeScore],
    answers: Sequence[TaskAnswer],
    result: JsonObject,
    draw: DrawPage,
) -> None:
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, dumped(result))
        print(f"written: {options.output}", file=sys.stderr)
    if options.page is not None:
        draw(options.page, models, probes, scores, answers, result)
        print(f"written: {options.page}", file=sys.stderr)


def _show(cells: Sequence[CellDrift], tasks: Sequence[TaskScore], scores: Sequence[ProbeScore]) -> None:
    console = Console(highlight=False)
    console.print(_table(cells))
    if tasks:
        console.print(_task_table(tasks))
    for score in [score for score in scores if score.leak][:SHOWN]:
        print(f"leak: {printable(score.key, limit=60)}: {printable(score.leak)}: {printable(score.text, limit=80)}")


def _task_table(tasks: Sequence[TaskScore]) -> Table:
    table = Table("questions with known answers", "number", "base", "fine-tune", "difference", "")
    for task in tasks:
        apart = f"{task.tuned - task.base:+.3f} ({task.low:+.3f} to {task.high:+.3f})"
        name = printable(task.group, limit=40)
        table.add_row(name, str(task.tasks), f"{task.base:.3f}", f"{task.tuned:.3f}", apart, task.verdict)
    return table


def _table(cells: Sequence[CellDrift]) -> Table:
    table = Table("probes", "number", "KL, nats per token", "noise", "", "leaks", "")
    for cell in cells:
        kl = f"{cell.kl.value:.4f} ({cell.kl.low:.4f} to {cell.kl.high:.4f})"
        leak = "" if cell.leak is None else f"{cell.leak.value:.3f} ({cell.leak.low:.3f} to {cell.leak.high:.3f})"
        verdicts = ("expected to move", "") if cell.name == "domain" else (cell.kl_verdict, cell.leak_verdict or "")
        table.add_row(CELLS[cell.name], str(cell.probes), kl, f"{cell.noise:.1e}", verdicts[0], leak, verdicts[1])
    return table
