"""Label Studio's JSON export: a list of tasks, geometry in percent of the picture, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from plumbline.data.convert.outlines import ellipse, turned_box
from plumbline.data.convert.picture import (
    AnnotatedPicture,
    ConversionReport,
    listing,
    mapping,
    path_name,
    text_number,
    whole,
)
from plumbline.data.convert.stream import json_items
from plumbline.storage.text import shown

_UPLOADS = "/data/upload/"


def read_label_studio(source: Path, report: ConversionReport) -> Iterator[AnnotatedPicture]:
    """One picture per task, from its ground truth or else its first annotation that was not cancelled.

    Raises DamagedFileError where the file is no JSON.
    """
    for index, raw in enumerate(json_items(source, "item")):
        task = mapping(raw)
        where = f"{source}: [{index}]"
        annotations = [mapping(item) for item in listing(task.get("annotations"))]
        sound = [item for item in annotations if not item.get("was_cancelled")]
        sound.sort(key=lambda item: not item.get("ground_truth"))
        if len(sound) > 1:
            report.lose("annotation by a further annotator", where, len(sound) - 1)
        if task.get("annotations") is None and "data" not in task:
            report.lose("task that is not of the JSON export (JSON-MIN?)", where)
            continue
        results = [mapping(item) for item in listing(sound[0].get("result"))] if sound else []
        picture = AnnotatedPicture(_image_name(mapping(task.get("data")), results), where)
        _read(picture, results, report)
        yield picture


def _image_name(data: Mapping[str, Any], results: list[Mapping[str, Any]]) -> str:
    """The picture's file below the folder of pictures, from what Label Studio made of it."""
    named = {str(item.get("to_name")) for item in results}
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    key = next((key for key in ("image", *sorted(named)) if key in texts), None)
    key = key or next((key for key, value in texts.items() if _has_picture_suffix(value)), None)
    if key is None:
        return ""
    url = texts[key]
    parts = urlsplit(url)
    if parts.path.endswith("/data/local-files/") or parts.path == "/data/local-files":
        return path_name(parse_qs(parts.query).get("d", [""])[0])
    if parts.scheme in ("http", "https"):
        return url
    if parts.scheme:  # s3://bucket/a/b.jpg, gs://, azure-blob://
        return path_name(unquote(parts.path).lstrip("/"))
    if url.startswith(_UPLOADS):
        return path_name(unquote(url.removeprefix(_UPLOADS)))
    return path_name(unquote(url))


def _has_picture_suffix(text: str) -> bool:
    return text.lower().partition("?")[0].endswith((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))


def _read(picture: AnnotatedPicture, results: list[Mapping[str, Any]], report: ConversionReport) -> None:
    regions = [item for item in results if str(item.get("type")) in _REGIONS]
    answers: dict[str, list[str]] = {}
    for index, item in enumerate(results):
        place = f"{picture.place}: result[{index}]"
        kind = str(item.get("type"))
        if kind in ("choices", "textarea", "rating", "number", "taxonomy"):
            _read_choice(
                picture, item, {str(region["id"]) for region in regions if region.get("id") is not None}, answers
            )
        elif kind not in _REGIONS:
            report.lose(f"result of the kind {shown(kind)}", place)
    for index, item in enumerate(results):
        if str(item.get("type")) in _REGIONS:
            own = [] if item.get("id") is None else answers.get(str(item["id"]), [])
            _add(picture, item, f"result[{index}]", own, report)


def _read_choice(
    picture: AnnotatedPicture, item: Mapping[str, Any], regions: set[str], answers: dict[str, list[str]]
) -> None:
    """What was chosen or typed: a level of the region's description, or metadata of the whole picture."""
    value = mapping(item.get("value"))
    said = value.get(str(item.get("type")), value.get("text"))
    texts = [str(text) for text in (said if isinstance(said, list) else [said]) if text is not None]
    name = str(item.get("from_name"))
    if item.get("id") is not None and str(item["id"]) in regions:
        answers.setdefault(str(item["id"]), []).append(f"{name}:{','.join(texts)}")
    else:
        picture.metadata.setdefault(name, []).extend(texts)


_REGIONS = {
    "rectanglelabels": "rectangle",
    "rectangle": "rectangle",
    "polygonlabels": "polygon",
    "polygon": "polygon",
    "ellipselabels": "ellipse",
    "ellipse": "ellipse",
    "vectorlabels": "vector",
    "vector": "vector",
}
"""Types of results with a geometry that can be kept."""


def _add(
    picture: AnnotatedPicture, item: Mapping[str, Any], where: str, answers: list[str], report: ConversionReport
) -> None:
    place = f"{picture.place}: {where}"
    width, height = whole(item.get("original_width")), whole(item.get("original_height"))
    if width is None or height is None:
        report.lose("region without the picture's size", place)
        return
    if picture.width is None:
        picture.width, picture.height = width, height
    if (picture.width, picture.height) != (width, height) or item.get("image_rotation"):
        report.lose("region of a turned or other picture", place)
        return
    value = mapping(item.get("value"))
    labels = listing(value.get(str(item.get("type"))))
    if len(labels) > 1:
        report.lose("further label of a region", place, len(labels) - 1)
    desc = "/".join([str(labels[0]), *answers]) if labels else "/".join(answers)
    kind, numbers = _geometry(_REGIONS[str(item["type"])], value, width / 100, height / 100)
    if _REGIONS[str(item["type"])] == "ellipse":
        report.change("ellipse, written as a polygon", place)
    picture.add(kind, numbers, desc, where, report)


def _geometry(form: str, value: Mapping[str, Any], sx: float, sy: float) -> tuple[str, Any]:
    """(kind, flat pixels) from percents; sx, sy: pixels per percent."""
    number = {name: text_number(value.get(name)) for name in ("x", "y", "width", "height", "radiusX", "radiusY")}
    degrees = text_number(value.get("rotation") or 0)
    x, y = number["x"] * sx, number["y"] * sy
    if form == "rectangle":
        width, height = number["width"] * sx, number["height"] * sy
        if degrees % 360 == 0:
            return "bbox_2d", [x, y, x + width, y + height]
        return "quad", turned_box(x, y, width, height, degrees, about=(x, y))
    if form == "ellipse":
        return "poly", ellipse(x, y, number["radiusX"] * sx, number["radiusY"] * sy, degrees)
    if form == "polygon":
        pairs = map(listing, listing(value.get("points")))
        return "poly", [text_number(n) * (sy if i % 2 else sx) for pair in pairs for i, n in enumerate(pair)]
    vertices = [mapping(vertex) for vertex in listing(value.get("vertices"))]
    flat = [n for vertex in vertices for n in (text_number(vertex.get("x")) * sx, text_number(vertex.get("y")) * sy)]
    return ("poly" if value.get("closed") else "line"), flat
