"""Geometry fitted to its picture: what lies outside is dropped, what crosses the edge is cut, and both are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plumbline.data.record import DataObject, Record
from plumbline.geometry import clip_to_canvas


@dataclass(frozen=True, slots=True)
class Fitted:
    """The record with every object inside its picture. clipped, dropped: indices into the objects it had before."""

    record: Record
    clipped: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()


def fit_record(record: Record) -> Fitted:
    """Cut the objects of `record` at the edge of its picture; a record without objects comes back as it is."""
    if record.width is None or record.height is None or _all_inside(record.objects, record.width, record.height):
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


def _all_inside(objects: Sequence[DataObject], width: int, height: int) -> bool:
    """The common case, told from all points at once."""
    if not objects:
        return True
    points = np.concatenate([item.shape.points for item in objects])
    x2, y2 = points.max(axis=0).tolist()
    return bool(points.min() >= 0 and x2 <= width and y2 <= height)
