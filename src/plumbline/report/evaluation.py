"""The page of an evaluation: figures, error budget, confusions, and the worst pictures with their annotations."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from plumbline.data.images import ImagePolicy, load_image
from plumbline.data.record import DataObject
from plumbline.errors import DataError
from plumbline.evaluate.counts import COLUMN, PictureCounts
from plumbline.evaluate.figures import Difference, Figure
from plumbline.evaluate.label_suspects import LabelSuspect
from plumbline.evaluate.matching import ERROR_KINDS
from plumbline.evaluate.pairs import Pair
from plumbline.evaluate.run import Evaluation
from plumbline.evaluate.summaries import COLUMN as SUMMARY_COLUMN
from plumbline.evaluate.verbs import ranked
from plumbline.report.html import data_url, render_page, write_page
from plumbline.report.overlay import draw_objects
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import printable

SIDE = 520
"""Longest side of a picture on the page, in pixels."""
_CLASSES = 12
_ROWS = 25
_TEXT = 240

MEANINGS = {
    "missed": "annotated, and nothing stands for it",
    "ghost": "described, and nothing is there",
    "duplicate": "described a second time",
    "localisation": "the right class, too far off",
    "class": "the right place, another class",
    "both": "too far off, and another class",
}
MAIN = {
    "dense": ("f1_50", "f1_75", "f1_50_95", "hallucinated_pictures", "description_exact", "replies_read_whole"),
    "summary": ("summary_item_f1", "summary_name_f1", "summary_exact", "replies_read_whole"),
}


def write_evaluation(
    path: Path,
    found: Evaluation,
    differences: dict[str, Difference],
    other: Evaluation | None = None,
    suspects: Sequence[LabelSuspect] = (),
    *,
    policy: ImagePolicy,
    shown: int = 60,
) -> Path:
    """Write the page and return its path; pictures are opened only where `policy` allows.

    Args:
        path: Of the page.
        found: The evaluation.
        differences: To another model, by figure; empty without one.
        other: The other model's, whose predictions are drawn too; the pictures that became worst come first then.
        suspects: Annotations that are probably wrong; the pictures of the first `shown` of them are on the page too.
        policy: Where pictures may lie.
        shown: Most pictures on the page.
    """
    script = (resources.files("plumbline.report") / "templates" / "evaluation.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    score = found.figures[MAIN[found.mode][0]]
    context = {
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "headline": f"{'F1 at IoU 0.5' if found.mode == 'dense' else 'F1 over items'}: {_value(score.value)}",
        "truth": printable(str(found.files.truth)),
        "predictions": printable(str(found.files.predictions)),
        "pictures": len(found.files.pairs),
        "mode": found.mode,
        "notes": [printable(note) for note in found.notes],
        "main": [_figure(name, found.figures[name]) for name in MAIN[found.mode]],
        "figures": [_figure(name, each) for name, each in found.figures.items() if each.value is not None],
        "differences": [_difference(name, each) for name, each in ranked(differences)],
        "against": "" if other is None else printable(str(other.files.predictions)),
        "budget": _budget(found) if found.mode == "dense" else [],
        "groups": list(_groups(found)),
        "confusion": _confusion(found),
        "coco": ", ".join(f"{name} {_value(value)}" for name, value in found.coco.items()),
        "cards": [],
        "filters": [],
    }
    suspects = suspects[:shown]
    cards = list(_cards(found, other, policy, shown, suspects))
    context |= {"cards": cards, "filters": _filters(cards), "suspects": [_suspect_row(each) for each in suspects]}
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_page(path, render_page("evaluation.html", context))


def label(name: str) -> str:
    """A figure's name for people."""
    words = {"f1_50": "F1 at IoU 0.5", "f1_75": "F1 at IoU 0.75", "f1_50_95": "F1, mean of IoU 0.5 to 0.95"}
    if name.startswith("gain_"):
        return f"F1 gained if {name.removeprefix('gain_')} errors were mended"
    return words.get(name, name.replace("_50", " at IoU 0.5").replace("_", " "))


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _figure(name: str, each: Figure) -> JsonObject:
    interval = "" if each.low is None else f"{_value(each.low)} to {_value(each.high)}"
    return {"label": label(name), "value": _value(each.value), "interval": interval}


def _difference(name: str, each: Difference) -> JsonObject:
    kind = ("worse" if each.is_worse(name) else "better") if each.is_significant else ""
    interval = f"{each.low:+.3f} to {each.high:+.3f}"
    return {
        "label": label(name),
        "value": f"{each.value:+.3f}",
        "interval": interval,
        "p": f"{each.p:.2g}",
        "kind": kind,
    }


def _budget(found: Evaluation) -> list[JsonObject]:
    sums = found.counts.sum(axis=0)
    gains = {kind: found.figures[f"gain_{kind}"].value or 0.0 for kind in ERROR_KINDS}
    most = max(gains.values()) or 1.0
    return [
        {
            "kind": kind,
            "meaning": MEANINGS[kind],
            "count": int(sums[COLUMN[kind]]),
            "gain": gain,
            "width": round(100 * gain / most),
        }
        for kind, gain in sorted(gains.items(), key=lambda item: -item[1])
    ]


def _groups(found: Evaluation) -> Iterator[JsonObject]:
    titles = {"class": ("By class", "class"), "kind": ("By geometry", "geometry"), "size": ("By size", "size")}
    for dimension, groups in found.groups.items():
        title, column = titles[dimension]
        rows = [
            {
                "name": printable(group.name, limit=80),
                "truth": group.truth,
                "found": group.found,
                "right": group.right,
                "f1": group.f1,
            }
            for group in groups[:_ROWS]
        ]
        yield {"title": title, "column": column, "rows": rows, "more": max(0, len(groups) - _ROWS)}


def _confusion(found: Evaluation) -> JsonObject:
    """The most frequent classes as a table; cells are shaded by their share of the row."""
    names = [group.name for group in found.groups.get("class", ())[:_CLASSES]]
    if not names:
        return {"rows": [], "columns": []}
    columns = [*names, ""]
    rows = []
    for mine in columns:
        counts = [found.confusion[mine, theirs] for theirs in columns]
        total = sum(counts) or 1
        cells = [
            {"count": count, "share": round(count / total, 3), "kind": "hit" if mine == theirs else "miss"}
            for theirs, count in zip(columns, counts, strict=True)
        ]
        rows.append({"name": printable(mine, limit=30) or "–", "cells": cells})
    return {"rows": rows, "columns": [printable(name, limit=30) or "–" for name in columns]}


def _cards(
    found: Evaluation, other: Evaluation | None, policy: ImagePolicy, shown: int, suspects: Sequence[LabelSuspect]
) -> Iterator[JsonObject]:
    """The pictures with most errors; compared with another model, those with most more than it had.

    Pictures of label suspects that are not among them follow.
    """

    def rank(index: int) -> tuple[float, float]:
        now = _badness(found, index)
        return (now if other is None else now - _badness(other, index), now)

    order = sorted(range(len(found.files.pairs)), key=rank, reverse=True)
    first = order[:shown]
    suspected = {suspect.picture for suspect in suspects}
    for index in (*first, *sorted(suspected - set(first))):
        pair = found.files.pairs[index]
        counts = found.pictures[index] if found.pictures else None
        earlier = None if other is None else other.files.pairs[index]
        card = _card(index, pair, earlier, counts, policy, found.files.truth.parent)
        yield card | {"labels": "suspect" if index in suspected else ""}


def _suspect_row(suspect: LabelSuspect) -> JsonObject:
    annotated = (
        "" if suspect.annotated is None else f"{suspect.annotated + 1} {printable(suspect.annotated_desc, limit=60)}"
    )
    return {
        "link": _card_id(suspect.picture),
        "place": printable(suspect.place),
        "kind": suspect.kind,
        "annotated": annotated or "nothing",
        "described": f"{suspect.described + 1} {printable(suspect.described_desc, limit=60)}",
    }


def _card_id(index: int) -> str:
    return f"p-{index + 1}"


def _badness(found: Evaluation, index: int) -> float:
    """Errors on a picture; of a summary, the items that are not right."""
    row = found.counts[index]
    if found.mode == "dense":
        return float(sum(row[COLUMN[kind]] for kind in ERROR_KINDS))
    names = ("items_truth", "items_found", "items_right", "items_right")
    truth, predicted, *right = (float(row[SUMMARY_COLUMN[name]]) for name in names)
    return truth + predicted - sum(right)


def _card(
    index: int, pair: Pair, earlier: Pair | None, counts: PictureCounts | None, policy: ImagePolicy, folder: Path
) -> JsonObject:
    image, note = _opened(pair, policy, folder)
    lines = [] if counts is None else list(_error_lines(pair, counts))
    errors = counts.errors if counts is not None else None
    kinds = {*(errors.kinds if errors else ()), *(("missed",) if errors and errors.missed else ())} - {""}
    groups = counts.groups if counts is not None else {}
    return {
        "id": _card_id(index),
        "name": printable(pair.image, limit=120),
        "place": printable(pair.place),
        "status": printable(pair.status),
        "note": note,
        "truth": _drawn(image, pair.size, pair.truth),
        "found": _drawn(image, pair.size, pair.found),
        "earlier": "" if earlier is None else _drawn(image, pair.size, earlier.found),
        "earlier_text": printable(earlier.text, limit=_TEXT) if earlier is not None and counts is None else "",
        "truth_text": printable(pair.summary or "", limit=_TEXT) if counts is None else "",
        "found_text": printable(pair.text, limit=_TEXT) if counts is None else "",
        "lines": lines,
        "errors": "\t".join(sorted(kinds)),
        "classes": "\t".join(sorted(printable(name, limit=80) for side, name in groups if side == "class")),
        "sizes": "\t".join(sorted(name for side, name in groups if side == "size")),
    }


def _opened(pair: Pair, policy: ImagePolicy, folder: Path) -> tuple[Image.Image | None, str]:
    """(the picture, or why it is not shown)."""
    try:
        return load_image(policy.reference(pair.image, folder), policy.max_pixels), ""
    except DataError as error:
        return None, f"the picture is not shown: {printable(error.problems[0].what)}"


def _drawn(image: Image.Image | None, size: tuple[int, int], objects: Sequence[DataObject]) -> str:
    """The objects over the picture, or over paper of its shape; what a record calls its size is never allocated."""
    if image is not None:
        return data_url(draw_objects(image, objects, scale=min(1.0, SIDE / max(image.size))))
    scale = min(1.0, SIDE / max(*size, 1))
    paper = Image.new("RGB", (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))), "white")
    smaller = [DataObject(item.desc, item.shape.with_points(item.shape.points * scale)) for item in objects]
    return data_url(draw_objects(paper, smaller))


def _error_lines(pair: Pair, counts: PictureCounts) -> Iterator[str]:
    """Every error of a picture in words; numbers are those on the drawn tags."""
    errors = counts.errors
    assert errors is not None
    for index, (kind, partner) in enumerate(zip(errors.kinds, errors.partners, strict=True)):
        if kind:
            of = f", annotated {partner + 1} {_short(pair.truth[partner])}" if partner >= 0 else ""
            yield f"{kind}: predicted {index + 1} {_short(pair.found[index])}{of}"
    for index in errors.missed:
        yield f"missed: annotated {index + 1} {_short(pair.truth[index])}"


def _short(item: DataObject) -> str:
    return printable(item.desc, limit=60)


def _filters(cards: Sequence[Mapping[str, str]]) -> list[JsonObject]:
    wanted = {"error": ("errors", "error"), "class": ("classes", "class"), "size": ("sizes", "size")}
    wanted["label"] = ("labels", "label")
    filters = []
    for name, (field, title) in wanted.items():
        values = sorted({value for card in cards for value in card[field].split("\t") if value})
        filters.append({"name": name, "label": title, "options": values})
    return [each for each in filters if each["options"]]
