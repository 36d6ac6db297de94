"""What is suspicious about a record that can be used all the same: findings of `data check`, not errors of the reader.

Each object takes a short road that only asks whether anything could be wrong; the words are found afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from operator import eq
from typing import Any

from plumbline.data.contract import KIND_OF_KEYS, OBJECT_KEYS, RECORD_KEYS, geometry_of
from plumbline.data.findings import Findings
from plumbline.data.messages import control_text
from plumbline.geometry import Polygon, shape_from_flat
from plumbline.geometry.clip import is_flat, is_self_crossing
from plumbline.storage.text import shown

_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Control characters, line ends, and marks that turn the direction of writing."""


def check_content(raw: Mapping[str, Any], found: Findings) -> None:
    """Append to `found` what is suspicious in a record; parts that already broke the contract are left out."""
    broken = {finding.where.partition(".")[0] for finding in found}
    if not raw.keys() <= _RECORD_KEYS:
        _check_keys(raw, RECORD_KEYS, "", found)
    if raw.get("messages") is not None:
        _check_chat(raw["messages"], broken, found)
        return
    summary = raw.get("summary")
    if summary is not None and "summary" not in broken:
        _check_words(summary, "summary", found)
    if raw.get("images") and raw.get("width") is None and not raw.get("objects"):
        found.add("no-size", "width", "no width and height", "give the picture's size in pixels, EXIF applied")
    objects = raw.get("objects")
    if raw.get("images") and objects is None and summary is None:
        fix = 'a picture without any object has "objects": []'
        found.add("no-target", "", "neither objects nor summary: there is nothing to learn from this record", fix)
    if objects and "objects" not in broken:
        sound = list(enumerate(objects))
        if broken:
            sound = [(index, item) for index, item in sound if f"objects[{index}]" not in broken]
        has_size = not broken & {"width", "height"}
        _check_objects(sound, raw["width"] if has_size else None, raw["height"] if has_size else None, found)


_RECORD_KEYS = frozenset(RECORD_KEYS)


def _check_keys(raw: Mapping[str, Any], known: Sequence[str], where: str, found: Findings) -> None:
    for key in raw:
        if key not in known:
            close = get_close_matches(key[:60], known, n=1)
            fix = f"did you mean {close[0]}?" if close else "keep what is yours under `metadata`"
            found.add("unknown-key", where, f"unknown key {shown(key)}", fix)


def _check_words(text: str, where: str, found: Findings) -> None:
    token = control_text(text)
    if token:
        found.add("control-text", where, f"holds {shown(token)}, which the model's template obeys", "remove it")
    match = _INVISIBLE.search(text)
    if match:
        found.add("control-character", where, f"holds {match[0].encode('unicode_escape').decode()}", "remove it")


def _check_chat(messages: Sequence[Mapping[str, Any]], broken: set[str], found: Findings) -> None:
    if "messages" in broken:
        return
    for index, message in enumerate(messages):
        if any(place.startswith(f"messages[{index}]") for place in broken):
            continue
        content = message["content"]
        texts = [content] if isinstance(content, str) else [item["text"] for item in content if item["type"] == "text"]
        for text in texts:
            token = control_text(text)
            if token:
                what = f"holds {shown(token)}, which the model's template obeys"
                found.add("control-text", f"messages[{index}]", what, "remove it")


def _check_objects(
    objects: Sequence[tuple[int, Mapping[str, Any]]], width: int | None, height: int | None, found: Findings
) -> None:
    marks: set[tuple[Any, ...]] = set()
    coordinates: list[float] = []
    for index, item in objects:
        kind = KIND_OF_KEYS.get(tuple(item)) or _kind_among(item, index, found)
        numbers = item[kind]
        coordinates += numbers
        desc = item["desc"]
        if "<" in desc or not desc.isprintable():
            _check_words(desc, f"objects[{index}].desc", found)
        if not _is_ordinary(kind, numbers):
            _check_form(kind, numbers, f"objects[{index}].{kind}", found)
        marks.add((desc, numbers[0], numbers[-1]))
    if len(marks) < len(objects):
        _check_twins(objects, found)
    if coordinates and width is not None and height is not None and not _all_inside(coordinates, width, height):
        for index, item in objects:
            kind, numbers = geometry_of(item)
            _check_inside(numbers, width, height, f"objects[{index}].{kind}", found)


def _check_twins(objects: Sequence[tuple[int, Mapping[str, Any]]], found: Findings) -> None:
    seen: dict[tuple[Any, ...], int] = {}
    for index, item in objects:
        kind, numbers = geometry_of(item)
        first = seen.setdefault((kind, item["desc"], *numbers), index)
        if first != index:
            found.add("duplicate-object", f"objects[{index}]", f"the same as objects[{first}]", "remove one")


def _kind_among(item: Mapping[str, Any], index: int, found: Findings) -> str:
    _check_keys(item, OBJECT_KEYS, f"objects[{index}]", found)
    return geometry_of(item)[0]


def _all_inside(numbers: list[float], width: int, height: int) -> bool:
    xs, ys = numbers[::2], numbers[1::2]
    return min(numbers) >= 0 and max(xs) <= width and max(ys) <= height


def _is_ordinary(kind: str, numbers: list[float]) -> bool:
    """True when the form is surely right: an upright box, a convex quad, a line whose points differ."""
    if kind == "bbox_2d":
        return numbers[0] < numbers[2] and numbers[1] < numbers[3]
    if kind != "quad":
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        chain = points if kind == "line" else [points[-1], *points]
        return not any(map(eq, chain, chain[1:])) and (kind == "line" or not is_self_crossing(points))
    return _is_convex_quad(*numbers)


def _is_convex_quad(ax: float, ay: float, bx: float, by: float, cx: float, cy: float, dx: float, dy: float) -> bool:
    """Whether all four corners turn the same way, either way."""
    first = (bx - ax) * (cy - by) - (by - ay) * (cx - bx)
    second = (cx - bx) * (dy - cy) - (cy - by) * (dx - cx)
    third = (dx - cx) * (ay - dy) - (dy - cy) * (ax - dx)
    fourth = (ax - dx) * (by - ay) - (ay - dy) * (bx - ax)
    if first > 0:
        return second > 0 and third > 0 and fourth > 0
    return first < 0 and second < 0 and third < 0 and fourth < 0


def _check_form(kind: str, numbers: list[float], where: str, found: Findings) -> None:
    shape = shape_from_flat(kind, numbers)
    x1, y1, x2, y2 = shape.bounds()
    if kind == "line":
        if x1 == x2 and y1 == y2:
            found.add("zero-length", where, f"all points are ({x1:g}, {y1:g})", "draw it, or remove it")
        else:
            _check_outline(kind, shape.points.tolist(), where, found)
    elif x1 == x2 or y1 == y2 or (kind in ("quad", "poly") and is_flat(shape.points.tolist())):
        found.add("zero-area", where, f"encloses no area: {shown(numbers)}", "draw it, or remove it")
    elif kind == "bbox_2d":
        fix = "write [x1, y1, x2, y2], not [x, y, width, height]"
        found.add("box-corners", where, f"the second corner lies left of or above the first: {shown(numbers)}", fix)
    else:
        _check_outline(kind, shape.points.tolist(), where, found)


def _check_outline(kind: str, points: list[list[float]], where: str, found: Findings) -> None:
    before = points if kind == "line" else [points[-1], *points]
    repeated = [b for a, b in pairwise(before) if a == b]
    if repeated:
        found.add("repeated-point", where, f"{shown(repeated[0])} twice in a row", "name every vertex once")
        points = [point for i, point in enumerate(points) if i == 0 or point != points[i - 1]]
        points = points[:-1] if points[-1] == points[0] else points
    if kind != "line" and len(points) >= Polygon.least and is_self_crossing(points):
        found.add("self-crossing", where, "the outline crosses itself", "give the vertices in order around the object")


def _check_inside(numbers: list[float], width: int, height: int, where: str, found: Findings) -> None:
    xs, ys = numbers[::2], numbers[1::2]
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return
    what = f"spans ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) in a picture of {width} x {height}"
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        found.add("outside", where, what, "wholly outside: it is dropped when the sample is built")
    else:
        found.add("out-of-picture", where, what, "partly outside: it is cut at the edge when the sample is built")
