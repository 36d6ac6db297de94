"""COCO and LVIS annotations, streamed: neither the file nor its annotations have to fit into memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plumbline.data.contract import are_coordinates, is_right_count
from plumbline.data.convert.outlines import coco_counts, mask_outlines
from plumbline.data.convert.picture import (
    AnnotatedPicture,
    ConversionReport,
    finite,
    listing,
    mapping,
    path_name,
    whole,
)
from plumbline.data.convert.stream import json_items
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown

_PLACED = "CREATE TABLE placed (image TEXT, row TEXT)"
_INDEX = "CREATE INDEX by_image ON placed (image)"
_BATCH = 2_000


def read_coco(source: Path, report: ConversionReport, *, is_lvis: bool = False) -> Iterator[AnnotatedPicture]:
    """The pictures of `source` in its order.

    is_lvis: pictures are named by the end of `coco_url`. Raises DamagedFileError where the file is no JSON.
    """
    names = _categories(source, report)
    with TemporaryDirectory() as folder, closing(sqlite3.connect(Path(folder) / "annotations.db")) as table:
        for pragma in ("journal_mode = OFF", "synchronous = OFF"):
            table.execute(f"PRAGMA {pragma}")
        placed = _place(source, table, report)
        seen: set[str] = set()
        used = 0
        for index, raw in enumerate(json_items(source, "images.item")):
            where = f"{source}: images[{index}]"
            image = mapping(raw)
            key = _key(image.get("id"))
            if key is None or key in seen:
                report.lose("picture without an id of its own", f"{where}: {shown(image.get('id'))}")
                continue
            seen.add(key)
            picture = _picture(image, where, is_lvis)
            rows = table.execute("SELECT row FROM placed WHERE image = ? ORDER BY rowid", (key,))
            for (row,) in rows:
                used += 1
                _add(picture, json.loads(row), names, report)
            yield picture
        if used < placed:
            report.lose("annotation of an unknown picture", str(source), placed - used)


def _categories(source: Path, report: ConversionReport) -> dict[str, str]:
    names: dict[str, str] = {}
    for index, raw in enumerate(json_items(source, "categories.item")):
        key, name = _key(mapping(raw).get("id")), mapping(raw).get("name")
        if key is None or not isinstance(name, str) or not name.strip() or key in names:
            report.lose("category without an id and a name of its own", f"{source}: categories[{index}]: {shown(raw)}")
        else:
            names[key] = name.strip()
    return names


def _key(value: object) -> str | None:
    """An id as text: 2, 2.0 and "2" are one, because tools write the same id in all three ways."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return json.dumps(str(value))


def _place(source: Path, table: sqlite3.Connection, report: ConversionReport) -> int:
    """Put the annotations into `table` by picture; returns how many."""
    table.execute(_PLACED)
    count = 0
    batch: list[tuple[str, str]] = []
    for index, raw in enumerate(json_items(source, "annotations.item")):
        item = mapping(raw)
        key = _key(item.get("image_id"))
        if key is None:
            report.lose("annotation of an unknown picture", f"{source}: annotations[{index}]")
            continue
        kept = {name: item[name] for name in _READ if name in item}
        try:
            batch.append((key, json.dumps({"index": index} | kept)))
        except (RecursionError, ValueError):
            report.lose("annotation nested too deeply", f"{source}: annotations[{index}]")
            continue
        count += 1
        if len(batch) >= _BATCH:
            table.executemany("INSERT INTO placed VALUES (?, ?)", batch)
            batch.clear()
    table.executemany("INSERT INTO placed VALUES (?, ?)", batch)
    table.execute(_INDEX)
    return count


_READ = ("category_id", "bbox", "segmentation", "iscrowd", "attributes", "num_keypoints", "caption")


def _picture(image: Any, where: str, is_lvis: bool) -> AnnotatedPicture:
    name = path_name(image.get("file_name"))
    if not name and is_lvis:
        name = "/".join(path_name(image.get("coco_url")).split("/")[-2:])
    summary = image.get("summary")
    picture = AnnotatedPicture(name, where, whole(image.get("width")), whole(image.get("height")))
    picture.summary = summary if isinstance(summary, str) and summary.strip() else None
    picture.metadata = {
        name: image[name] for name in ("neg_category_ids", "not_exhaustive_category_ids") if image.get(name)
    }
    return picture


def _add(picture: AnnotatedPicture, row: JsonObject, names: dict[str, str], report: ConversionReport) -> None:
    where = f"annotations[{row['index']}]"
    place = f"{picture.place}: {where}"
    attributes = mapping(row.get("attributes"))
    desc = attributes.get("desc") or names.get(_key(row.get("category_id")) or "")
    if row.get("iscrowd"):
        report.lose("crowd region", place)
    elif "caption" in row and "bbox" not in row:
        report.lose("caption", place)
    elif desc is None:
        report.lose("annotation of an unknown category", f"{place}: {shown(row.get('category_id'))}")
    else:
        if row.get("num_keypoints"):
            report.lose("keypoints", place)
        kind, numbers = _geometry(row, attributes.get("geometry"), place, report)
        picture.add(kind, numbers, desc, where, report)


def _geometry(row: JsonObject, drawn_as: object, place: str, report: ConversionReport) -> tuple[str, Any]:
    """(kind, flat numbers) of an annotation: its outline where it has one of a single part, else its box."""
    outlines, how = _outlines(row.get("segmentation"))
    if len(outlines) == 1:
        if how == "mask":
            report.change("mask, written as its outer outline", place)
        return ("quad" if drawn_as == "quad" and len(outlines[0]) == 8 else "poly"), outlines[0]
    if how == "broken":
        report.change("broken mask, written as its box", place)
    elif outlines:
        report.change("outline of several parts, written as its box", place)
    box = finite(row.get("bbox"))
    if box is not None and len(box) == 4:
        return "bbox_2d", [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    flat = [value for outline in outlines for value in outline]
    return "bbox_2d", [min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2])] if flat else row.get("bbox")


def _outlines(segmentation: object) -> tuple[list[list[float]], str]:
    """Outlines of a segmentation and how it was written: polygons, mask, none, broken."""
    if isinstance(segmentation, list):
        sound = all(
            isinstance(part, list) and is_right_count("poly", len(part)) and are_coordinates(part)
            for part in segmentation
        )
        return (segmentation, "polygons") if sound else ([], "broken")
    if not isinstance(segmentation, dict):
        return [], "none"
    counts, size = segmentation.get("counts"), segmentation.get("size")
    try:
        runs = coco_counts(counts) if isinstance(counts, str) else [int(run) for run in listing(counts)]
        height, width = (int(side) for side in listing(size))
        outlines = mask_outlines(runs, width, height, by_columns=True)
    except (ValueError, TypeError, OverflowError):
        outlines = None
    return ([], "broken") if not outlines else (outlines, "mask")
