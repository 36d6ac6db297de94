"""What every reader of a foreign format gives: pictures with described geometry, and a report of the rest."""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plumbline.data.contract import are_coordinates
from plumbline.geometry.clip import is_flat
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import printable, shown

_EXAMPLES = 3
"""Places that are named for each reason."""
_DECIMALS = 3
"""Pixels are written to a thousandth: percentages and fractions of a picture have no end otherwise."""


@dataclass
class ConversionReport:
    """What happened to a source. negatives: records of pictures without objects. lost: reason -> how many are not in
    the output; changed: written otherwise than drawn.

    examples: reason -> the first places, as `file: where: what`.
    """

    pictures: int = 0
    records: int = 0
    objects: int = 0
    negatives: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def lose(self, reason: str, where: str, count: int = 1) -> None:
        """Count something that is not in the output."""
        self.lost[reason] += count
        self._remember(reason, where)

    def change(self, reason: str, where: str) -> None:
        """Count something that is in the output otherwise than it was drawn."""
        self.changed[reason] += 1
        self._remember(reason, where)

    def _remember(self, reason: str, where: str) -> None:
        places = self.examples.setdefault(reason, [])
        if len(places) < _EXAMPLES:
            places.append(printable(where))

    def as_dict(self) -> JsonObject:
        return {
            "pictures": self.pictures,
            "records": self.records,
            "objects": self.objects,
            "negatives": self.negatives,
            "lost": dict(self.lost.most_common()),
            "changed": dict(self.changed.most_common()),
            "examples": self.examples,
        }


@dataclass
class AnnotatedPicture:
    """One picture of a source. name: below the folder of pictures, with forward slashes. place: where it was read."""

    name: str
    place: str
    width: int | None = None
    height: int | None = None
    objects: list[JsonObject] = field(default_factory=list)
    summary: str | None = None
    metadata: JsonObject = field(default_factory=dict)

    def add(self, kind: str, numbers: object, desc: object, where: str, report: ConversionReport) -> None:
        """Append one object, or count why it is not one. `numbers`: flat pixels; a box in any order of its corners."""
        place = f"{self.place}: {where}"
        if not isinstance(desc, str) or not desc.strip():
            report.lose("object without a label", f"{place}: {shown(desc)}")
            return
        flat = finite(numbers)
        if flat is None or len(flat) % 2 or (kind == "bbox_2d" and len(flat) != 4):
            report.lose("geometry that cannot be read", f"{place}: {shown(numbers)}")
            return
        points = list(zip(flat[::2], flat[1::2], strict=True))
        if kind == "bbox_2d":
            (x1, y1), (x2, y2) = points
            flat = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
            is_empty = x1 == x2 or y1 == y2
        elif kind == "line":
            points = [point for i, point in enumerate(points) if i == 0 or point != points[i - 1]]
            flat = [value for point in points for value in point]
            is_empty = len(points) < 2
        else:
            points = [point for i, point in enumerate(points) if point != points[i - 1]]
            kind = "poly" if kind == "quad" and len(points) != 4 else kind
            flat = [value for point in points for value in point]
            is_empty = len(points) < 3 or is_flat(points)
        if is_empty:
            report.lose(f"{_WORDS[kind]} that encloses nothing", f"{place}: {shown(numbers)}")
            return
        item: JsonObject = {kind: flat}
        if kind == "line":
            item["line_points"] = len(points)
        self.objects.append(item | {"desc": desc.strip()})


_WORDS = {"bbox_2d": "box", "quad": "quad", "poly": "outline", "line": "line"}


def finite(numbers: object) -> list[float] | None:
    """The numbers to a thousandth of a pixel, whole ones as int; None when one is no coordinate of the contract."""
    if not isinstance(numbers, list) or not are_coordinates(numbers) or not all(map(math.isfinite, numbers)):
        return None
    rounded = [round(value, _DECIMALS) for value in numbers]
    return [int(value) if value == int(value) else value for value in rounded]


def text_number(text: object) -> float:
    """A number written as text; NaN when it is none, which no geometry accepts."""
    try:
        return float(str(text))
    except ValueError:
        return math.nan


def mapping(value: object) -> Mapping[str, Any]:
    """`value` where a mapping is expected; empty when it is something else."""
    return value if isinstance(value, Mapping) else {}


def listing(value: object) -> list[Any]:
    """`value` where a list is expected; empty when it is something else."""
    return value if isinstance(value, list) else []


def whole(value: object) -> int | None:
    """A positive whole number of pixels, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return None
    return int(value) if value == int(value) else None


def path_name(name: object) -> str:
    """A file's name with forward slashes and without detours; empty when it is none."""
    if not isinstance(name, str) or not name.strip():
        return ""
    return posixpath.normpath(name.strip().replace("\\", "/"))


def with_attributes(label: object, attributes: Iterable[tuple[object, object]]) -> object:
    """`label/name:value/...`: one level of the description per attribute that says something."""
    if not isinstance(label, str) or not label.strip():
        return label
    said = [(name, value) for name, value in attributes if value not in ("", None, False)]
    levels = [str(name) if value is True else f"{name}:{value}" for name, value in said]
    return "/".join([label.strip(), *levels])
