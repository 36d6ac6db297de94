"""Objects to answer text, and answer text to pixels. Reading a reply is `parse.py`.

    {"object_1": {"bbox_2d": [100, 200, 300, 400], "desc": "..."}, "object_2": {"line_points": 2, "line": [...], ...}}

Coordinates are whole numbers: `round(1000 * x / W)` (norm1000), `round(100 * x / W)` (norm100) or `round(x)` (none),
with Python's `round`, which takes ties to the even number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from plumbline.data.answer_form import PLAIN_FORM, AnswerForm
from plumbline.data.contract import is_encodable
from plumbline.data.parse import AnswerObject, ParsedAnswer, parse_answer
from plumbline.data.record import DataObject
from plumbline.errors import DataError, Problem
from plumbline.geometry import Shape, shape_from_flat
from plumbline.geometry.order import order_points
from plumbline.geometry.shapes import Points
from plumbline.storage.text import shown

__all__ = ["EMIT_NORMS", "AnswerObject", "ParsedAnswer", "encode_answer", "parse_answer", "round_shape", "to_pixels"]

_SCALES: dict[str, int | None] = {"none": None, "norm100": 100, "norm1000": 1000}
EMIT_NORMS: tuple[str, ...] = tuple(_SCALES)

# JSON leaves these line ends as they are; escaped, the answer is one line for every reader.
_LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def encode_answer(
    objects: Sequence[DataObject],
    width: int,
    height: int,
    emit_norm: str = "norm1000",
    ordering: str = "top_left",
    form: AnswerForm = PLAIN_FORM,
) -> str:
    """One line of JSON with `objects` (pixels of a picture of width x height) in the order of `ordering`.

    Vertex and object order are normalised here. Raises DataError for geometry outside the picture (clip it first:
    nothing is clamped here) and for text that UTF-8 cannot hold; ValueError for an unknown norm or ordering.
    """
    outlines = [item.shape.canonical_points() for item in objects]
    parts = []
    for number, index in enumerate(order_points(outlines, ordering), start=1):
        kind = objects[index].shape.kind
        numbers = _rounded(kind, outlines[index], width, height, emit_norm)
        parts.append(f'"object_{number}": {{{object_text(kind, numbers, objects[index].desc, form)}}}')
    return "{" + ", ".join(parts) + "}"


def object_text(kind: str, numbers: Sequence[int], desc: str, form: AnswerForm = PLAIN_FORM) -> str:
    """The text between the braces of one object; numbers: as the answer writes them, [x1, y1, ...]."""
    return form.object_text(kind, numbers, _json_text(desc))


def scale_and_size(width: int, height: int, emit_norm: str) -> tuple[int, int, int]:
    """The number by which a picture's coordinates are multiplied, and the two by which x and y are divided then."""
    scale = _scale(emit_norm)
    return (1, 1, 1) if scale is None else (scale, width, height)


def rounded_numbers(points: Points, scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coordinates of points [N, 2] inside a picture as the answer writes them, whole numbers in floats.

    scales: `scale_and_size` of each point's picture, [N, 3].
    """
    return np.rint(scales[:, :1] * points / scales[:, 1:])


@lru_cache(maxsize=65536)
def _json_text(desc: str) -> str:
    """`desc` as a JSON string on one line; cached, since descriptions repeat from picture to picture."""
    if not is_encodable(desc):
        raise DataError(Problem("desc", f"half a surrogate pair in {shown(desc)}", "write the whole character"))
    text = json.dumps(desc, ensure_ascii=False)
    for end, escaped in _LINE_ENDS.items():
        text = text.replace(end, escaped)
    return text


def round_shape(shape: Shape, width: int, height: int, emit_norm: str) -> list[int]:
    """The flat coordinates of `shape` as the answer writes them; DataError when it leaves the picture."""
    return _rounded(shape.kind, shape.points.tolist(), width, height, emit_norm)


def _rounded(kind: str, points: Sequence[Sequence[float]], width: int, height: int, emit_norm: str) -> list[int]:
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
            what = f"{kind} {[value for point in points for value in point]} leaves the picture of {width} x {height}"
            raise DataError(Problem("objects", what, "clip it to the picture first"))
    scale = _scale(emit_norm)
    if scale is None:
        return [round(value) for point in points for value in point]
    return [number for x, y in points for number in (round(scale * x / width), round(scale * y / height))]


def to_pixels(
    parsed: ParsedAnswer, emit_norm: str, width: int, height: int
) -> tuple[tuple[DataObject, ...], tuple[str, ...]]:
    """The parsed objects in pixels of a picture of width x height, and every reason for what is not among them.

    An object with a coordinate outside the picture is left out and reported, never clamped. A box whose corners are
    swapped is kept in canonical order and reported.
    """
    scale = _scale(emit_norm)
    limits = (width, height) if scale is None else (scale, scale)
    problems = list(parsed.problems)
    objects: list[DataObject] = []
    for item in parsed.objects:
        what = _range_problem(item, limits)
        if what:
            problems.append(f"{item.name}: {what}")
            continue
        if item.kind == "bbox_2d" and (item.numbers[0] > item.numbers[2] or item.numbers[1] > item.numbers[3]):
            problems.append(f"{item.name}: the corners of the box are swapped")
        shape = shape_from_flat(item.kind, item.numbers)
        pixels = shape.with_points(shape.points * (width, height) / limits)
        objects.append(DataObject(item.desc, pixels.canonical()))
    return tuple(objects), tuple(problems)


def _scale(emit_norm: str) -> int | None:
    if emit_norm not in _SCALES:
        raise ValueError(f"unknown emit_norm {emit_norm!r}: one of {', '.join(EMIT_NORMS)}")
    return _SCALES[emit_norm]


def _range_problem(item: AnswerObject, limits: tuple[int, int]) -> str:
    for position, value in enumerate(item.numbers):
        limit = limits[position % 2]
        if not 0 <= value <= limit:
            return f"{value} is outside 0..{limit}"
    return ""
