"""How far a phase before training is: a bar on a terminal, a line in a log when it took a while."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

logger = logging.getLogger(__name__)

WORTH_A_LINE = 2.0
"""Seconds after which a phase is worth a line where there is no bar."""


@contextmanager
def phase(name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A named phase; yields what takes the number of things done so far. total: None where it is not known."""
    began = time.monotonic()
    shown = sys.stderr.isatty()
    with Progress(disable=not shown, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)
    if not shown and (seconds := time.monotonic() - began) > WORTH_A_LINE:
        logger.info("%s: %.1f s", name, seconds)
