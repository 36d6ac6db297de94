"""Annotations and predictions by picture: one `Pair` each, every picture accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbline.data.contract import build_record, find_breaches
from plumbline.data.findings import Findings, data_error
from plumbline.data.read import parse_line, read_lines, read_records
from plumbline.data.record import DataObject, Record
from plumbline.errors import DataError, Problem
from plumbline.infer.inputs import picture_keys
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown, shown_path

_SHOWN = 3
NO_ROW = "missing"
"""Status of a picture that the predictions have no row for."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture.

    Attributes:
        key: Of its row in the predictions.
        image: Its name in the annotations.
        place: `file:line` of its record.
        size: (width, height) in pixels; (0, 0) where neither side has it.
        truth: Annotated objects.
        found: Predicted objects.
        status: `ok`, `invalid`, `error:<kind>`, or `missing` without a row.
        text: The reply.
        problems: What of it could not be read.
        summary: Annotated summary, where there is one.
    """

    key: str
    image: str
    place: str
    size: tuple[int, int]
    truth: tuple[DataObject, ...]
    found: tuple[DataObject, ...]
    status: str = "ok"
    text: str = ""
    problems: tuple[str, ...] = ()
    summary: str | None = None

    @property
    def diagonal(self) -> float:
        """Of the picture in pixels; without a size, of what is annotated and found on it."""
        if self.size != (0, 0):
            return float((self.size[0] ** 2 + self.size[1] ** 2) ** 0.5)
        corners = [item.shape.bounds() for item in (*self.truth, *self.found)]
        return max((float((x2**2 + y2**2) ** 0.5) for _, _, x2, y2 in corners), default=0.0)


@dataclass(frozen=True)
class PairedFile:
    """Both sides.

    Attributes:
        pairs: In the order of the annotations.
        truth: The annotations' path.
        predictions: The predictions' path.
        left_out: Records that are no single picture, by why.
        extra: Keys of rows whose picture is not annotated.
    """

    pairs: tuple[Pair, ...]
    truth: Path
    predictions: Path
    left_out: Counter[str] = field(default_factory=Counter)
    extra: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Pictures without a row."""
        return sum(pair.status == NO_ROW for pair in self.pairs)


def pair_files(truth: Path, predictions: Path, *, limit: int | None = None) -> PairedFile:
    """Match predictions with annotations by the pictures' keys.

    Args:
        truth: JSONL of the contract.
        predictions: Rows of `plumbline infer`, or JSONL of the contract from another tool.
        limit: Only the first records.

    Raises:
        DataError: A file breaks its contract, no picture is in both, or a picture's size differs between them.
    """
    rows = dict(_read_predictions(predictions))
    left_out: Counter[str] = Counter()
    pairs = [_pair(key, record, rows.pop(key, None)) for key, record in _pictures(truth, limit, left_out)]
    if not pairs:
        raise DataError(Problem(shown_path(truth), "holds no record of one picture: nothing can be compared"))
    found = PairedFile(tuple(pairs), truth, predictions, left_out, tuple(rows))
    if found.missing == len(pairs):
        named = [", ".join(map(shown, names[:_SHOWN])) for names in ([pair.key for pair in pairs], list(rows))]
        what = f"none of its pictures is annotated in {shown_path(truth)}: it has {named[1] or 'none'}, not {named[0]}"
        raise DataError(Problem(shown_path(predictions), what, f"plumbline infer --input {shown_path(truth)} ..."))
    return found


def _pictures(truth: Path, limit: int | None, left_out: Counter[str]) -> Iterator[tuple[str, Record]]:
    """(key, record) of every record of one picture; the keys are those that `plumbline infer` gives."""
    keys = picture_keys()
    for number, record in enumerate(read_records(truth)):
        if limit is not None and number >= limit:
            return
        names = [keys(image) for image in record.images]
        if record.messages is not None:
            left_out["chats"] += 1
        elif len(names) != 1:
            left_out["records of several pictures" if names else "records without a picture"] += 1
        else:
            yield names[0], record


def _pair(key: str, record: Record, row: Mapping[str, Any] | None) -> Pair:
    size = (record.width or 0, record.height or 0)
    truth = tuple(record.objects)
    if row is None:
        return Pair(key, record.images[0], record.place, size, truth, (), NO_ROW, summary=record.summary)
    own = (row["width"], row["height"])
    if (0, 0) not in (own, size) and own != size:
        what = f"{shown(key)} is {size[0]} x {size[1]} there, and {own[0]} x {own[1]} in the predictions"
        raise DataError(Problem(record.place, what, "predict on the annotated pictures: pixels must be the same"))
    return Pair(
        key,
        record.images[0],
        record.place,
        size if own == (0, 0) else own,
        truth,
        row["objects"],
        row["status"],
        row["text"],
        row["problems"],
        record.summary,
    )


def _read_predictions(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """(key, row) of every line, the objects built; DataError naming file and line for anything else."""
    keys = picture_keys()
    seen: set[str] = set()
    for line in read_lines(path):
        raw, found = parse_line(line, str(path))
        if found:
            raise data_error(found)
        is_row = isinstance(raw, dict) and "key" in raw
        row = _row(raw, path, line.number) if is_row else _record_row(raw, keys, path, line.number)
        if row["key"] in seen:
            what = f"a second row for {shown(row['key'])}"
            raise DataError(Problem(f"{shown_path(path)}:{line.number}", what, "keep one of them"))
        seen.add(row["key"])
        yield row["key"], row
    if not seen:
        raise DataError(Problem(shown_path(path), "holds no predictions"))


def _row(raw: JsonObject, path: Path, number: int) -> JsonObject:
    """A row of `plumbline infer`, its types checked."""
    place = f"{shown_path(path)}:{number}"
    kinds = {"key": str, "status": str, "text": str, "width": int, "height": int, "problems": list}
    whole: JsonObject = {"status": "ok", "text": "", "width": 0, "height": 0, "problems": []} | raw
    wrong = [name for name, kind in kinds.items() if not isinstance(whole[name], kind)]
    if wrong:
        what = f"{', '.join(wrong)}: not as `plumbline infer` writes them"
        raise DataError(Problem(place, what, "give the file that `plumbline infer --output` wrote"))
    size = {"width": max(whole["width"], 1), "height": max(whole["height"], 1)}
    objects = {"images": ["-"], **size, "objects": raw.get("objects") or []}
    return whole | {
        "objects": _objects(objects, path, number),
        "problems": tuple(str(each) for each in whole["problems"]),
    }


def _record_row(raw: Any, keys: Any, path: Path, number: int) -> JsonObject:
    """A record of another tool as a row."""
    objects = _objects(raw, path, number)
    images = raw.get("images") or []
    if len(images) != 1 or not isinstance(images[0], str):
        what = "a prediction has a `key`, or exactly one picture"
        raise DataError(Problem(f"{shown_path(path)}:{number}", what, "write one record per picture"))
    sizes = {"width": raw.get("width") or 0, "height": raw.get("height") or 0}
    text = raw.get("summary") or ""
    return {"key": keys(images[0]), "objects": objects, "status": "ok", "text": text, "problems": (), **sizes}


def _objects(raw: Any, path: Path, number: int) -> tuple[DataObject, ...]:
    found = Findings(str(path), number)
    find_breaches(raw, found)
    if found:
        raise data_error(found)
    return tuple(build_record(raw, str(path), number).objects)
