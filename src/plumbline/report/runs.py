"""`plumbline runs`: every training run below some folders, with what one wants to know before choosing one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from plumbline.errors import EXIT_OK, DamagedFileError, Problem, UserError
from plumbline.model.checkpoints import checkpoint_folders
from plumbline.report.film import leak_line, read_answers
from plumbline.report.log import read_log
from plumbline.report.run import best_of
from plumbline.storage.text import duration, printable

LOG, RESOLVED = "logging.jsonl", "resolved.yaml"
_DEEP = 6
"""Folders below a given one that are searched."""


@dataclass(frozen=True)
class RunLine:
    """One run.

    Attributes:
        folder: Where it lies.
        is_finished: Whether its last planned step was logged.
        steps: Logged so far.
        planned: Steps in all.
        loss: Of the last logged window of training.
        best: Name of the best checkpoint, where the run chose one.
        score: What it was chosen by.
        metric: The name of that.
        drift: Last forward KL from the base, nats per token.
        leaks: Share of its last answers to anchors that hold the domain.
        checkpoints: How many there are.
        size: Of the folder, in bytes.
        updated: When it last logged, seconds since 1970.
    """

    folder: str
    is_finished: bool
    steps: int
    planned: int
    loss: float | None
    best: str | None
    score: float | None
    metric: str | None
    drift: float | None
    leaks: float | None
    checkpoints: int
    size: int
    updated: float

    @classmethod
    def of(cls, folder: Path) -> RunLine:
        """Raises DamagedFileError for a log that cannot be read."""
        log, checkpoints = read_log(folder / LOG), checkpoint_folders(folder)
        best, leaks = best_of(checkpoints), leak_line(read_answers(folder))
        return cls(
            str(folder),
            0 < log.planned_steps <= log.steps,
            log.steps,
            log.planned_steps,
            _last(log.values("train/loss")),
            None if best is None else best.name,
            None if best is None else best.value,
            None if best is None else best.metric,
            _last(log.values("eval/drift")),
            None if leaks is None else _last(leaks.curve.finite),
            len(checkpoints),
            sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()),
            (folder / LOG).stat().st_mtime,
        )


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None


def find_runs(roots: Sequence[Path]) -> tuple[list[RunLine], list[str]]:
    """(the runs below some folders, newest first; what could not be read)."""
    found, notes = [], []
    for folder in run_folders(roots):
        try:
            found.append(RunLine.of(folder))
        except (DamagedFileError, OSError) as error:
            notes.append(f"{folder}: {error}")
    return sorted(found, key=lambda line: -line.updated), notes


def run_folders(roots: Sequence[Path]) -> Iterator[Path]:
    """The folders of the runs below some folders. Raises UserError for one that is not there."""
    for root in roots:
        if not root.is_dir():
            raise UserError(Problem(str(root), "no such folder", "name the folder that runs are written to"))
        yield from _run_folders(root, _DEEP)


def _run_folders(folder: Path, deep: int) -> Iterator[Path]:
    """Folders with a log and a configuration; nothing is looked for inside of one."""
    if (folder / LOG).is_file() and (folder / RESOLVED).is_file():
        yield folder
    elif deep:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                yield from _run_folders(inner, deep - 1)


def list_runs(roots: Sequence[Path], *, as_json: bool) -> int:
    """Print every run, newest first."""
    lines, notes = find_runs(roots)
    if as_json:
        print(json.dumps({"runs": [asdict(line) for line in lines], "notes": notes}, ensure_ascii=True))
        return EXIT_OK
    for line in lines:
        ago = duration(max(0.0, time.time() - line.updated))
        state = f"finished, {line.steps} steps" if line.is_finished else f"{line.steps} of {line.planned} steps"
        print(f"{printable(line.folder)}: {state}, {ago} ago")
        print(f"  {', '.join(_facts(line))}")
    for note in notes:
        print(f"note: {printable(note)}")
    if not lines:
        print(f"no run lies below {', '.join(map(str, roots))}")
    return EXIT_OK


def _facts(line: RunLine) -> Iterator[str]:
    for name, value in (("loss", line.loss), ("drift", line.drift), ("leaks", line.leaks)):
        if value is not None:
            yield f"{name} {value:.4g}"
    if line.score is not None:
        yield f"best {line.best} ({line.metric} {line.score:.4g})"
    yield f"{line.checkpoints} checkpoint{'' if line.checkpoints == 1 else 's'}, {line.size / 1e6:,.0f} MB"
