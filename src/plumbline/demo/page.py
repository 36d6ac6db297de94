"""The demonstration's report: one page that shows what was done, how long it took, and what came of it."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from plumbline.data.images import load_image
from plumbline.data.read import read_records
from plumbline.data.record import DataObject, Record
from plumbline.demo.pictures import REPORT_PX, SHEET_PX, Held, contact_sheet, drawn, held_out
from plumbline.demo.recipes import Places, Recipe
from plumbline.demo.stages import TITLES
from plumbline.evaluate.drift import CELLS
from plumbline.report.charts import curve_svg
from plumbline.report.html import data_url, render_page, write_page
from plumbline.report.log import read_log
from plumbline.report.overlay import class_colour, class_name
from plumbline.report.run import loss_charts, paired_lines
from plumbline.storage.objects import JsonObject

SHEET_FILE = "contact_sheet.png"
_KINDS = {"bbox_2d": "boxes", "quad": "quads", "poly": "polygons", "line": "lines"}
_SHEET_PHOTOS = ("photos/chelsea.png", "photos/coffee.png", "photos/rocket.jpg", "photos/camera.png")
_EXAMPLES = ("photos/china.jpg", "photos/motorcycle.png", "photos/camera.png", "photos/coffee.png")


def write_demo_page(places: Places, recipe: Recipe, summary: Mapping[str, Any]) -> Path:
    """Write `report.html` and `contact_sheet.png` from the finished stages; returns the page's path."""
    sft, anchored = (read_log(folder / "logging.jsonl") for folder in (places.sft, places.anchored))
    held = held_out(places.data / "val.jsonl", places.captions)
    train = list(read_records(places.data / "train.jsonl"))
    context = {
        "summary": summary,
        "recipe": recipe,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "stages": _stages(summary["stages"]),
        "sft_charts": [
            {"title": "loss", "svg": curve_svg(paired_lines(sft, "loss"))},
            {"title": "token accuracy", "svg": curve_svg(paired_lines(sft, "token_acc"))},
        ],
        "anchored_charts": [{"title": chart.title, "svg": chart.svg} for chart in loss_charts(anchored)],
        "drift": list(_drift(summary["drift"])),
        "kinds": _shares({_KINDS[kind]: count for kind, count in summary["data"]["geometries"].items()}),
        "classes": _classes(train),
        "examples": [_example(record, places.data) for record in train if record.images[0] in _EXAMPLES],
        "held": [_shown(item) for item in held],
        "configs": {
            name: (places.configs / f"{name}.yaml").read_text(encoding="utf-8") for name in ("sft", "anchored")
        },
    }
    save_contact_sheet(places, train, held)
    html = render_page("demo.html", context, package="plumbline.demo")
    return write_page(places.output / "report.html", html)


def save_contact_sheet(places: Places, train: Sequence[Record], held: Sequence[Held]) -> Path:
    """Write `contact_sheet.png`: annotated photographs, held-out pictures as annotated and as described, curves."""
    sft, anchored = (read_log(folder / "logging.jsonl") for folder in (places.sft, places.anchored))
    photos = [_drawn(record, places.data, SHEET_PX) for record in train if record.images[0] in _SHEET_PHOTOS]
    # Replies that were read in full first, then those with most kinds of geometry.
    chosen = sorted(held, key=lambda item: (item.status != "ok", -len({found.shape.kind for found in item.found})))
    rows = [
        ("photographs, annotated by hand (photographs: CC0 or public domain)", photos),
        ("held-out scenes, annotation", [item.drawn(item.truth, SHEET_PX) for item in chosen]),
        ("held-out scenes, what the trained model says", [item.drawn(item.found, SHEET_PX) for item in chosen]),
    ]
    charts = [
        ("fine-tuning, loss", paired_lines(sft, "loss")),
        ("held to the base, loss", paired_lines(anchored, "loss")),
    ]
    path = places.output / SHEET_FILE
    contact_sheet(rows, charts).save(path, optimize=True)
    return path


def _drift(found: Mapping[str, Any]) -> Iterator[JsonObject]:
    """A row for each kind of probe: KL and leaks of both fine-tunes."""
    sft, anchored = found["sft"], found["anchored"]
    for cell in sft["kl"]:
        row = {"title": CELLS[cell], "kl": [sft["kl"][cell], anchored["kl"][cell]], "is_domain": cell == "domain"}
        yield row | {"leak": [side["leak"].get(cell) for side in (sft, anchored)]}


def _stages(stages: Mapping[str, Any]) -> list[JsonObject]:
    longest = max(stage["seconds"] for stage in stages.values()) or 1.0
    return [
        {"title": TITLES[name], "share": max(0.4, 100 * stage["seconds"] / longest), **stage}
        for name, stage in stages.items()
    ]


def _shares(counts: Mapping[str, int]) -> list[JsonObject]:
    most = max(counts.values())
    return [{"name": name, "count": count, "share": 100 * count / most} for name, count in counts.items()]


def _classes(records: Sequence[Record]) -> list[JsonObject]:
    """The most frequent classes of the training file with their colour in the overlays."""
    counts = Counter(class_name(item.desc) for record in records for item in record.objects)
    rows = _shares(dict(counts.most_common(10)))
    return [row | {"colour": "#{:02x}{:02x}{:02x}".format(*class_colour(row["name"]))} for row in rows]


def _example(record: Record, folder: Path) -> dict[str, str]:
    url = data_url(_drawn(record, folder))
    return {"url": url, "name": record.images[0], "credit": str(record.metadata["credit"])}


def _drawn(record: Record, folder: Path, longest: int = REPORT_PX) -> Image.Image:
    return drawn(load_image(str(folder / record.images[0])), record.objects, longest)


def _shown(item: Held) -> JsonObject:
    return {
        "name": item.image,
        "credit": item.credit,
        "truth_url": data_url(item.drawn(item.truth)),
        "model_url": data_url(item.drawn(item.found)),
        "truth": _lines(item.truth),
        "found": _lines(item.found),
        "before": item.before,
        "after": item.text,
        "is_ok": item.status == "ok",
        "status": item.status,
        "problems": item.problems,
    }


def _lines(objects: Sequence[DataObject]) -> list[str]:
    return [item.desc for item in objects]
