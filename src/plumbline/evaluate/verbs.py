"""What `plumbline evaluate` prints. Returns the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from plumbline.errors import EXIT_FINDINGS, EXIT_OK
from plumbline.evaluate.figures import BOOTSTRAPS, Difference, Figure
from plumbline.evaluate.label_suspects import LabelSuspect, label_suspects
from plumbline.evaluate.matching import ERROR_KINDS
from plumbline.evaluate.run import Evaluation, Mode, compare_evaluations, evaluate_file
from plumbline.storage.files import write_atomically
from plumbline.storage.text import printable

OURS = "captions carry no confidence: F1 and the rest are ours; AP ties all scores, do not compare it with leaderboards"
_CLASSES = 20

_SUSPECTS = 10

Page = Callable[[Evaluation, "dict[str, Difference]", "Evaluation | None", Sequence[LabelSuspect]], Path]


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of one evaluation.

    Attributes:
        mode: `dense` or `summary`; found out when left out.
        against: Predictions of another model on the same pictures.
        limit: Only the first records.
        bootstraps: Draws of the intervals.
        output: JSON file of the result.
        min_f1: Least F1 at IoU 0.5 (dense) or over items (summary); below it the exit code is 3.
    """

    mode: Mode | None = None
    against: Path | None = None
    limit: int | None = None
    bootstraps: int = BOOTSTRAPS
    output: Path | None = None
    min_f1: float | None = None


def evaluate(
    truth: Path, predictions: Path, options: EvaluateOptions, page: Page | None = None, *, as_json: bool = False
) -> int:
    """Measure, print, and write what was wished for; 0, or 3 when the score is below `min_f1`."""
    found = evaluate_file(truth, predictions, mode=options.mode, limit=options.limit, bootstraps=options.bootstraps)
    differences: dict[str, Difference] = {}
    other = None
    if options.against is not None:
        other = evaluate_file(truth, options.against, mode=found.mode, limit=options.limit, bootstraps=0)
        differences = compare_evaluations(found, other, options.bootstraps)
    suspects = label_suspects(found, other) if found.mode == "dense" else []
    result = found.as_dict() | {
        "against": {name: asdict(each) for name, each in differences.items()},
        "label_suspects": [suspect.as_dict() for suspect in suspects],
    }
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    written = None if page is None else page(found, differences, other, suspects)
    if as_json:
        print(json.dumps(result, ensure_ascii=True))
    else:
        _print(found, differences, options)
        _print_suspects(suspects)
    for path in filter(None, (options.output, written)):
        print(f"written: {path}", file=sys.stderr)
    score = found.figures["f1_50" if found.mode == "dense" else "summary_item_f1"].value
    below = options.min_f1 is not None and (score is None or score < options.min_f1)
    if below:
        print(f"the score {_number(score)} is below --min-f1 {options.min_f1:g}", file=sys.stderr)
    return EXIT_FINDINGS if below else EXIT_OK


def _print(found: Evaluation, differences: dict[str, Difference], options: EvaluateOptions) -> None:
    console = Console(highlight=False)
    for note in found.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    print(f"{len(found.files.pairs):,} pictures, {found.mode} answers")
    console.print(_figure_table(found.figures))
    if found.mode == "dense":
        console.print(_budget_table(found))
        for dimension, title in (("class", "class"), ("kind", "geometry"), ("size", "size")):
            console.print(_group_table(dimension, title, found))
        print("COCO boxes: " + ", ".join(f"{name} {_number(value)}" for name, value in found.coco.items()))
        print(OURS)
    if differences:
        console.print(_difference_table(differences, options.against))


def _print_suspects(suspects: Sequence[LabelSuspect]) -> None:
    for suspect in suspects[:_SUSPECTS]:
        annotated = f"annotated {printable(suspect.annotated_desc, limit=60)}" if suspect.annotated_desc else "nothing"
        described = printable(suspect.described_desc, limit=60)
        print(f"label suspect ({suspect.kind}): {printable(suspect.place)}: {annotated}, described {described}")
    if len(suspects) > _SUSPECTS:
        print(f"and {len(suspects) - _SUSPECTS} more label suspects: see --html or --output")


def _figure_table(figures: dict[str, Figure]) -> Table:
    table = Table("figure", "value", "95 % interval")
    for name, figure in figures.items():
        if figure.value is not None and not name.startswith("gain_"):
            table.add_row(name, _number(figure.value), f"{_number(figure.low)} to {_number(figure.high)}")
    return table


def _budget_table(found: Evaluation) -> Table:
    """Errors by kind, and what mending each would gain."""
    from plumbline.evaluate.counts import COLUMN

    table = Table("error", "objects", "F1 gained if mended")
    sums = found.counts.sum(axis=0)
    for kind in sorted(ERROR_KINDS, key=lambda kind: -(found.figures[f"gain_{kind}"].value or 0)):
        table.add_row(kind, f"{int(sums[COLUMN[kind]]):,}", f"+{_number(found.figures[f'gain_{kind}'].value or 0.0)}")
    return table


def _group_table(dimension: str, title: str, found: Evaluation) -> Table:
    table = Table(title, "annotated", "found", "right", "F1")
    groups = found.groups.get(dimension, ())
    for group in groups[:_CLASSES]:
        numbers = (f"{number:,}" for number in (group.truth, group.found, group.right))
        table.add_row(printable(group.name, limit=40), *numbers, _number(group.f1))
    if len(groups) > _CLASSES:
        table.add_row(f"and {len(groups) - _CLASSES} more", "", "", "", "")
    return table


def _difference_table(differences: dict[str, Difference], against: Path | None) -> Table:
    table = Table(f"less {against}", "difference", "95 % interval", "p (Holm)", "")
    for name, each in ranked(differences):
        interval = f"{_number(each.low)} to {_number(each.high)}"
        table.add_row(
            name, f"{each.value:+.4f}", interval, f"{each.p:.3g}", "significant" if each.is_significant else ""
        )
    return table


def ranked(differences: dict[str, Difference]) -> Sequence[tuple[str, Difference]]:
    """Significant losses first, then significant gains, then the rest; each by its size."""

    def order(item: tuple[str, Difference]) -> tuple[bool, bool, float]:
        name, each = item
        return (not each.is_significant, not each.is_worse(name), -abs(each.value))

    return sorted(differences.items(), key=order)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
