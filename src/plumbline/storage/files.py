"""Files that appear whole or not at all: a temporary name, fsync, rename."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from plumbline.errors import writing
from plumbline.storage.text import shown_path


@contextmanager
def replacing(path: str | Path) -> Iterator[TextIO]:
    """A text stream that becomes `path` at the end of the block; a reader sees the old file or the whole new one.

    On any error what was there before stays. Raises OutputError when the file cannot be written.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with writing(shown_path(path)):
            with draft.open("w", encoding="utf-8", newline="\n") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(target)
            flush(target.parent)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text; see `replacing`."""
    with replacing(path) as stream:
        stream.write(text)


def write_lines(path: str | Path, lines: Iterable[str]) -> int:
    """Write lines of text and return their number; see `replacing`."""
    count = 0
    with replacing(path) as stream:
        for line in lines:
            stream.write(f"{line}\n")
            count += 1
    return count


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
