"""A reply becomes a caption row: `{key, image, width, height, objects, text, status, problems}`."""

from __future__ import annotations

from dataclasses import dataclass

from plumbline.data.answer import parse_answer, to_pixels
from plumbline.data.record import DataObject, Record, record_to_mapping
from plumbline.infer.engine import Reply
from plumbline.infer.runner import ERROR, INVALID, OK
from plumbline.storage.objects import JsonObject


@dataclass(frozen=True)
class CaptionRow:
    """One line of the output.

    Attributes:
        key: The picture's key in the input.
        image: Its path.
        width: Pixels of the stored picture, EXIF applied; 0 when it could not be opened.
        height: The same.
        objects: As in a record, in pixels.
        text: The reply as it came.
        status: `ok` (all of the reply was read), `invalid` (some of it could not be), `error:<kind>` (no reply).
        problems: What could not be read.
    """

    key: str
    image: str
    width: int
    height: int
    objects: tuple[DataObject, ...]
    text: str
    status: str
    problems: tuple[str, ...]

    def as_dict(self) -> JsonObject:
        objects = record_to_mapping(Record(objects=self.objects)).get("objects", [])
        return {
            "key": self.key,
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "objects": objects,
            "text": self.text,
            "status": self.status,
            "problems": list(self.problems),
        }


def error_row(key: str, image: str, kind: str, detail: str, size: tuple[int, int] = (0, 0)) -> CaptionRow:
    """A row for a picture without a reply. kind: `image`, `memory`, ..."""
    return CaptionRow(key, image, *size, (), "", f"{ERROR}{kind}", (detail,))


def caption_row(image: str, size: tuple[int, int], reply: Reply, mode: str, emit_norm: str) -> CaptionRow:
    """The row of a reply about the picture `image` of `size` (width, height)."""
    if reply.error:
        return error_row(reply.key, image, reply.error, reply.detail, size)
    objects, problems = read_dense(reply, size, emit_norm) if mode == "dense" else ((), read_summary(reply))
    problems = problems or read_end(reply)
    return CaptionRow(reply.key, image, *size, objects, reply.text, INVALID if problems else OK, problems)


def read_end(reply: Reply) -> tuple[str, ...]:
    """What is wrong with the end of a reply: the model was stopped before it came there."""
    why = f": {reply.detail}" if reply.detail else ""
    return () if reply.is_finished else (f"the reply was stopped after {reply.tokens} tokens{why}",)


def read_dense(reply: Reply, size: tuple[int, int], emit_norm: str) -> tuple[tuple[DataObject, ...], tuple[str, ...]]:
    """The objects of a reply in pixels, and why anything is not among them; repeated ones are kept and reported."""
    parsed = parse_answer(reply.text)
    objects, problems = to_pixels(parsed, emit_norm, *size)
    first: dict[tuple[str, tuple[float, ...], str], str] = {}
    repeated = []
    for item in parsed.objects:
        seen = first.setdefault((item.kind, item.numbers, item.desc), item.name)
        if seen != item.name:
            repeated.append(f"{item.name} repeats {seen}")
    return objects, (*problems, *repeated)


def read_summary(reply: Reply) -> tuple[str, ...]:
    """What is wrong with a summary: it is one line that says something."""
    lines = reply.text.strip().splitlines()
    if len(lines) != 1:
        return ("the summary is empty" if not lines else f"the summary has {len(lines)} lines",)
    return ()
