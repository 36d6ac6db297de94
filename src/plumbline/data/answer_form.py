"""How an answer is spelled: as this version does it, or as an earlier checkpoint was taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """Spelling of answers in training; parsing reads every form."""

    key_order: Literal["geometry_first", "desc_first"] = "geometry_first"
    """What comes first in an object."""
    points: Literal["flat", "pairs"] = "flat"
    """Coordinates as one list [x1, y1, x2, y2], or as pairs [[x1, y1], [x2, y2]]."""
    image_key: Literal["image_N", "图片_N"] = "image_N"
    """Name of a picture where one answer describes several."""

    def object_text(self, kind: str, numbers: Sequence[int], desc: str) -> str:
        """What is between the braces of an object. numbers: [x1, y1, ...]; desc: as JSON, with its quotes."""
        pairs = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
        written = list(numbers) if self.points == "flat" else pairs
        count = f'"line_points": {len(numbers) // 2}, ' if kind == "line" else ""
        geometry, words = f'{count}"{kind}": {written}', f'"desc": {desc}'
        return f"{geometry}, {words}" if self.key_order == "geometry_first" else f"{words}, {geometry}"

    def image_name(self, number: int) -> str:
        """Name of a picture by its number, from 1."""
        return self.image_key.replace("N", str(number))


PLAIN_FORM = AnswerForm()
