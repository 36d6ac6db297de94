"""What `plumbline data check`, `stats`, `split`, `sample` and `merge` print. Text from files is printed escaped."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from plumbline.data.check import Check, CheckOptions
from plumbline.data.findings import Finding
from plumbline.data.images import ImagePolicy
from plumbline.data.merge import merge_files
from plumbline.data.sample import sample_file
from plumbline.data.split import SplitSettings, split_file
from plumbline.data.stats import collect_stats
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, ConfigError, Problem
from plumbline.storage.text import next_command, printable, shown_path

EXAMPLES = 12
"""Findings of each rule that a gallery shows."""
_CLASSES_NAMED = 10
_SHOWN = 100
"""Findings printed as text by default; the table below them counts all."""


@dataclass(frozen=True)
class Checked:
    """What a check found. examples: by code, the first EXAMPLES findings; counts: by code, all of them."""

    files: Sequence[str]
    records: int
    counts: Mapping[str, int]
    examples: Mapping[str, Sequence[Finding]]
    policy: ImagePolicy


def options_of(images: bool, image_roots: Sequence[Path], limit: int | None) -> CheckOptions:
    """What the command line says about a check."""
    return CheckOptions(images=images, limit=limit, policy=ImagePolicy(roots=tuple(map(str, image_roots))))


def check(
    files: Sequence[Path],
    options: CheckOptions,
    *,
    max_report: int | None = None,
    gallery: Callable[[Checked], None] | None = None,
    as_json: bool = False,
) -> int:
    """Print the findings of `files`; 0 when there are none, 3 otherwise.

    max_report: findings listed (0: only counts); None lists 100 as text and all as JSON. gallery: gets what was found.
    """
    run = Check(files, options)
    most = max_report if max_report is not None else None if as_json else _SHOWN
    listed: list[Finding] = []
    counts: Counter[str] = Counter()
    examples: dict[str, list[Finding]] = {}
    for finding in _with_progress(run):
        counts[finding.code] += 1
        if counts[finding.code] <= EXAMPLES:
            examples.setdefault(finding.code, []).append(finding)
        if most is None or len(listed) < most:
            listed.append(finding)
    if gallery is not None:
        gallery(Checked(run.files, run.records, counts, examples, options.policy))
    if as_json:
        _print_check_json(run, listed, counts)
    else:
        _print_check_text(run, listed, counts)
    return EXIT_FINDINGS if counts else EXIT_OK


def stats(file: Path, *, top: int = 20, as_json: bool = False) -> int:
    """Print what `file` holds; `top` classes and sizes."""
    counted = collect_stats(file)
    if as_json:
        print(json.dumps({"file": str(file), **counted.as_dict(top)}, ensure_ascii=False))
        return EXIT_OK
    row = counted.as_dict(top)
    print(
        f"{counted.records:,} records, {counted.images:,} images, {counted.objects:,} objects, "
        f"{counted.chats:,} chats, {counted.negatives:,} negatives (objects: []), summary on {row['summary_share']:.0%}"
    )
    _print_counts("Geometry", row["kinds"])
    _print_counts("Objects per record", row["objects_per_record"])
    _print_counts("Levels of desc", row["levels"])
    _print_counts(f"Classes (of {row['distinct']['classes']:,})", row["classes"])
    _print_counts(f"Picture sizes (of {row['distinct']['sizes']:,})", row["sizes"])
    return EXIT_OK


def split(settings: SplitSettings, *, overwrite: bool, dry_run: bool, as_json: bool) -> int:
    """Write the parts of a file and print what they hold. Raises ConfigError for a part that is there already."""
    if not dry_run:
        _refuse_to_replace(settings.shares, overwrite)
    with counting("pictures read") as progress:
        report = split_file(settings, dry_run=dry_run, progress=progress)
    if as_json:
        print(json.dumps(report.as_dict() | {"written": not dry_run}, ensure_ascii=True))
        return EXIT_OK
    for name, count in report.records.items():
        print(f"{printable(name)}: {count:,} records")
    print(
        f"{report.clusters:,} sets of records that share no picture, near-duplicate or group; {report.linked:,} "
        f"records are linked with another one, at most {report.largest:,} of them together"
    )
    for name, counts in list(report.classes.items())[:_CLASSES_NAMED]:
        held = ", ".join(f"{count} in {part}" for part, count in counts.items())
        print(f"note: {printable(name, limit=60)}: {printable(held)}", file=sys.stderr)
    if len(report.classes) > _CLASSES_NAMED:
        print(f"note: and {len(report.classes) - _CLASSES_NAMED} more classes that a part lacks", file=sys.stderr)
    if not dry_run:
        print(next_command("data", "check", *settings.shares, "--images"))
    return EXIT_OK


def sample(file: Path, count: int, output: Path, seed: int, *, overwrite: bool, as_json: bool) -> int:
    """Write a sample of a file and print what it holds."""
    _refuse_to_replace([output], overwrite)
    report = sample_file(file, count, output, seed)
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=True))
        return EXIT_OK
    print(f"{printable(str(output))}: {report.sampled:,} of {report.records:,} records")
    lost = [name for name, (mine, _) in report.classes.items() if not mine]
    for name in lost[:_CLASSES_NAMED]:
        print(f"note: no record with {printable(name, limit=60)} was drawn", file=sys.stderr)
    if len(lost) > _CLASSES_NAMED:
        print(f"note: and none of {len(lost) - _CLASSES_NAMED} more classes", file=sys.stderr)
    print(next_command("data", "stats", output))
    return EXIT_OK


def merge(files: Sequence[Path], output: Path, roots: Sequence[Path], *, overwrite: bool, as_json: bool) -> int:
    """Write several files as one and print how many records each brought."""
    _refuse_to_replace([output], overwrite)
    report = merge_files(files, output, roots)
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=True))
        return EXIT_OK
    for name, count in report.records.items():
        print(f"{printable(name)}: {count:,} records")
    repeated = f", {report.repeated:,} left out that were there already" if report.repeated else ""
    print(f"{printable(str(output))}: {report.written:,} records{repeated}")
    print(next_command("data", "check", output, "--images"))
    return EXIT_OK


def _refuse_to_replace(outputs: Iterable[Path], overwrite: bool) -> None:
    there = [path for path in outputs if path.exists()]
    if there and not overwrite:
        raise ConfigError(Problem(shown_path(there[0]), "is there already", "--overwrite, or name another file"))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A line on stderr that counts, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console

    total = 0
    with Console(stderr=True).status(what) as status:

        def add(count: int) -> None:
            nonlocal total
            total += count
            status.update(f"{total:,} {what}")

        yield add


def _with_progress(run: Check) -> Iterator[Finding]:
    """The findings of `run`; on a terminal a line on stderr shows the progress."""
    if not sys.stderr.isatty():
        yield from run.findings()
        return
    from rich.console import Console

    with Console(stderr=True).status("checking") as status:
        for found, finding in enumerate(run.findings(), start=1):
            status.update(f"checking: {run.records:,} records, {found:,} findings")
            yield finding


def _print_counts(title: str, counts: Mapping[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("value", title=title, title_justify="left")
    table.add_column("count", justify="right")
    for value, count in counts.items():
        table.add_row(printable(value), f"{count:,}")
    Console(highlight=False, markup=False, emoji=False).print(table)


def _print_check_json(run: Check, listed: Sequence[Finding], counts: Counter[str]) -> None:
    row = {
        "files": run.files,
        "records": run.records,
        "findings": counts.total(),
        "by_code": dict(counts.most_common()),
        "notes": run.notes(),
        "items": [finding.as_dict() for finding in listed],
    }
    print(json.dumps(row, ensure_ascii=True))


def _print_check_text(run: Check, listed: Sequence[Finding], counts: Counter[str]) -> None:
    for finding in listed:
        print(printable(str(finding.problem()), keep="\n") + f"  [{finding.code}]")
    hidden = counts.total() - len(listed)
    if hidden:
        print(f"... and {hidden:,} more (--max-report)")
    if counts:
        _print_counts("Findings", dict(counts.most_common()))
    for note in run.notes():
        print(f"note: {printable(note)}")
    total = counts.total()
    print(f"{run.records:,} record{'' if run.records == 1 else 's'}, {total:,} finding{'' if total == 1 else 's'}")
