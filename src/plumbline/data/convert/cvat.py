"""CVAT's XML, streamed: "CVAT for images 1.1", and the tracks of "CVAT for video 1.1" where their frames are there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbline.data.convert.outlines import ellipse, mask_outlines, turned_box
from plumbline.data.convert.picture import (
    AnnotatedPicture,
    ConversionReport,
    path_name,
    text_number,
    whole,
    with_attributes,
)
from plumbline.data.read import open_data
from plumbline.errors import DamagedFileError, Problem
from plumbline.storage.text import printable, shown_path

_SHAPES = ("box", "polygon", "polyline", "ellipse", "mask")
_OTHER = ("points", "cuboid", "skeleton")


def read_cvat(source: Path, report: ConversionReport, images: Path | None = None) -> Iterator[AnnotatedPicture]:
    """The pictures of `source` in its order, then the frames of its tracks.

    images: folder with the frames of a video as pictures (`frame_000012.png`); tracks are lost without it.
    Raises DamagedFileError where the file is no XML, or one that attacks.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, iterparse

    with open_data(source, is_xml=True) as stream:
        try:
            yield from _pictures(iterparse(stream, events=("start", "end")), source, report, images)
        except (ParseError, DefusedXmlException, ValueError) as error:
            what = f"is not CVAT's XML: {printable(str(error))[:200]}"
            raise DamagedFileError(Problem(shown_path(source), what, "export it as 'CVAT for images 1.1'")) from error


def _pictures(events: Any, source: Path, report: ConversionReport, images: Path | None) -> Iterator[AnnotatedPicture]:
    root = None
    count = 0
    depth = 0
    frames = None if images is None else _Frames(source, images, report)
    for event, element in events:
        if event == "start":
            root = element if root is None else root
            depth += 1
            continue
        depth -= 1
        if element.tag == "track" and frames is not None:
            frames.add(element)
        elif element.tag == "track":
            why = "give its frames as pictures with --images"
            report.lose("track of a video", f"{source}: track {element.get('id')}: {why}")
        if element.tag == "image":
            yield _picture(element, f"{source}: image[{count}]", report)
            count += 1
        if depth == 1 and root is not None:
            root.clear()  # what was read is let go: a large file is never whole in memory
    if frames is not None:
        yield from frames.pictures()


class _Frames:
    """The frames of a video below `images`, with what its tracks show in each."""

    def __init__(self, source: Path, images: Path, report: ConversionReport):
        self._source, self._report = source, report
        files = sorted(file for file in images.rglob("*") if _FRAME.fullmatch(file.stem))
        self._names = {int(file.stem.rpartition("_")[2]): file.relative_to(images).as_posix() for file in files}
        self._found: dict[int, AnnotatedPicture] = {}

    def add(self, track: Any) -> None:
        """The shapes of a track, each to its frame; none where the thing is outside of the picture."""
        name = f"{self._source}: track {track.get('id')}"
        for index, shape in enumerate(track):
            where, number = f"{shape.tag}[{index}]", whole(text_number(shape.get("frame")) + 1)
            if shape.get("outside") == "1":
                continue
            if number is None or number - 1 not in self._names:
                self._report.lose("shape of a frame without a picture", f"{name}: {where}")
            elif shape.tag not in _SHAPES:
                self._report.lose(f"shape of the kind {printable(str(shape.tag))[:60]}", f"{name}: {where}")
            else:
                frame = number - 1
                picture = self._found.setdefault(
                    frame, AnnotatedPicture(self._names[frame], f"{self._source}: frame {frame}")
                )
                _add(picture, shape, f"track {track.get('id')}", self._report, track.get("label"))

    def pictures(self) -> Iterator[AnnotatedPicture]:
        """In the order of the frames; those in which nothing is shown, too, where there are tracks."""
        for frame in sorted(self._names) if self._found else ():
            yield self._found.get(frame) or AnnotatedPicture(self._names[frame], f"{self._source}: frame {frame}")


_FRAME = re.compile(r"(?:frame_)?\d{1,9}")


def _picture(element: Any, place: str, report: ConversionReport) -> AnnotatedPicture:
    picture = AnnotatedPicture(
        path_name(element.get("name")),
        place,
        whole(text_number(element.get("width"))),
        whole(text_number(element.get("height"))),
    )
    for index, shape in enumerate(element):
        where = f"{shape.tag}[{index}]"
        if shape.tag in _SHAPES:
            _add(picture, shape, where, report)
        elif shape.tag == "tag":
            texts = [f"{item.get('name')}:{(item.text or '').strip()}" for item in shape.iter("attribute")]
            picture.metadata.setdefault("tags", []).append("/".join([str(shape.get("label")), *texts]))
        elif shape.tag in _OTHER:
            report.lose(f"shape of the kind {shape.tag}", f"{place}: {where}")
        else:
            report.lose("element that is not known", f"{place}: {printable(str(shape.tag))[:60]}")
    return picture


def _add(picture: AnnotatedPicture, shape: Any, where: str, report: ConversionReport, label: str | None = None) -> None:
    """label: of the track that the shape belongs to; its own without one."""
    place = f"{picture.place}: {where}"
    attributes = [(item.get("name"), (item.text or "").strip()) for item in shape.iter("attribute")]
    desc = with_attributes(
        label or shape.get("label"), [(name, "" if text == "false" else text) for name, text in attributes]
    )
    if shape.get("occluded") == "1":
        report.lose("mark of occlusion", place)
    number = {name: text_number(shape.get(name)) for name in ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry")}
    degrees = text_number(shape.get("rotation") or 0)
    if shape.tag == "box":
        x1, y1, x2, y2 = (number[name] for name in ("xtl", "ytl", "xbr", "ybr"))
        if degrees % 360 == 0:
            picture.add("bbox_2d", [x1, y1, x2, y2], desc, where, report)
        else:
            corners = turned_box(x1, y1, x2 - x1, y2 - y1, degrees, about=((x1 + x2) / 2, (y1 + y2) / 2))
            picture.add("quad", corners, desc, where, report)
    elif shape.tag == "ellipse":
        report.change("ellipse, written as a polygon", place)
        numbers = ellipse(number["cx"], number["cy"], number["rx"], number["ry"], degrees)
        picture.add("poly", numbers, desc, where, report)
    elif shape.tag == "mask":
        _add_mask(picture, shape, desc, where, report)
    else:
        pairs = [point.split(",") for point in (shape.get("points") or "").split(";") if point.strip()]
        flat = [text_number(value) for pair in pairs for value in (pair if len(pair) == 2 else [math.nan])]
        picture.add("poly" if shape.tag == "polygon" else "line", flat, desc, where, report)


def _add_mask(picture: AnnotatedPicture, shape: Any, desc: object, where: str, report: ConversionReport) -> None:
    place = f"{picture.place}: {where}"
    left, top, width, height = (whole(text_number(shape.get(name)) + shift) for name, shift in _MASK)
    try:
        counts = [int(run) for run in (shape.get("rle") or "").split(",")]
        outlines = mask_outlines(counts, width or 0, height or 0, by_columns=False)
    except ValueError:
        outlines = None
    if not outlines or left is None or top is None or width is None or height is None:
        report.lose("broken mask", place)
        return
    x, y = left - 1, top - 1
    if len(outlines) == 1:
        report.change("mask, written as its outer outline", place)
        flat = [value + (y if i % 2 else x) for i, value in enumerate(outlines[0])]
        picture.add("poly", flat, desc, where, report)
    else:
        report.change("mask of several parts, written as its box", place)
        picture.add("bbox_2d", [x, y, x + width, y + height], desc, where, report)


_MASK = (("left", 1), ("top", 1), ("width", 0), ("height", 0))
"""Attributes of a mask; its place may be 0, which `whole` does not take."""
