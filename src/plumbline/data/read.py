"""Reading and writing JSONL: one line at a time, bounded, strict, with file:line for everything that is wrong."""

from __future__ import annotations

import codecs
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from plumbline.data.contract import build_record, build_records, find_breaches
from plumbline.data.findings import Findings, data_error
from plumbline.data.record import Record, record_to_mapping
from plumbline.errors import DataError, Problem
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown, shown_path

MAX_LINE_BYTES = 64 * 1024 * 1024
BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One physical line that is not blank.

    data: without line end and BOM, None when it was longer than allowed; size: bytes in the file, line end included.
    """

    number: int
    offset: int
    data: bytes | None
    is_ended: bool
    size: int = 0


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of a JSONL file, one at a time.

    Args:
        path: The file, in UTF-8.

    Yields:
        A record per line that is not blank; coordinates in pixels.

    Raises:
        DataError: The file cannot be opened, or a line breaks the contract: with every problem of the first such line.
    """
    for line in read_lines(path):
        yield parse_record(line, str(path))


def parse_record(line: Line, file: str) -> Record:
    """The record of one line; DataError with all its problems."""
    raw, found = collect_findings(line, file)
    if found:
        raise data_error(found)
    return build_record(raw, file, line.number)


def read_lines(path: str | Path) -> Iterator[Line]:
    """The lines of a file that are not blank; DataError when it cannot be opened or is not a file."""
    with open_data(path) as stream:
        number = offset = 0
        while data := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            start, size = offset, len(data)
            offset += size
            is_ended = data.endswith(b"\n")
            if len(data) > MAX_LINE_BYTES and not is_ended:
                offset += _skip_line(stream)
                yield Line(number, start, None, True)
                continue
            if number == 1:
                data = data.removeprefix(BOM)
            data = data.strip(b" \t\r\n")
            if data:
                yield Line(number, start, data, is_ended, size)


def open_data(path: str | Path, *, is_xml: bool = False) -> BufferedReader:
    """The file, open for reading bytes; DataError when that cannot be. is_xml: it names its own encoding."""
    try:
        if not Path(path).is_file():
            what = "is not a file" if Path(path).exists() else "no such file"
            raise DataError(Problem(shown_path(path), what, "give the path of a JSONL file"))
        with Path(path).open("rb") as stream:
            encoding = None if is_xml else wide_encoding(stream.read(4))
        if encoding is not None:
            fix = f"convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(shown_path(path))} > NEW_FILE"
            raise DataError(Problem(shown_path(path), f"this file is {encoding}, not UTF-8", fix))
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        raise DataError(Problem(shown_path(path), f"cannot be opened: {error}")) from error


def _not_utf8(data: bytes, error: UnicodeDecodeError, file: str) -> tuple[str, str]:
    """(what a line is instead of UTF-8, what to do)."""
    what, command = (
        f"byte {error.start} of the line is not UTF-8",
        f"-t UTF-8 {shlex.quote(shown_path(file))} > NEW_FILE",
    )
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return what, f"save the file as UTF-8: iconv -f ITS_ENCODING {command}"
    return f"{what}; it can be read as GB18030 (GBK)", f"convert it: iconv -f GB18030 {command}"


def wide_encoding(head: bytes) -> str | None:
    """The encoding of two or four bytes a character that a file begins in; None for any other."""
    for mark, encoding in ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32")):
        if head.startswith(mark):
            return encoding
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if len(head) == 4 and head[1] == head[3] == 0 and head[0] and head[2]:
        return "UTF-16LE"
    if len(head) == 4 and head[0] == head[2] == 0 and head[1] and head[3]:
        return "UTF-16BE"
    return None


def _skip_line(stream: BufferedReader) -> int:
    skipped = 0
    while data := stream.readline(1 << 20):
        skipped += len(data)
        if data.endswith(b"\n"):
            break
    return skipped


def parse_line(line: Line, file: str) -> tuple[Any, Findings]:
    """The JSON value of a line, and what is wrong with it as JSON (the value is None when it cannot be read)."""
    found = Findings(file, line.number)
    if line.data is None:
        found.add(
            "line-too-long", "", f"longer than {MAX_LINE_BYTES} bytes", "keep pictures in files, not in the JSONL"
        )
        return None, found
    try:
        return _loads(line.data, found), found
    except UnicodeDecodeError as error:
        found.add("not-utf8", "", *_not_utf8(line.data, error, file))
    except json.JSONDecodeError as error:
        _add_json_error(error, line, found)
    except (_NotJsonError, ValueError) as error:  # ValueError: a number of thousands of digits
        found.add("not-json", "", str(error))
    except RecursionError:
        found.add("too-deep", "", "nested too deeply to be a record")
    return None, found


class _NotJsonError(ValueError):
    """A value that JSON does not have, or a key that is there twice."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotJsonError(f"{name} is not a JSON number")


_FAST = msgspec.json.Decoder()
_KEY_END = re.compile(rb'"\s*:')


def reload(lines: Iterable[bytes], file: str, numbers: Sequence[int]) -> list[Record]:
    """The records of lines that `collect_findings` has passed before; nothing is checked again."""
    return build_records(map(_decoded, lines, repeat(file), numbers), file, numbers)


def _decoded(data: bytes, file: str, number: int) -> Any:
    try:
        return _FAST.decode(data)
    except msgspec.DecodeError:  # the standard decoder accepts a little more
        return parse_line(Line(number, 0, data, True), file)[0]


def _loads(data: bytes, found: Findings) -> Any:
    """The value of `data`; a key that occurs twice in one object is a finding (its last value is taken).

    Every pair has a quote and a colon, so data with as many of them as the value has keys repeats no key. Where the
    counts differ (a colon behind a quote inside a string will do), and for everything that the fast decoder refuses,
    the standard one reads again, pair by pair: slower, and with the better words.
    """
    try:
        value = _FAST.decode(data)
        if len(_KEY_END.findall(data)) == _key_count(value):
            return value
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    strict = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_Pairs(found))
    return strict.decode(data.decode("utf-8"))


def _key_count(value: Any) -> int:
    """The number of keys in a record and in the objects one level below; deeper ones are left to the second reading."""
    if not isinstance(value, dict):
        return -1
    count = len(value)
    for child in value.values():
        if isinstance(child, list):
            count += sum([len(item) for item in child if isinstance(item, dict)])
        elif isinstance(child, dict):
            count += len(child)
    return count


@dataclass(frozen=True)
class _Pairs:
    found: Findings

    def __call__(self, pairs: list[tuple[str, Any]]) -> JsonObject:
        plain = dict(pairs)
        if len(plain) != len(pairs):
            for key, count in Counter(key for key, _ in pairs).items():
                if count > 1:
                    self.found.add("duplicate-key", "", f"the key {shown(key)} occurs {count} times", "keep one")
        return plain


def _add_json_error(error: json.JSONDecodeError, line: Line, found: Findings) -> None:
    data = line.data or b""
    if not line.is_ended:
        fix = "the file was cut while it was written: complete or remove this line"
        found.add("torn-line", "", f"the last line is incomplete ({error.msg}, column {error.colno})", fix)
    elif b"\0" in data:
        found.add("not-json", "", f"NUL byte in column {data.index(0) + 1}", "the file is damaged or not text")
    else:
        found.add("not-json", "", f"{error.msg}, column {error.colno}", "one JSON object per line")


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Write records as JSONL; the file appears whole or not at all.

    Args:
        path: The file, replaced if it exists.
        records: In the order of the lines.

    Returns:
        The number of records.

    Raises:
        OutputError: The file cannot be written.
    """
    return write_lines(path, (json.dumps(record_to_mapping(record), ensure_ascii=False) for record in records))


def collect_findings(line: Line, file: str) -> tuple[Any, Findings]:
    """The JSON value of a line and everything in it that breaks the contract."""
    raw, found = parse_line(line, file)
    if raw is not None or not found:
        find_breaches(raw, found)
    return raw, found
