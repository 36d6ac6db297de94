"""What a record is once it has been read. The rules of the JSONL contract are in `contract.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, overload

from plumbline.geometry import Shape
from plumbline.geometry.group import ShapeGroup
from plumbline.storage.objects import JsonObject

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class DataObject:
    """One described thing. `shape` is in pixels of the stored picture, EXIF applied."""

    desc: str
    shape: Shape


class GroupedObjects(Sequence[DataObject]):
    """The objects of a line, each made on access: to plan a sample, most are never needed.

    descs: of each; group: their shapes.
    """

    __slots__ = ("descs", "group")

    def __init__(self, descs: Sequence[str], group: ShapeGroup):
        self.descs = descs
        self.group = group

    def __len__(self) -> int:
        return len(self.descs)

    @overload
    def __getitem__(self, index: int) -> DataObject: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DataObject, ...]: ...
    def __getitem__(self, index: int | slice) -> DataObject | tuple[DataObject, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        return DataObject(self.descs[index], self.group.sources[index])

    def __iter__(self) -> Iterator[DataObject]:
        return map(DataObject, self.descs, self.group.sources)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True)
class Record:
    """One sample.

    images: paths relative to the JSONL's folder, or data URLs. width, height: pixels of the stored picture, EXIF
    applied; None where the record says nothing. messages: a chat of its own, then the other fields are empty.
    file, line: where it was read. is_negative: it says that there is no object, by an empty list of them.
    """

    images: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    objects: Sequence[DataObject] = ()
    summary: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    messages: tuple[Mapping[str, Any], ...] | None = None
    file: str = ""
    line: int = 0
    is_negative: bool = False
    _group: ShapeGroup | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def group(self) -> ShapeGroup:
        """The objects' shapes in one array; made once."""
        if isinstance(self.objects, GroupedObjects):
            return self.objects.group
        if self._group is None:
            object.__setattr__(self, "_group", ShapeGroup.of([item.shape for item in self.objects]))
        assert self._group is not None
        return self._group

    @property
    def descs(self) -> Sequence[str]:
        """The shape that each object is written as."""
        objects = self.objects
        return objects.descs if isinstance(objects, GroupedObjects) else [item.desc for item in objects]

    @property
    def place(self) -> str:
        """`file:line`, for messages to the user."""
        return f"{self.file}:{self.line}" if self.line else self.file or "record"

    def on_canvas(self, objects: Sequence[DataObject], width: int, height: int) -> Record:
        """The same record with other objects and another picture size."""
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
            is_negative=self.is_negative,
        )


def record_to_mapping(record: Record) -> JsonObject:
    """The record as the JSONL contract writes it. Whole numbers are written without a fraction."""
    row: JsonObject = {"schema": SCHEMA}
    if record.images:
        row["images"] = list(record.images)
    if record.width is not None and record.height is not None:
        row |= {"width": record.width, "height": record.height}
    if record.objects or record.is_negative:
        row["objects"] = [_object_to_mapping(item) for item in record.objects]
    if record.summary is not None:
        row["summary"] = record.summary
    if record.messages is not None:
        row["messages"] = [dict(message) for message in record.messages]
    if record.metadata:
        row["metadata"] = dict(record.metadata)
    return row


def _object_to_mapping(item: DataObject) -> JsonObject:
    numbers = [int(value) if value.is_integer() else value for value in item.shape.flat()]
    row: JsonObject = {item.shape.kind: numbers}
    if item.shape.kind == "line":
        row["line_points"] = len(numbers) // 2
    return row | {"desc": item.desc}
