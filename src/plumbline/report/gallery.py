"""`plumbline data check --html`: what was found, by rule, the most frequent first, each example over its picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from plumbline.data.contract import are_coordinates, is_right_count
from plumbline.data.findings import Finding
from plumbline.data.images import ImagePolicy, load_image
from plumbline.data.read import Line, parse_line, read_lines
from plumbline.data.record import DataObject
from plumbline.data.verbs import Checked
from plumbline.errors import DataError, Problem
from plumbline.geometry import KINDS, shape_from_flat
from plumbline.report.html import data_url, render_page, write_page
from plumbline.report.overlay import draw_objects
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import printable

SIDE = 420
"""Longest side of a picture on the page."""
_PAPER = (233, 233, 228)
_TEXT = 300
"""Characters of a line that are shown where there is no picture to show."""
_OBJECT = re.compile(r"objects\[(\d+)\]")
_IMAGE = re.compile(r"images\[(\d+)\]")


def write_gallery(path: Path, checked: Checked) -> None:
    """Write the page; it appears whole or not at all. Pictures are opened only where the check's policy allows."""
    lines = _lines_of(checked)
    order = sorted(checked.counts, key=lambda code: (-checked.counts[code], code))
    sections = []
    for code in order:
        found = checked.examples[code]
        cards = [_card(finding, lines.get((finding.file, finding.line)), checked.policy) for finding in found]
        sections.append({"code": code, "count": checked.counts[code], "cards": cards})
    context = {
        "files": [printable(file) for file in checked.files],
        "records": checked.records,
        "total": sum(checked.counts.values()),
        "sections": sections,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, render_page("gallery.html", context))


def _lines_of(checked: Checked) -> dict[tuple[str, int], Line]:
    """The lines that the examples speak of, from a second reading."""
    wanted: dict[str, set[int]] = {}
    for found in (finding for findings in checked.examples.values() for finding in findings):
        wanted.setdefault(found.file, set()).add(found.line)
    lines: dict[tuple[str, int], Line] = {}
    for file, numbers in wanted.items():
        last = max(numbers)
        for line in read_lines(file):
            if line.number > last:
                break
            if line.number in numbers:
                lines[file, line.number] = line
    return lines


def _card(finding: Finding, line: Line | None, policy: ImagePolicy) -> JsonObject:
    """One example as the template shows it."""
    raw = parse_line(line, finding.file)[0] if line is not None else None
    problem = finding.problem()
    card: JsonObject = {"where": printable(problem.where), "what": problem.what, "fix": problem.fix}
    card |= {"picture": None, "note": "", "text": ""}
    if isinstance(raw, dict):
        picture, card["note"] = _picture(raw, finding, policy)
        card["picture"] = None if picture is None else data_url(picture)
    if card["picture"] is None and line is not None:
        card["text"] = printable((line.data or b"")[: 4 * _TEXT].decode("utf-8", "replace"))[:_TEXT]
    return card


def _picture(raw: Mapping[str, Any], finding: Finding, policy: ImagePolicy) -> tuple[Image.Image | None, str]:
    """The record's picture with the object in question, or all objects, drawn over it; and what is to be said of it."""
    objects = _objects(raw, finding.where)
    size = raw.get("width"), raw.get("height")
    has_size = all(type(side) is int and 0 < side <= 100_000 for side in size)
    try:
        image = _opened(raw, finding, policy)
        note = ""
    except DataError as error:
        if not has_size or not objects:
            return None, ""
        image, note = None, f"the picture is not shown: {printable(error.problems[0].what)}"
    if image is not None and has_size and image.size != size:
        note = f"drawn over {image.width} x {image.height}, the record says {size[0]} x {size[1]}"
    width, height = image.size if image is not None else (int(size[0] or 1), int(size[1] or 1))
    left, top, right, bottom = _extent(objects, width, height)
    scale = min(1.0, SIDE / max(right - left, bottom - top))
    canvas = Image.new("RGB", (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))), _PAPER)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = image.resize(small, Image.Resampling.LANCZOS) if image is not None else Image.new("RGB", small, "white")
    canvas.paste(shown, (round(-left * scale), round(-top * scale)))
    moved = [
        DataObject(item.desc, item.shape.with_points((item.shape.points - (left, top)) * scale)) for item in objects
    ]
    return draw_objects(canvas, moved), note


def _opened(raw: Mapping[str, Any], finding: Finding, policy: ImagePolicy) -> Image.Image:
    images = raw.get("images")
    named = _IMAGE.search(finding.where)
    index = int(named[1]) if named else 0
    image = images[index] if isinstance(images, list) and index < len(images) else None
    if not isinstance(image, str):
        raise DataError(Problem("images", "none is named"))
    return load_image(policy.reference(image, Path(finding.file).parent), policy.max_pixels)


def _objects(raw: Mapping[str, Any], where: str) -> list[DataObject]:
    """The object that `where` names, or every one; those without a geometry that can be drawn are left out."""
    items = raw.get("objects")
    named = _OBJECT.search(where)
    chosen = items if isinstance(items, list) else []
    if named:
        chosen = chosen[int(named[1]) : int(named[1]) + 1]
    found = []
    for item in chosen:
        kind = next((kind for kind in KINDS if isinstance(item, dict) and kind in item), None)
        numbers = item[kind] if kind is not None else None
        if kind is None or not isinstance(numbers, list) or not is_right_count(kind, len(numbers)):
            continue
        if are_coordinates(numbers):
            desc = item.get("desc")
            found.append(DataObject(desc if isinstance(desc, str) else "?", shape_from_flat(kind, numbers)))
    return found


def _extent(objects: Sequence[DataObject], width: int, height: int) -> tuple[float, float, float, float]:
    """The picture and what lies outside it, up to one more picture on each side."""
    points = np.concatenate([np.array([[0.0, 0.0], [width, height]]), *(item.shape.points for item in objects)])
    low, high = points.min(axis=0), points.max(axis=0)
    left, top = np.maximum(low, (-width, -height)).tolist()
    right, bottom = np.minimum(high, (2 * width, 2 * height)).tolist()
    return left, top, right, bottom
