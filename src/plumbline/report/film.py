"""What a run said at its evaluations, as pictures for its report: a strip per picture, and the leaks over the run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from plumbline.data.images import load_image
from plumbline.errors import DataError
from plumbline.evaluate.in_run import ANSWERS, PICTURE, PROBE
from plumbline.infer.captions import read_dense
from plumbline.infer.engine import Reply
from plumbline.report.charts import COLOURS, ChartLine
from plumbline.report.html import data_url
from plumbline.report.log import Curve
from plumbline.report.overlay import draw_objects
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import printable

SIDE = 240
"""Longest side of a picture in the strip, in pixels."""
FRAMES = 6
"""Evaluations that a strip shows: the first, the last, and others evenly between."""
_TEXT = 160
_KEYS = {"step": int, "kind": str, "key": str, "text": str, "expected": str, "images": list, "emit_norm": str}


@dataclass(frozen=True)
class RunAnswers:
    """The rows of `answers.jsonl` that can be read, the last one of a step and key, and how many could not be."""

    rows: tuple[JsonObject, ...]
    unreadable: int = 0


def read_answers(folder: Path) -> RunAnswers:
    """The answers of a run folder; none where it has no such file. A torn last line does not count."""
    path = folder / ANSWERS
    if not path.is_file():
        return RunAnswers(())
    found: dict[tuple[int, str, str], JsonObject] = {}
    unreadable = 0
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for line in lines[:-1]:
        row = _row(line)
        if row is None:
            unreadable += 1
        else:
            found[row["step"], row["kind"], row["key"]] = row
    return RunAnswers(tuple(sorted(found.values(), key=lambda row: row["step"])), unreadable)


def _row(line: str) -> JsonObject | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    is_whole = isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in _KEYS.items())
    return row if is_whole else None


def film_strips(answers: RunAnswers) -> Iterator[JsonObject]:
    """For each picture its annotation and the answers of some evaluations, drawn."""
    rows = [row for row in answers.rows if row["kind"] == PICTURE]
    steps = _some(sorted({row["step"] for row in rows}))
    for key in dict.fromkeys(row["key"] for row in rows):
        own = [row for row in rows if row["key"] == key and row["step"] in steps]
        picture = _open(own[0]["images"]) if own else None
        if picture is None:
            continue
        truth = _frame(picture, own[0]["expected"], own[0]["emit_norm"], "annotated")
        yield {"frames": [truth] + [_frame(picture, r["text"], r["emit_norm"], f"step {r['step']}") for r in own]}


def leak_line(answers: RunAnswers) -> ChartLine | None:
    """Share of the probes' answers with a leak, by step; None where no probe was answered."""
    probes = [row for row in answers.rows if row["kind"] == PROBE]
    steps = sorted({row["step"] for row in probes})
    shares = []
    for step in steps:
        leaks = [bool(row.get("leak")) for row in probes if row["step"] == step]
        shares.append(sum(leaks) / len(leaks))
    return ChartLine("leaks", Curve("leaks", tuple(steps), tuple(shares)), COLOURS[1], "points") if steps else None


def last_probes(answers: RunAnswers) -> list[JsonObject]:
    """The probes' answers at the last evaluation, with the base's."""
    probes = [row for row in answers.rows if row["kind"] == PROBE]
    last = max((row["step"] for row in probes), default=0)
    names = {"question": "question", "base": "expected", "now": "text", "leak": "leak"}
    return [
        {name: printable(str(row.get(key, "")), limit=_TEXT) for name, key in names.items()}
        for row in probes
        if row["step"] == last
    ]


def _some(steps: Sequence[int]) -> set[int]:
    if len(steps) <= FRAMES:
        return set(steps)
    return {steps[round(number * (len(steps) - 1) / (FRAMES - 1))] for number in range(FRAMES)}


def _open(images: Sequence[str]) -> Image.Image | None:
    try:
        return load_image(images[0]) if images else None
    except DataError:
        return None


def _frame(picture: Image.Image, text: str, emit_norm: str, title: str) -> JsonObject:
    """A picture with what a text says is in it; a summary is the caption of the bare picture."""
    objects, problems = read_dense(Reply("", text), picture.size, emit_norm) if emit_norm else ((), ())
    drawn = draw_objects(picture, objects, scale=SIDE / max(picture.size))
    caption = f"{len(objects)} objects" if emit_norm else printable(text, limit=_TEXT)
    if problems:
        caption += f", {len(problems)} not read"
    return {"url": data_url(drawn), "title": title, "caption": caption}
