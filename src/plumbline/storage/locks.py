"""Locks between processes, next to the file that they guard; that of a killed process is free at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from plumbline.errors import Problem, UserError

LOCK_SUFFIX = ".lock"


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Nobody else writes to `output` inside the block; UserError names who does."""
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(output)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        holder = Path(lock.lock_file).read_text("utf-8", "replace")[:200].strip() or "another process"
        what = f"is being written by {holder}"
        raise UserError(Problem(str(output), what, "wait for it, or name another --output")) from error
    try:
        Path(lock.lock_file).write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


@contextmanager
def waiting_for(file: Path) -> Iterator[None]:
    """Wait until nobody else is inside such a block of `file`."""
    with _lock(file):
        yield


def _lock(file: Path) -> FileLock:
    return FileLock(file.with_name(file.name + LOCK_SUFFIX), mode=0o644)
