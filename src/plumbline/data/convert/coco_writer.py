"""The JSONL contract to COCO, streamed. What COCO has no place for is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from plumbline.data.contract import build_record, find_breaches
from plumbline.data.convert.picture import ConversionReport
from plumbline.data.images import is_data_url
from plumbline.data.read import parse_line, read_lines
from plumbline.data.record import DataObject, Record
from plumbline.data.stats import desc_levels
from plumbline.storage.files import replacing
from plumbline.storage.objects import JsonObject


def write_coco(source: Path, target: Path, report: ConversionReport) -> None:
    """Write the records of `source`, or its caption rows, as one COCO file; it appears whole or not at all.

    The category is the first level of `desc`; the whole `desc` and the kind of geometry are in `attributes`, from which
    the way back reads them. Boxes have an empty `segmentation`; a quad and a polygon are its only part. Lines, chats
    and pictures inside the JSONL are lost, and counted. Raises OutputError when `target` cannot be written.
    """
    with replacing(target) as stream, TemporaryFile("w+", encoding="utf-8") as later:
        categories: dict[str, int] = {}
        stream.write('{"images": [')
        for number, text in enumerate(_images(source, later, categories, report)):
            stream.write(f"{',' if number else ''}\n{text}")
        stream.write('],\n"annotations": [')
        later.seek(0)
        for number, line in enumerate(later):
            stream.write(f"{',' if number else ''}\n{line.rstrip()}")
        rows = [{"id": index, "name": name} for name, index in categories.items()]
        stream.write(f'],\n"categories": {json.dumps(rows, ensure_ascii=False)}}}\n')


def _images(source: Path, later: Any, categories: dict[str, int], report: ConversionReport) -> Iterator[str]:
    """The images as JSON; their annotations go to `later`, a line each."""
    annotations = 0
    for line in read_lines(source):
        raw, found = parse_line(line, str(source))
        place = f"{source}:{line.number}"
        report.pictures += 1
        if _is_caption(raw):
            if raw["status"].startswith("error:"):
                report.lose("picture without a reply", f"{place}: {raw['status']}")
                continue
            raw = {"images": [raw["image"]], **{name: raw[name] for name in ("width", "height", "objects")}}
        if raw is not None or not found:
            find_breaches(raw, found)
        if found:
            report.lose("record that breaks the contract", f"{place}: {found[0].where} {found[0].what}")
            continue
        record = build_record(raw, str(source), line.number)
        reason = _unfit(record)
        if reason:
            report.lose(reason, place)
            continue
        report.records += 1
        image: JsonObject = {
            "id": report.records,
            "file_name": record.images[0],
            "width": record.width,
            "height": record.height,
        }
        if record.summary is not None:
            image["summary"] = record.summary
        if record.metadata:
            report.lose("metadata of a record", place)
        for item in record.objects:
            if item.shape.kind == "line":
                report.lose("line", f"{place}: {item.desc}")
                continue
            annotations += 1
            report.objects += 1
            row = {"id": annotations, "image_id": report.records} | _annotation(item, categories)
            later.write(json.dumps(row, ensure_ascii=False) + "\n")
        yield json.dumps(image, ensure_ascii=False)


def _is_caption(raw: Any) -> bool:
    """Whether a line is a row of `plumbline infer`."""
    names = ("image", "width", "height", "objects", "status")
    return isinstance(raw, dict) and all(name in raw for name in names) and isinstance(raw["status"], str)


def _unfit(record: Record) -> str:
    """Why COCO has no place for a record; empty when it has."""
    if record.messages is not None:
        return "chat"
    if len(record.images) != 1:
        return "record of several pictures"
    if is_data_url(record.images[0]):
        return "picture inside the JSONL"
    return "" if record.width is not None else "record without the picture's size"


def _annotation(item: DataObject, categories: dict[str, int]) -> JsonObject:
    x1, y1, x2, y2 = item.shape.bounds()
    category = categories.setdefault(desc_levels(item.desc)[0] or item.desc, len(categories) + 1)
    return {
        "category_id": category,
        "bbox": _plain([x1, y1, x2 - x1, y2 - y1]),
        "segmentation": [] if item.shape.kind == "bbox_2d" else [_plain(item.shape.flat())],
        "area": item.shape.area(),
        "iscrowd": 0,
        "attributes": {"desc": item.desc, "geometry": item.shape.kind},
    }


def _plain(numbers: Sequence[float]) -> list[float]:
    """Whole numbers without a fraction, as the records write them."""
    return [int(value) if value.is_integer() else value for value in numbers]
