"""LabelMe: one JSON per picture, in the same folder."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbline.data.convert.outlines import ellipse
from plumbline.data.convert.picture import (
    AnnotatedPicture,
    ConversionReport,
    finite,
    listing,
    mapping,
    path_name,
    whole,
    with_attributes,
)
from plumbline.errors import DataError, Problem
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import printable, shown, shown_path

MAX_BYTES = 256 * 1024 * 1024
"""A file holds its picture as text where LabelMe was set to embed it; more than this is no annotation."""


def read_labelme(source: Path, report: ConversionReport) -> Iterator[AnnotatedPicture]:
    """The pictures of one file, or of every `.json` below a folder in the order of names.

    A file that is no annotation is counted and left out; DataError when there is none at all.
    """
    folder = source if source.is_dir() else source.parent
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    if not files:
        raise DataError(Problem(shown_path(source), "holds no .json", "give the folder that LabelMe saved into"))
    for file in files:
        raw = _load(file, report)
        if raw is None:
            continue
        below = posixpath.join(*file.parent.relative_to(folder).parts) if file.parent != folder else ""
        name = path_name(raw.get("imagePath"))
        picture = AnnotatedPicture(
            path_name(posixpath.join(below, name)) if name else "",
            str(file),
            whole(raw.get("imageWidth")),
            whole(raw.get("imageHeight")),
        )
        for index, shape in enumerate(listing(raw.get("shapes"))):
            _add(picture, mapping(shape), f"shapes[{index}]", report)
        yield picture


def _load(file: Path, report: ConversionReport) -> JsonObject | None:
    try:
        if file.stat().st_size > MAX_BYTES:
            report.lose("file that is no LabelMe annotation", f"{file}: larger than {MAX_BYTES} bytes")
            return None
        raw = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        report.lose("file that is no LabelMe annotation", f"{file}: {printable(str(error))[:100]}")
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("shapes"), list):
        report.lose("file that is no LabelMe annotation", f"{file}: has no list of shapes")
        return None
    return raw


def _add(picture: AnnotatedPicture, shape: Any, where: str, report: ConversionReport) -> None:
    place = f"{picture.place}: {where}"
    pairs = [finite(point) for point in listing(shape.get("points"))]
    points = [(pair[0], pair[1]) for pair in pairs if pair is not None and len(pair) == 2]
    flat: Any = [value for point in points for value in point] if len(points) == len(pairs) else None
    description = shape.get("description")
    desc = shape.get("label")
    if isinstance(description, str) and description.strip() and isinstance(desc, str):
        desc = f"{desc.strip()}/{description.strip()}"
    desc = with_attributes(desc, mapping(shape.get("flags")).items())
    if shape.get("group_id") is not None:
        report.lose("group of shapes", f"{place}: {shown(shape['group_id'])}")
    kind = shape.get("shape_type") or "polygon"
    match kind:
        case "rectangle" if len(points) == 4:
            picture.add("bbox_2d", _bounds(points), desc, where, report)
        case "rectangle":
            picture.add("bbox_2d", flat, desc, where, report)
        case "polygon":
            picture.add("poly", flat, desc, where, report)
        case "rotation" | "oriented_rectangle":
            picture.add("quad", flat, desc, where, report)
        case "line" | "linestrip":
            picture.add("line", flat, desc, where, report)
        case "circle" if len(points) == 2:
            (cx, cy), (x, y) = points
            radius = ((x - cx) ** 2 + (y - cy) ** 2) ** 0.5
            report.change("circle, written as a polygon", place)
            picture.add("poly", ellipse(cx, cy, radius, radius), desc, where, report)
        case "mask" if len(points) == 2:
            report.change("mask, written as its box", place)
            picture.add("bbox_2d", flat, desc, where, report)
        case _:
            report.lose(f"shape of the kind {shown(kind)}", place)


def _bounds(points: list[tuple[float, float]]) -> list[float]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return [min(xs), min(ys), max(xs), max(ys)]
