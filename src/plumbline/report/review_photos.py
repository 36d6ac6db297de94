"""Photos of tickets for a page: only from below one folder, downscaled, with objects drawn where captions have any."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import BoundedSemaphore

from PIL import Image

from plumbline.data.contract import build_record, find_breaches
from plumbline.data.findings import Findings
from plumbline.data.images import ImagePolicy, image_size, load_image
from plumbline.data.record import DataObject
from plumbline.errors import DataError, Problem
from plumbline.report.overlay import draw_objects
from plumbline.report.review_desk import RowIndex
from plumbline.storage.objects import JsonObject

SIDES = {"thumb": 240, "page": 1400, "full": 2600}
"""Longest side in pixels, by the requested size."""
KEPT = 96
"""Encoded photos at hand."""
_AT_ONCE = BoundedSemaphore(2)
"""Photos decoded at a time: each may take 300 MB."""


@dataclass(frozen=True)
class Seen:
    """What dense captions say of a photo. note: why nothing is drawn, empty where there is no caption either."""

    objects: tuple[DataObject, ...] = ()
    note: str = ""


class Photos:
    """The photos below `root`; without it none is shown. captions: rows with `objects` by the name of their picture."""

    def __init__(self, root: Path | None, captions: RowIndex | None = None):
        self.root = None if root is None else root.resolve()
        self._policy = ImagePolicy(roots=(str(self.root),), extra_root=None)
        self._captions = captions
        self._encoded = lru_cache(KEPT)(self._encode)

    def jpeg(self, image: str, size: str, drawn: bool) -> bytes:
        """The photo, no larger than SIDES[size]; drawn: with its objects. DataError for one that cannot be shown."""
        path = self._resolved(image)
        changed = path.stat().st_mtime_ns
        return self._encoded(path, changed, SIDES[size], self.seen(image).objects if drawn else ())

    def small(self, image: str) -> Image.Image:
        """The photo as a thumbnail; raises as `jpeg` does."""
        return self._reduced(self._resolved(image), SIDES["thumb"], ())

    def _resolved(self, image: str) -> Path:
        if self.root is None:
            raise DataError(Problem(image, "is not shown: no folder of photos was named", "give --image-root"))
        return self._policy.resolve(image, self.root)

    def seen(self, image: str) -> Seen:
        """The objects of a photo's caption; one that contradicts itself is not drawn, and said so."""
        rows = [] if self._captions is None else self._captions.rows(self._name(image))
        if not rows:
            return Seen()
        found, recorded = _objects_of(rows[-1]), (rows[-1].get("width"), rows[-1].get("height"))
        try:
            real = image_size(self._resolved(image))
        except DataError:  # the photo itself says so
            return found
        if found.objects and recorded != real:
            return Seen(
                note=f"the caption is of a picture of {recorded[0]} x {recorded[1]} pixels, not {real[0]} x {real[1]}"
            )
        return found

    def _name(self, image: str) -> str:
        """As captions name it: from the folder that both began at."""
        path = Path(image)
        if self.root is None or not path.is_relative_to(self.root):
            return image
        return path.relative_to(self.root).as_posix()

    def _encode(self, path: Path, changed: int, side: int, objects: tuple[DataObject, ...]) -> bytes:
        stream = io.BytesIO()
        self._reduced(path, side, objects).save(stream, "JPEG", quality=88)
        return stream.getvalue()

    def _reduced(self, path: Path, side: int, objects: tuple[DataObject, ...]) -> Image.Image:
        with _AT_ONCE:
            image = load_image(path)
            scale = min(1.0, side / max(image.size))
            return draw_objects(image, objects, scale=scale)


def _objects_of(row: JsonObject) -> Seen:
    raw = {name: row.get(name) for name in ("width", "height", "objects")} | {"images": ["photo"]}
    if not raw["objects"]:
        return Seen(note="the caption has no objects")
    problems = Findings("captions", 0)
    find_breaches(raw, problems)
    if problems:
        return Seen(note=f"the caption's objects cannot be drawn: {problems[0].where} {problems[0].what}")
    return Seen(tuple(build_record(raw, "captions", 0).objects))
