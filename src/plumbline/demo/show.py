"""What the demonstration prints while it works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from plumbline.storage.text import duration

_LINE_EVERY_S = 15.0


class Advance(Protocol):
    """Shows the progress of a stage: `done` of `total`, with a few words."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Show:
    """Writes to standard error, so that standard output stays free for results."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.is_terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """One plain line; brackets in it are text."""
        self.console.print(text, markup=False, soft_wrap=True)

    def reused(self, title: str) -> None:
        """Say that a stage of an earlier run is used as it is."""
        self.say(f"✓ {title}: done before, reused")

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """Show a stage while it runs and its time when it ends well."""
        begun = time.perf_counter()
        with self._bar(title) if self.is_terminal else self._lines(title) as advance:
            yield advance
        self.say(f"✓ {title}: {duration(time.perf_counter() - begun)}")

    @contextmanager
    def _bar(self, title: str) -> Iterator[Advance]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=None, note="")

            def advance(done: int, total: int, note: str = "") -> None:
                progress.update(task, completed=done, total=total, note=note)

            yield advance

    @contextmanager
    def _lines(self, title: str) -> Iterator[Advance]:
        self.say(f"… {title}")
        last, shown = time.perf_counter(), -1

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal last, shown
            if done != shown and time.perf_counter() - last >= _LINE_EVERY_S:
                last, shown = time.perf_counter(), done
                self.say(f"    {done}/{total} {note}".rstrip())

        yield advance
