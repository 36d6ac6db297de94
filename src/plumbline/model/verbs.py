"""What `plumbline merge`, `quantize` and `inspect-lora` print. Every function returns the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import EXIT_FINDINGS, EXIT_OK
from plumbline.model.inspect import Inspection, inspect
from plumbline.model.merge import MergeReport, merge
from plumbline.model.quantize import quantize
from plumbline.storage.text import next_command

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 10  # names of a list that are printed; --json has them all


def merge_verb(
    adapter: Path,
    output: Path,
    base: Path | None,
    alphas: Sequence[float],
    max_shard_size: str,
    dtype: str | None,
    verify: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Merge and say what came of it; several alphas make one folder each below `output`."""
    reports = []
    for alpha in alphas:
        with redirect_stdout(sys.stderr):  # libraries talk there, the result is ours alone
            report = merge(
                adapter,
                output if len(alphas) == 1 else output / f"alpha-{alpha:g}",
                base=base,
                alpha=alpha,
                max_shard_size=max_shard_size,
                dtype=dtype,
                verify=verify,
                overwrite=overwrite,
            )
        for note in report.notes:
            print(f"note: {note}", file=sys.stderr)
        if not as_json:
            _print_merge(report)
        reports.append(report.as_dict())
    if as_json:
        print(json.dumps(reports[0] if len(reports) == 1 else {"merged": reports}, ensure_ascii=False))
    return EXIT_OK


def _print_merge(report: MergeReport) -> None:
    checked = "not compared" if report.max_abs_logit_diff is None else f"{report.max_abs_logit_diff:.1e}"
    share = "" if report.alpha == 1 else f", {report.alpha:.0%} of the way from the base"
    print(f"{report.output}: {report.peft_type} of {report.adapter} merged into {report.base}{share}")
    print(f"  {report.files} file(s), {report.size / 1e9:.3f} GB, {report.dtype}, {report.seconds:.1f} s")
    print(f"  largest difference of a logit to base plus adapter: {checked}")
    print(next_command("infer", "--model", report.output, "--input", "val.jsonl", "--output", "captions.jsonl"))


def quantize_verb(model: Path, output: Path, method: str, overwrite: bool, as_json: bool) -> int:
    """Write the model in fewer bits and say how much smaller it is."""
    with redirect_stdout(sys.stderr):
        report = quantize(model, output, method, overwrite=overwrite)
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        sizes = f"{report.size_before / 1e9:.3f} GB became {report.size / 1e9:.3f} GB"
        print(f"{report.output}: {report.method} of {report.model}, {sizes}, {report.seconds:.1f} s")
        print("  compare its replies with those of the model before you deploy it")
    return EXIT_OK


def inspect_verb(checkpoint: Path, as_json: bool) -> int:
    """Print what is in an adapter; exit 3 when a tensor has NaN or Inf."""
    found = inspect(checkpoint)
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        _print_inspection(found)
    return EXIT_FINDINGS if found.not_finite else EXIT_OK


def _print_inspection(found: Inspection) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {escape(note)}")
    kind = " ".join((found.peft_type, *found.variants))
    targets = found.target_modules if isinstance(found.target_modules, str) else ", ".join(found.target_modules)
    console.print(f"{escape(str(found.folder))}: {kind}, rank {found.rank}, alpha {found.alpha}")
    console.print(f"base: {escape(found.base_model)}")
    console.print(f"targets: {escape(targets) or 'none'}")
    console.print(f"modules_to_save: {escape(', '.join(found.modules_to_save)) or 'none'}")
    console.print(_table(found))
    for title, names in (
        ("still at their start, they change nothing", found.unmoved),
        ("NaN or Inf", found.not_finite),
    ):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            console.print(f"{title} ({len(names)}): {escape(', '.join(names[:SHOWN]))}{more}")
    if found.card is None:
        console.print("card: none")
    else:
        card = found.card
        console.print(f"card: {card.mode}, {card.emit_norm}, order {card.object_ordering}, length {card.max_length}")


def _table(found: Inspection) -> Table:
    from rich.table import Table

    table = Table("part", "kind")
    for title in ("modules", "tensors", "parameters", "L2 norm"):
        table.add_column(title, justify="right")
    for row in found.groups:
        table.add_row(row.part, row.kind, str(row.modules), str(row.tensors), f"{row.parameters:,}", f"{row.norm:.4g}")
    return table
