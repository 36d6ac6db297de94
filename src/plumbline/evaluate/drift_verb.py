"""What `plumbline drift` does on the command line. Returns the exit code."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from plumbline.errors import EXIT_GATE, EXIT_OK
from plumbline.evaluate.drift import (
    CELLS,
    CellDrift,
    Margins,
    cells_of,
    domain_words,
    dumped,
    read_probes,
    result_of,
    score_probes,
)
from plumbline.infer.plan import find_weights
from plumbline.infer.questions import card_of
from plumbline.infer.verbs import progress_bar
from plumbline.storage.files import write_atomically
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
        gate: Exit 4 when a cell has drifted.
    """

    anchors: Path
    domain: Path | None = None
    output: Path | None = None
    margins: Margins = field(default_factory=Margins)
    max_new_tokens: int = 128
    limit: int | None = None
    image_roots: tuple[str, ...] = ()
    gate: bool = False


def drift(base: Path, tuned: Path, options: DriftOptions, *, as_json: bool = False) -> int:
    """Measure, print, write; 0, or 4 with `gate` when a cell has drifted."""
    folder, adapter, notes = find_weights(tuned, None)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    card = card_of(adapter or folder)
    probes = read_probes(options.anchors, options.domain, card, options.image_roots)
    if options.limit is not None:
        probes = [probe for name in CELLS for probe in [p for p in probes if p.cell == name][: options.limit]]
    words = domain_words(options.domain)
    with redirect_stdout(sys.stderr), progress_bar("probes", len(probes)) as advance:
        from plumbline.infer.local import TransformersEngine

        # An adapter on this very base serves both sides: no second model is loaded.
        theirs = None if adapter is not None and folder.resolve() == base.resolve() else TransformersEngine(base)
        mine = TransformersEngine(folder, adapter, max_pixels=card.max_pixels)
        scores = list(score_probes(probes, theirs or mine, mine, words, options.max_new_tokens, advance))
    cells = cells_of(scores, options.margins)
    result = result_of(cells, scores, options.margins)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, dumped(result))
        print(f"written: {options.output}", file=sys.stderr)
    if as_json:
        print(json.dumps(result, ensure_ascii=True))
    else:
        Console(highlight=False).print(_table(cells))
        for score in [score for score in scores if score.leak][:SHOWN]:
            print(f"leak: {printable(score.key, limit=60)}: {printable(score.leak)}: {printable(score.text, limit=80)}")
    return EXIT_GATE if options.gate and result["drifted"] else EXIT_OK


def _table(cells: list[CellDrift]) -> Table:
    table = Table("probes", "number", "KL, nats per token", "", "leaks", "")
    for cell in cells:
        kl = f"{cell.kl.value:.4f} ({cell.kl.low:.4f} to {cell.kl.high:.4f})"
        leak = "" if cell.leak is None else f"{cell.leak.value:.3f} ({cell.leak.low:.3f} to {cell.leak.high:.3f})"
        verdicts = ("expected to move", "") if cell.name == "domain" else (cell.kl_verdict, cell.leak_verdict or "")
        table.add_row(CELLS[cell.name], str(cell.probes), kl, verdicts[0], leak, verdicts[1])
    return table
