"""An append-only JSONL of rows with a key each: whole rows only, repaired when a writer was killed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from plumbline.errors import DamagedFileError, DataError, OutputError, Problem
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject

TORN_SUFFIX = ".torn"
Found = TypeVar("Found")


class RowFile:
    """Appends rows to `path`, one write per row, flushed by `sync`. A context manager."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        os.close(self._descriptor)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; an interrupt of the process falls before or after it."""
        data = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            fix = "make room; the same command goes on, and sets a row that was cut aside"
            raise OutputError(Problem(str(self._path), f"cannot be written: {error.strerror}", fix)) from error

    def sync(self) -> None:
        """Wait until the rows are on the disk."""
        os.fsync(self._descriptor)


def set_torn_line_aside(path: Path) -> Path | None:
    """Move a last line without its end into `<path>.torn` and return that path; None when the file ends well."""
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size == 0:
            return None
        stream.seek(size - 1)
        if stream.read(1) == b"\n":
            return None
        start = last_line_start(stream, size)
        stream.seek(start)
        torn = path.with_name(path.name + TORN_SUFFIX)
        with torn.open("ab") as aside:
            aside.write(stream.read() + b"\n")
        stream.truncate(start)
    return torn


def last_line_start(stream: Any, size: int, block: int = 1 << 16) -> int:
    """Offset just behind the last line end of a binary stream of `size` bytes."""
    end = size
    while end > 0:
        begin = max(0, end - block)
        stream.seek(begin)
        found = stream.read(end - begin).rfind(b"\n")
        if found >= 0:
            return int(begin + found + 1)
        end = begin
    return 0


class _RowHead(msgspec.Struct):
    """What every row has."""

    key: str
    status: str


_HEADS = msgspec.json.Decoder(_RowHead)


def read_heads(path: Path) -> Iterator[tuple[str, str]]:
    """(key, status) of the whole rows of a file: `read_rows` at a fifth of the price; raises as it does."""
    return _read(path, _head)


def read_rows(path: Path) -> Iterator[JsonObject]:
    """The whole rows of a file; a last line without its end is torn and left out.

    Raises DamagedFileError with the number of a line that is not a row with a key and a status.
    """
    return _read(path, _row)


def read_recorded(path: Path) -> Iterator[JsonObject]:
    """As `read_rows`, from a file that others may have written: a row without a status is `ok`.

    Raises DataError for a line that is not a row, and for a file that is not there.
    """
    if not path.is_file():
        raise DataError(Problem(str(path), "no such file", "name a JSONL with `key` and `text`"))
    try:
        yield from _read(path, lambda line: _row(line, {"status": "ok"}))
    except DamagedFileError as error:
        raise DataError(error.problems) from error


def _head(line: bytes) -> tuple[str, str]:
    head = _HEADS.decode(line)
    line.decode()  # texts that are passed over are not looked at
    return head.key, head.status


def _row(line: bytes, missing: Mapping[str, Any] = MappingProxyType({})) -> JsonObject:
    row: JsonObject = {**missing, **json.loads(line)}
    if not isinstance(row.get("key"), str) or not isinstance(row.get("status"), str):
        raise ValueError("it has no key or no status")
    return row


def _read(path: Path, decode: Callable[[bytes], Found]) -> Iterator[Found]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                found = decode(line)
            except (msgspec.MsgspecError, ValueError, AttributeError, TypeError, RecursionError) as error:
                what = f"is not a row: {error}"
                raise DamagedFileError(Problem(f"{path}:{number}", what, "mend the line, or start over")) from error
            yield found


class Statuses:
    """The statuses of rows, by their keys; keys are held as UTF-8, which takes half of a Chinese text's memory."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def keep(self, key: str, status: str) -> None:
        """Add a row."""
        self._known[_packed(key)] = sys.intern(status)

    def find(self, key: str) -> str | None:
        """The status of the row of that key; None where there is none."""
        return self._known.get(_packed(key)) if self._known else None


def _packed(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def drop_rows(path: Path, unwanted: Callable[[str], bool]) -> int:
    """Rewrite the file atomically without the rows whose status is unwanted, if there are any; returns their number."""
    count = sum(unwanted(status) for _, status in read_heads(path))
    if count:
        write_lines(
            path, (json.dumps(row, ensure_ascii=False) for row in read_rows(path) if not unwanted(row["status"]))
        )
    return count
