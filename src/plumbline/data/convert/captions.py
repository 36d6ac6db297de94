"""What `plumbline infer` wrote, as drafts for people to correct: a row per picture, objects in pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbline.data.convert.picture import AnnotatedPicture, ConversionReport, listing, mapping, path_name, whole
from plumbline.data.read import read_lines
from plumbline.geometry import KINDS
from plumbline.storage.text import shown


def read_captions(source: Path, report: ConversionReport) -> Iterator[AnnotatedPicture]:
    """The pictures of `source` in its order; a row whose picture could not be described is counted and left out.

    Raises DataError for a file that cannot be opened.
    """
    for line in read_lines(source):
        place = f"{source}:{line.number}"
        row = _row(line.data)
        if "status" not in row or "image" not in row:
            report.lose("line that is no row of captions", place)
            continue
        if row["status"] != "ok":
            report.lose(f"picture that was not described ({shown(row['status'], 40)})", place)
            continue
        if problems := listing(row.get("problems")):
            report.lose("part of a reply that is no object", f"{place}: {shown(problems[0], 100)}", len(problems))
        picture = AnnotatedPicture(path_name(row["image"]), place, whole(row.get("width")), whole(row.get("height")))
        for number, item in enumerate(map(mapping, listing(row.get("objects")))):
            kind = next((key for key in KINDS if key in item), "")
            picture.add(kind or "bbox_2d", item.get(kind), item.get("desc"), f"objects[{number}]", report)
        summary = row.get("summary")
        picture.summary = summary if isinstance(summary, str) and summary.strip() else None
        yield picture


def _row(data: bytes | None) -> Any:
    try:
        return mapping(json.loads(data or b"null"))
    except (ValueError, RecursionError):
        return {}
