"""Geometry fitted to its picture: what lies outside is dropped, what crosses the edge is cut, and both are counted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from plumbline.data.record import DataObject, Record
from plumbline.geometry import clip_to_canvas


@dataclass(frozen=True, slots=True)
class Fitted:
    """The record with every object inside its picture.

    clipped, dropped: indices into the objects it had before; left_out: how many more its source does not want.
    """

    record: Record
    clipped: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    left_out: int = 0


def fit_record(record: Record) -> Fitted:
    """Cut the objects of `record` at the edge of its picture; a record without objects comes back as it is."""
    if record.width is None or record.height is None or record.group.lies_inside(record.width, record.height):
        return Fitted(record)
    kept: list[DataObject] = []
    clipped: list[int] = []
    dropped: list[int] = []
    for index, item in enumerate(record.objects):
        shape = clip_to_canvas(item.shape, record.width, record.height)
        if shape is None:
            dropped.append(index)
            continue
        if shape is not item.shape:
            clipped.append(index)
        kept.append(DataObject(item.desc, shape))
    if not clipped and not dropped:
        return Fitted(record)
    return Fitted(replace(record, objects=tuple(kept)), tuple(clipped), tuple(dropped))
