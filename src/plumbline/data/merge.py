"""Several JSONL files as one, with their pictures named from where the new file lies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbline.data.contract import build_record, image_of
from plumbline.data.findings import data_error
from plumbline.data.images import is_data_url
from plumbline.data.read import collect_findings, read_lines
from plumbline.data.record import Record
from plumbline.errors import ConfigError, DataError, Problem
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown, shown_path

_NAMED = 10


@dataclass(frozen=True)
class MergedFiles:
    """records: of each file, by path; repeated: left out, since another file holds the same; written: lines."""

    records: Mapping[str, int]
    repeated: int
    written: int

    def as_dict(self) -> JsonObject:
        return {"records": dict(self.records), "repeated": self.repeated, "written": self.written}


@dataclass
class _Merged:
    """What was read so far: lines, and who annotated each picture."""

    folder: Path
    roots: tuple[Path, ...] = ()
    lines: dict[str, str] = field(default_factory=dict)  # as it is written -> place
    annotated: dict[tuple[str, str], tuple[Any, str]] = field(default_factory=dict)  # (picture, key) -> (value, place)
    repeated: int = 0
    conflicts: list[Problem] = field(default_factory=list)

    def add(self, raw: JsonObject, record: Record, source: Path) -> None:
        moved = self._moved(raw, source, record.place)
        text = json.dumps(moved, ensure_ascii=False)
        if text in self.lines:
            self.repeated += 1
            return
        self.lines[text] = record.place
        if record.messages is None and len(record.images) == 1:
            self._compare(moved, record.place)

    def _moved(self, raw: JsonObject, source: Path, place: str) -> JsonObject:
        """The line with its pictures named relative to the output's folder."""

        def name(image: Any) -> Any:
            if not isinstance(image, str) or is_data_url(image) or "://" in image:
                return image
            path = self._found(image, source)
            if not any(path.is_relative_to(root) for root in (self.folder, *self.roots)):
                what = f"{shown(image)} does not lie below {shown_path(self.folder)}"
                fix = "write the merged file into a folder above all pictures, or give their folder as --image-root"
                raise ConfigError(Problem(place, what, fix))
            return Path(os.path.relpath(path, self.folder)).as_posix()

        found = dict(raw)
        if "images" in found:
            found["images"] = [name(image) for image in found["images"]]
        if isinstance(found.get("messages"), list):
            found["messages"] = [_moved_turn(turn, name) for turn in found["messages"]]
        return found

    def _found(self, image: str, source: Path) -> Path:
        """Where a picture lies: counted from its own file, else the first root that holds it."""
        places = [Path(os.path.normpath(folder / image)) for folder in (source.resolve().parent, *self.roots)]
        return next((place for place in places if place.is_file()), places[0])

    def _compare(self, moved: JsonObject, place: str) -> None:
        """A picture whose objects or summary are annotated in two ways is a conflict; one of each is none."""
        (image,) = moved["images"]
        for key in ("objects", "summary"):
            if key not in moved:
                continue
            value, where = self.annotated.setdefault((image, key), (moved[key], place))
            if value != moved[key]:
                what = f"{shown(image)} has other {key} than in {where}"
                self.conflicts.append(Problem(place, what, "keep one of them"))


def merge_files(files: Sequence[Path], output: Path, roots: Sequence[Path] = ()) -> MergedFiles:
    """Write the records of all files; a record that is there twice is written once.

    roots: folders that pictures may lie in besides the output's; a name that is not found from its own file is looked
    up there.

    Raises:
        ConfigError: The output is one of the files, or a picture lies neither below its folder nor in a root.
        DataError: A line that is no record, or pictures that two records annotate differently: all of them named.
    """
    if output.resolve() in [file.resolve() for file in files]:
        raise ConfigError(Problem(shown_path(output), "is a file that is read", "name another one"))
    merged = _Merged(output.resolve().parent, tuple(root.resolve() for root in roots))
    records = {}
    for file in files:
        count = 0
        for raw, record in _records(file):
            merged.add(raw, record, file)
            count += 1
        records[str(file)] = count
    if merged.conflicts:
        more = len(merged.conflicts) - _NAMED
        last = [Problem(shown_path(output), f"is not written: {more} more conflicts")] if more > 0 else []
        raise DataError([*merged.conflicts[:_NAMED], *last])
    written = write_lines(output, merged.lines)
    return MergedFiles(records, merged.repeated, written)


def _records(file: Path) -> Iterator[tuple[JsonObject, Record]]:
    for line in read_lines(file):
        raw, found = collect_findings(line, str(file))
        if found:
            raise data_error(found)
        yield raw, build_record(raw, str(file), line.number)


def _moved_turn(turn: JsonObject, name: Any) -> JsonObject:
    if isinstance(turn["content"], str):
        return turn
    parts = [
        part if part["type"] == "text" else {"type": "image", "image": name(image_of(part))} for part in turn["content"]
    ]
    return turn | {"content": parts}
