"""The demonstration's pictures: annotation beside model, and the contact sheet that the README shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from plumbline.data.contract import build_record
from plumbline.data.images import load_image
from plumbline.data.read import read_records
from plumbline.data.record import DataObject
from plumbline.infer.rows import read_rows
from plumbline.report.charts import Line, curve_picture
from plumbline.report.overlay import draw_objects

_LONGEST = 640  # pixels of a drawn picture's longer side
_CELL, _GAP, _MARGIN = (352, 300), 14, 22
_INK, _SOFT, _PAGE = (27, 34, 48), (90, 100, 117), (245, 247, 250)


@dataclass(frozen=True)
class Held:
    """One held-out picture: its annotation, and what the model said about it.

    before, text: replies of the base model and of the trained one. problems: what of `text` could not be read.
    """

    image: str
    picture: Image.Image
    truth: tuple[DataObject, ...]
    found: tuple[DataObject, ...]
    before: str
    text: str
    status: str
    problems: tuple[str, ...]

    def drawn(self, objects: Sequence[DataObject]) -> Image.Image:
        """The picture, enlarged to a readable size, with these objects over it."""
        return draw_objects(self.picture, objects, scale=_LONGEST / max(self.picture.size))


def held_out(val_jsonl: Path, captions: Path) -> list[Held]:
    """The held-out pictures in the order of the validation file, with the rows of `before.jsonl` and `after.jsonl`."""
    before, after = ({row["key"]: row for row in read_rows(captions / f"{name}.jsonl")} for name in ("before", "after"))
    held = []
    for record in read_records(val_jsonl):
        image = record.images[0]
        row: dict[str, Any] = after[image]
        held.append(
            Held(
                image,
                load_image(str(val_jsonl.parent / image)),
                record.objects,
                build_record({"objects": row["objects"]}, "", 0).objects,
                before[image]["text"],
                row["text"],
                row["status"],
                tuple(row["problems"]),
            )
        )
    return held


def contact_sheet(held: Sequence[Held], curves: Sequence[tuple[str, Sequence[Line]]], title: str) -> Image.Image:
    """Annotation above, model below, for four pictures side by side, and the training curves beneath.

    curves: title and lines of each chart, two at most. The same input gives the same pixels.
    """
    columns = held[:4]
    width = 2 * _MARGIN + 4 * _CELL[0] + 3 * _GAP
    chart = ((width - 2 * _MARGIN - _GAP) // 2, 250)
    top, row = 84, _CELL[1] + 34
    sheet = np.full((top + 2 * row + chart[1] + 70, width, 3), _PAGE, np.uint8)
    _write(sheet, title, (_MARGIN, 44), 26, _INK, 600)
    for line, label in enumerate(("annotation", "what the trained model says")):
        _write(sheet, label, (_MARGIN, top + line * row - 8 + 4), 15, _SOFT)
        for column, item in enumerate(columns):
            drawn = item.drawn(item.truth if line == 0 else item.found)
            left = _MARGIN + column * (_CELL[0] + _GAP)
            _paste(sheet, drawn, (left, top + line * row + 6), _CELL)
    base = top + 2 * row
    for column, (label, lines) in enumerate(curves[:2]):
        left = _MARGIN + column * (chart[0] + _GAP)
        _write(sheet, label, (left, base + 16), 15, _SOFT)
        _paste(sheet, curve_picture(lines, *chart), (left, base + 28), chart)
    return Image.fromarray(sheet)


def _write(
    sheet: np.ndarray, text: str, place: tuple[int, int], size: int, colour: tuple[int, int, int], weight: int = 400
) -> None:
    cv2.putText(sheet, text, place, colour, cv2.FontFace("uni"), size, weight)


def _paste(sheet: np.ndarray, picture: Image.Image, place: tuple[int, int], cell: tuple[int, int]) -> None:
    """Put the picture, reduced to fit, in the middle of a white cell."""
    left, top = place
    sheet[top : top + cell[1], left : left + cell[0]] = 255
    ratio = min(cell[0] / picture.width, cell[1] / picture.height)
    small = picture.resize((round(picture.width * ratio), round(picture.height * ratio)), Image.Resampling.LANCZOS)
    left, top = left + (cell[0] - small.width) // 2, top + (cell[1] - small.height) // 2
    sheet[top : top + small.height, left : left + small.width] = np.asarray(small)
