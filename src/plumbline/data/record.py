"""What a record is once it has been read. The rules of the JSONL contract are in `contract.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from plumbline.geometry import Shape
from plumbline.geometry.group import ShapeGroup

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class DataObject:
    """One described thing. `shape` is in pixels of the stored picture, EXIF applied."""

    desc: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Record:
    """One sample.

    images: paths relative to the JSONL's folder, or data URLs. width, height: pixels of the stored picture, EXIF
    applied; None where the record says nothing. messages: a chat of its own, then the other fields are empty.
    file, line: where it was read.
    """

    images: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    objects: tuple[DataObject, ...] = ()
    summary: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    messages: tuple[Mapping[str, Any], ...] | None = None
    file: str = ""
    line: int = 0
    _group: ShapeGroup | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def group(self) -> ShapeGroup:
        """The objects' shapes in one array; made once."""
        if self._group is None:
            return self.grouped(ShapeGroup.of([item.shape for item in self.objects]))
        return self._group

    def grouped(self, group: ShapeGroup) -> ShapeGroup:
        """Remember `group`, whose sources are the objects' shapes."""
        object.__setattr__(self, "_group", group)
        return group

    @property
    def place(self) -> str:
        """`file:line`, for messages to the user."""
        return f"{self.file}:{self.line}" if self.line else self.file or "record"

    def on_canvas(self, objects: tuple[DataObject, ...], width: int, height: int) -> Record:
        """The same record telling other objects of a picture of another size."""
        return Record(
            images=self.images,
            width=width,
            height=height,
            objects=objects,
            summary=self.summary,
            metadata=self.metadata,
            messages=self.messages,
            file=self.file,
            line=self.line,
        )


def record_to_mapping(record: Record) -> dict[str, Any]:
    """The record as the JSONL contract writes it. Whole numbers are written without a fraction."""
    row: dict[str, Any] = {"schema": SCHEMA}
    if record.images:
        row["images"] = list(record.images)
    if record.width is not None and record.height is not None:
        row |= {"width": record.width, "height": record.height}
    if record.objects:
        row["objects"] = [_object_to_mapping(item) for item in record.objects]
    if record.summary is not None:
        row["summary"] = record.summary
    if record.messages is not None:
        row["messages"] = [dict(message) for message in record.messages]
    if record.metadata:
        row["metadata"] = dict(record.metadata)
    return row


def _object_to_mapping(item: DataObject) -> dict[str, Any]:
    numbers = [int(value) if value.is_integer() else value for value in item.shape.flat()]
    row: dict[str, Any] = {item.shape.kind: numbers}
    if item.shape.kind == "line":
        row["line_points"] = len(numbers) // 2
    return row | {"desc": item.desc}
