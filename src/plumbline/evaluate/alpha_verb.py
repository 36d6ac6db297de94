"""`plumbline merge --alpha auto`: measure, print the curve, choose."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.table import Table

from plumbline.data.read import read_lines
from plumbline.errors import EXIT_GATE, Problem, UserError
from plumbline.evaluate.choose_alpha import AlphaPoint, choose_alpha, points_of
from plumbline.infer.verbs import progress_bar


class BeyondBudgetError(UserError):
    """Every share of the fine-tune drifts too far."""

    exit_code = EXIT_GATE


def auto_alpha(adapter: Path, base: Path | None, probe: Path | None, domain: Path | None, budget: float) -> float:
    """The share to merge. Raises UserError without the two files, BeyondBudgetError when no share is within budget."""
    if probe is None or domain is None:
        what = "auto weighs drift against the domain"
        raise UserError(Problem("--alpha", what, "give --probe anchors_val.jsonl and --domain val.jsonl"))
    total = sum(1 for file in (probe, domain) for _ in read_lines(file))
    with redirect_stdout(sys.stderr), progress_bar("probes", total) as advance:
        points = points_of(adapter, base, probe, domain, advance)
    chosen = choose_alpha(points, budget)
    Console(stderr=True, highlight=False).print(_table(points, chosen))
    if chosen is None:
        what = (
            f"even {points[0].alpha:g} drifts by {points[0].drift:.4f} nats per token, above the budget of {budget:g}"
        )
        raise BeyondBudgetError(Problem("--drift-budget", what, "raise it, or train with anchors"))
    return chosen.alpha


def _table(points: list[AlphaPoint], chosen: AlphaPoint | None) -> Table:
    table = Table("alpha", "drift, nats per token", "loss on the domain", "")
    for point in points:
        table.add_row(
            f"{point.alpha:g}", f"{point.drift:.4f}", f"{point.loss:.4f}", "chosen" if point is chosen else ""
        )
    return table
