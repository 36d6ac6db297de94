"""Recorded replies in the place of a model: for tests, and to judge again what was said before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import DataError, Problem
from plumbline.infer.engine import Reply, Request
from plumbline.storage.rows import read_recorded

UNKNOWN = "replay"
"""Error of a request that nothing was recorded for."""


class ReplayEngine:
    """Answers by key. recorded: text or whole reply of each."""

    def __init__(self, recorded: Mapping[str, str | Reply], identity: str = "replay"):
        self._recorded = recorded
        self._identity = identity

    @classmethod
    def of_rows(cls, path: Path) -> ReplayEngine:
        """From a file of rows with `key` and `text`, such as captions; rows that are errors are left out."""
        rows = (row for row in read_recorded(path) if not row["status"].startswith("error:"))
        return cls({row["key"]: _text(row, path) for row in rows}, f"replay of {path.name}")

    @property
    def identity(self) -> str:
        return self._identity

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """In the order of the requests."""
        for request in requests:
            found = self._recorded.get(request.key)
            if isinstance(found, str):
                yield Reply(request.key, found)
            elif found is None:
                yield Reply(request.key, error=UNKNOWN, detail="no reply is recorded under this key")
            else:
                yield found


def _text(row: Mapping[str, Any], path: Path) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise DataError(Problem(str(path), f"the row {row['key']!r} has no text"))
    return text
