"""The demonstration's pictures: annotations next to predictions, and the contact sheet that the README shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from plumbline.data.contract import build_record
from plumbline.data.images import load_image
from plumbline.data.read import read_records
from plumbline.data.record import DataObject
from plumbline.report.charts import ChartLine, curve_picture
from plumbline.report.overlay import draw_objects
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_rows

REPORT_PX, SHEET_PX = 640, 460  # longer side of a drawn picture in the report and for the sheet
_CELL, _GAP, _MARGIN, _TITLE = (340, 284), 12, 20, 28
_INK, _PAGE = (27, 34, 48), (245, 247, 250)


@dataclass(frozen=True)
class Held:
    """One held-out picture: its annotation, and what the model said about it.

    before, text: replies of the base model and of the trained one. problems: what of `text` could not be read.
    """

    image: str
    picture: Image.Image
    truth: Sequence[DataObject]
    found: Sequence[DataObject]
    before: str
    text: str
    status: str
    problems: tuple[str, ...]
    credit: str

    def drawn(self, objects: Sequence[DataObject], longest: int = REPORT_PX) -> Image.Image:
        """The picture with these objects over it, its longer side `longest` pixels."""
        return drawn(self.picture, objects, longest)


def drawn(picture: Image.Image, objects: Sequence[DataObject], longest: int = REPORT_PX) -> Image.Image:
    """A picture with objects over it, its longer side `longest` pixels; the smaller, the larger the labels in it."""
    return draw_objects(picture, objects, scale=longest / max(picture.size))


def held_out(val_jsonl: Path, captions: Path) -> list[Held]:
    """The held-out pictures in the order of the validation file, with the rows of `before.jsonl` and `after.jsonl`."""
    before, after = ({row["key"]: row for row in read_rows(captions / f"{name}.jsonl")} for name in ("before", "after"))
    held = []
    for record in read_records(val_jsonl):
        image = record.images[0]
        row: JsonObject = after[image]
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
                str(record.metadata.get("credit", "")),
            )
        )
    return held


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], charts: Sequence[tuple[str, Sequence[ChartLine]]]
) -> Image.Image:
    """Rows of titled pictures, four in a row, above two titled charts; the same input gives the same pixels.

    The picture has a palette of 256 colours, which keeps its file small.
    """
    width = 2 * _MARGIN + 4 * _CELL[0] + 3 * _GAP
    chart = ((width - 2 * _MARGIN - _GAP) // 2, 240)
    row = _CELL[1] + _TITLE + _GAP
    sheet = np.full((_MARGIN + len(rows) * row + chart[1] + _TITLE + _MARGIN, width, 3), _PAGE, np.uint8)
    top = _MARGIN
    for title, pictures in rows:
        _write(sheet, title, (_MARGIN, top + 16))
        for column, picture in enumerate(pictures[:4]):
            _paste(sheet, picture, (_MARGIN + column * (_CELL[0] + _GAP), top + _TITLE), _CELL)
        top += row
    for column, (title, lines) in enumerate(charts[:2]):
        left = _MARGIN + column * (chart[0] + _GAP)
        _write(sheet, title, (left, top + 16))
        _paste(sheet, curve_picture(lines, *chart), (left, top + _TITLE), chart)
    return Image.fromarray(sheet).quantize(256, dither=Image.Dither.FLOYDSTEINBERG)


def _write(sheet: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(sheet, text, place, _INK, cv2.FontFace("uni"), 16, 500)


def _paste(sheet: np.ndarray, picture: Image.Image, place: tuple[int, int], cell: tuple[int, int]) -> None:
    """Put the picture, reduced to fit, in the middle of a white cell."""
    left, top = place
    sheet[top : top + cell[1], left : left + cell[0]] = 255
    ratio = min(cell[0] / picture.width, cell[1] / picture.height)
    small = picture.resize((round(picture.width * ratio), round(picture.height * ratio)), Image.Resampling.LANCZOS)
    left, top = left + (cell[0] - small.width) // 2, top + (cell[1] - small.height) // 2
    sheet[top : top + small.height, left : left + small.width] = np.asarray(small)
