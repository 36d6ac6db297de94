"""The rules of the JSONL contract that a record must keep to be usable at all, and building the record from them.

`find_breaches` looks at plain JSON values and reports every breach; `build_record` trusts a record without breaches.
What is suspicious but usable (unknown keys, geometry out of the picture, duplicates) belongs to `check.py`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from plumbline.data.findings import Findings
from plumbline.data.record import SCHEMA, GroupedObjects, Record
from plumbline.geometry import KINDS
from plumbline.geometry.group import Outline, ShapeGroup
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown

RECORD_KEYS = ("schema", "images", "width", "height", "objects", "summary", "metadata", "messages")
COUNTS_OF_POINTS = {"line_points": "line", "poly_points": "poly"}
"""Keys that may state how many points a geometry has."""
OBJECT_KEYS = (*KINDS, *COUNTS_OF_POINTS, "desc")
ROLES = ("system", "user", "assistant")
MAX_SIDE = 1_000_000
MAX_COORDINATE = 1e9
MAX_DEPTH = 32

_NUMBERS = frozenset((int, float))
KIND_OF_KEYS: dict[tuple[str, ...], str] = {keys: kind for kind in KINDS for keys in ((kind, "desc"), ("desc", kind))}
"""The kind of an object by its keys, where these are one geometry and the desc and nothing else."""
_COUNTS = {
    "bbox_2d": "4 numbers [x1, y1, x2, y2]",
    "quad": "8 numbers [x1, y1, ..., x4, y4]",
    "poly": "an even count of at least 6 numbers",
    "line": "an even count of at least 4 numbers",
}


def find_breaches(raw: Any, found: Findings) -> None:
    """Append to `found` every rule of the contract that `raw`, one parsed line, breaks."""
    if not isinstance(raw, dict):
        found.add("not-an-object", "", f"a record must be a JSON object, not {type(raw).__name__}")
        return
    if raw.get("schema", SCHEMA) != SCHEMA or isinstance(raw.get("schema"), bool):
        found.add("schema", "schema", f"unknown schema {shown(raw['schema'])}", f"this version reads schema {SCHEMA}")
    if "images" not in raw and "messages" not in raw:
        found.add("no-images", "images", "neither `images` nor `messages`", 'add "images": ["picture.jpg"]')
    if "messages" in raw:
        _check_chat(raw, found)
    _check_images(raw, found)
    _check_size(raw, found)
    _check_objects(raw, found)
    if raw.get("summary") is not None:
        check_text(raw["summary"], "summary", found)
    _check_metadata(raw, found)


def build_record(raw: Mapping[str, Any], file: str, line: int) -> Record:
    """The record of a line without breaches."""
    return build_records([raw], file, [line])[0]


def build_records(rows: Iterable[Mapping[str, Any]], file: str, lines: Sequence[int]) -> list[Record]:
    """The records of lines without breaches; together they cost less than each by itself.

    Of a row nothing is kept but what its record holds: a picture in base64 may be megabytes.
    """
    outlines: list[list[Outline]] = []
    parsed: list[tuple[Any, ...]] = []
    for raw in rows:
        items = raw.get("objects") or ()
        outlines.append([geometry_of(item) for item in items])
        parsed.append(
            (
                tuple([_image_reference(image) for image in raw.get("images") or ()]),
                raw.get("width"),
                raw.get("height"),
                [item["desc"] for item in items],
                raw.get("summary"),
                MappingProxyType(raw.get("metadata") or {}),
                tuple(raw["messages"]) if raw.get("messages") is not None else None,
                raw.get("objects") == [],
            )
        )
    return [
        Record(
            images, width, height, GroupedObjects(descs, group), summary, metadata, messages, file, line, is_negative
        )
        for (images, width, height, descs, summary, metadata, messages, is_negative), group, line in zip(
            parsed, ShapeGroup.of_outlines(outlines), lines, strict=True
        )
    ]


def geometry_of(item: Mapping[str, Any]) -> tuple[str, list[float]]:
    """(kind, numbers) of an object without breaches."""
    kind = KIND_OF_KEYS.get(tuple(item)) or next(kind for kind in KINDS if kind in item)
    return kind, item[kind]


def check_text(value: Any, where: str, found: Findings) -> bool:
    """Whether `value` is text that can be trained on: not blank, encodable as UTF-8."""
    if not isinstance(value, str):
        found.add("not-text", where, f"must be text, not {type(value).__name__}")
    elif not value.strip():
        found.add("empty-text", where, "is empty", "write what is seen, or remove the object")
    elif not is_encodable(value):
        found.add("bad-unicode", where, f"half a surrogate pair in {shown(value)}", "write the whole character")
    else:
        return True
    return False


def is_encodable(text: str) -> bool:
    """False for half surrogate pairs, which JSON can spell and UTF-8 cannot."""
    if text.isascii() or text.isprintable():  # both are fast, and no surrogate is printable
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _image_reference(image: str | Mapping[str, Any]) -> str:
    if isinstance(image, str):
        return image
    from plumbline.data.images import png_data_url  # Pillow is not needed for paths

    data = image["bytes"]
    return png_data_url(base64.b64decode(data) if isinstance(data, str) else data)


def _check_images(raw: JsonObject, found: Findings) -> None:
    images = raw.get("images", [])
    if not isinstance(images, list):
        found.add("images", "images", f"must be a list of paths, not {type(images).__name__}", 'write ["picture.jpg"]')
        return
    if not images and "messages" not in raw and "images" in raw:
        found.add("no-images", "images", "is empty", "name the picture, or give `messages` for text alone")
    for index, image in enumerate(images):
        what = _image_breach(image)
        if what:
            found.add("images", f"images[{index}]", what, "a path relative to the JSONL's folder is expected")


def _image_breach(image: Any) -> str:
    if isinstance(image, Mapping) and set(image) == {"bytes"}:
        return "" if _is_image_bytes(image["bytes"]) else "`bytes` must be base64 text"
    if not isinstance(image, str):
        return f"must be a path, not {type(image).__name__}"
    if not image.strip():
        return "is empty"
    if "\0" in image:
        return "holds a NUL byte"
    return "" if is_encodable(image) else f"half a surrogate pair in {shown(image)}"


def _is_image_bytes(data: Any) -> bool:
    if not isinstance(data, str):
        return isinstance(data, bytes)
    try:
        return bool(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return False


def _check_size(raw: JsonObject, found: Findings) -> None:
    for key in ("width", "height"):
        value = raw.get(key)
        if value is not None and not (type(value) is int and 0 < value <= MAX_SIDE):
            found.add("size", key, f"must be a positive whole number of pixels, not {shown(value)}")
        elif value is None and raw.get("objects"):
            found.add("size", key, "is missing", "objects need the picture's width and height in pixels")
    if (raw.get("width") is None) != (raw.get("height") is None) and not raw.get("objects"):
        found.add("size", "width", "width and height go together", "give both or neither")


def _check_objects(raw: JsonObject, found: Findings) -> None:
    objects = raw.get("objects")
    if objects is None:
        return
    if not isinstance(objects, list):
        found.add("objects", "objects", f"must be a list, not {type(objects).__name__}")
        return
    images = raw.get("images")
    if objects and isinstance(images, list) and len(images) > 1:
        found.add(
            "objects", "objects", f"{len(images)} images", "objects belong to exactly one image: split the record"
        )
    if are_plain_objects(objects):
        return
    for index, item in enumerate(objects):
        if isinstance(item, dict):
            _check_object(item, f"objects[{index}]", found)
        else:
            found.add("objects", f"objects[{index}]", f"must be a JSON object, not {type(item).__name__}")


def are_plain_objects(objects: list[Any]) -> bool:
    """The short road for what nearly every list of objects is: one geometry and a printable desc each, all right.

    False only means that `_check_object` has to look at each.
    """
    numbers: list[Any] = []
    descs: list[Any] = []
    for item in objects:
        kind = KIND_OF_KEYS.get(tuple(item)) if type(item) is dict else None
        if kind is None:
            return False
        own = item[kind]
        if type(own) is not list or not is_right_count(kind, len(own)):
            return False
        numbers += own
        descs.append(item["desc"])
    if not are_coordinates(numbers) or set(map(type, descs)) != {str}:
        return False
    return "".join(descs).isprintable() and all(map(str.strip, descs))


def _check_object(item: JsonObject, where: str, found: Findings) -> None:
    if "desc" not in item:
        found.add("no-desc", where, "has no `desc`", 'add "desc": "..."')
    else:
        check_text(item["desc"], f"{where}.desc", found)
    kinds = [kind for kind in KINDS if kind in item]
    if len(kinds) != 1:
        what = f"has {len(kinds)} geometries ({', '.join(kinds)})" if kinds else f"has no geometry, only {_names(item)}"
        found.add("geometry-count", where, what, f"give exactly one of {', '.join(KINDS)}")
    for kind in kinds:
        _check_numbers(kind, item[kind], f"{where}.{kind}", found)
    for key, kind in COUNTS_OF_POINTS.items():
        if key in item:
            _check_count(item, key, kind, f"{where}.{key}", found)


def _names(item: JsonObject) -> str:
    return ", ".join(shown(key) for key in list(item)[:6]) or "nothing"


def _check_numbers(kind: str, numbers: Any, where: str, found: Findings) -> None:
    if not isinstance(numbers, list):
        found.add("geometry", where, f"must be a list of numbers, not {type(numbers).__name__}")
        return
    if not are_coordinates(numbers):
        value = next(value for value in numbers if not are_coordinates([value]))
        nested = "write the pairs as one flat list" if isinstance(value, list) else ""
        found.add("geometry", where, f"{shown(value)} is not a pixel coordinate", nested)
    elif not is_right_count(kind, len(numbers)):
        found.add("geometry", where, f"{len(numbers)} numbers", f"{kind} needs {_COUNTS[kind]}")


def are_coordinates(numbers: list[Any]) -> bool:
    """Whether all are finite numbers of a sane size (no booleans, no text)."""
    if not numbers:
        return True
    return _NUMBERS.issuperset(map(type, numbers)) and -MAX_COORDINATE < min(numbers) <= max(numbers) < MAX_COORDINATE


def is_right_count(kind: str, count: int) -> bool:
    """Whether `count` numbers make a geometry of `kind`."""
    if kind == "bbox_2d":
        return count == 4
    if kind == "quad":
        return count == 8
    return count % 2 == 0 and count >= (6 if kind == "poly" else 4)


def _check_count(item: JsonObject, key: str, kind: str, where: str, found: Findings) -> None:
    code, numbers = key.replace("_", "-"), item.get(kind)
    if not isinstance(numbers, list):
        found.add(code, where, f"without a `{kind}`", f"remove it, or give the {kind}")
    elif type(item[key]) is not int or item[key] * 2 != len(numbers):
        what = f"says {shown(item[key])}, the {kind} has {len(numbers) / 2:g} points"
        found.add(code, where, what, f"make them agree, or leave {key} out")


def _check_metadata(raw: JsonObject, found: Findings) -> None:
    metadata = raw.get("metadata")
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        found.add("metadata", "metadata", f"must be a JSON object, not {type(metadata).__name__}")
    elif is_deeper_than(metadata, MAX_DEPTH):
        found.add("metadata", "metadata", f"nested deeper than {MAX_DEPTH} levels")


def is_deeper_than(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` levels; never recurses."""
    level = [value]
    for _ in range(limit):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict | list)]


def _check_chat(raw: JsonObject, found: Findings) -> None:
    others = [key for key in ("images", "objects", "summary", "width", "height") if raw.get(key) is not None]
    if others:
        found.add("chat-mixed", "messages", f"besides {', '.join(others)}", "a record is a chat or a described picture")
    messages = raw["messages"]
    if not isinstance(messages, list) or not messages:
        found.add("messages", "messages", "must be a list of turns that is not empty")
        return
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    for index, message in enumerate(messages):
        _check_turn(message, f"messages[{index}]", found)
    turns = roles[1:] if roles[0] == "system" else roles
    if set(turns) <= {"user", "assistant"} and turns != ["user", "assistant"] * (len(turns) // 2):
        fix = "one optional system turn, then user and assistant in turn, the assistant last"
        found.add("messages", "messages", f"turns are {', '.join(map(str, roles[:8]))}", fix)


def _check_turn(message: Any, where: str, found: Findings) -> None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, dict) else message
        found.add("messages", where, f"unknown role {shown(role)}", f"one of {', '.join(ROLES)}")
        return
    content = message.get("content")
    if not isinstance(content, list):
        check_text(content, f"{where}.content", found)
        return
    for index, item in enumerate(content):
        _check_item(item, message["role"], f"{where}.content[{index}]", found)
    if not content:
        found.add("empty-text", f"{where}.content", "is empty")


def _check_item(item: Any, role: str, where: str, found: Findings) -> None:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "text":
        check_text(item.get("text"), f"{where}.text", found)
    elif kind in ("image", "image_url") and role == "user":
        what = _image_breach(image_of(item))
        if what:
            found.add("images", where, what, 'write {"type": "image", "image": "picture.jpg"}')
    else:
        found.add("messages", where, f"unknown content {shown(item)}", "text anywhere, images in user turns only")


def image_of(item: Mapping[str, Any]) -> Any:
    """The image of a content item in any accepted spelling: `image`, `image_url` plain, or `image_url` with `url`."""
    value = item.get(item["type"])
    return value.get("url") if isinstance(value, Mapping) and "url" in value else value
