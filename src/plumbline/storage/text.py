"""Text: what a terminal may be given, durations, and one spelling for texts that are the same to a reader."""

from __future__ import annotations

import re
import shlex
import unicodedata
from functools import lru_cache
from pathlib import Path


def printable(text: str, keep: str = "", limit: int | None = None) -> str:
    """Text with everything escaped that a terminal might obey.

    keep: characters that stay as they are. limit: longest part of `text` that is shown, in characters.
    """
    if limit is not None and len(text) > limit:
        return f"{printable(text[:limit], keep)}..."
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def shown(value: object, limit: int = 60) -> str:
    """A value from a file, quoted, cut and escaped."""
    text = printable(repr(value))
    return text if len(text) <= limit else f"{text[:limit]}..."


def shown_path(path: str | Path) -> str:
    """A path as text that is safe to print."""
    return printable(str(path))


def duration(seconds: float) -> str:
    """Seconds for people: `0.4 s`, `48 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


@lru_cache(65536)
def next_command(*words: object) -> str:
    """`Next: plumbline ...`, the last line of a verb: ready to copy into a shell."""
    return f"Next: plumbline {shlex.join(str(word) for word in words)}"


def normalised(text: str) -> str:
    """Without the difference of full and half width marks, and of spaces."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()
