"""Reading a model's reply: never raises, one pass over the text, nothing repaired without saying so.

The reply may be wrapped in prose or a code fence, be cut off, or be damaged in the middle. `_Builder` makes a tree of
what is there, marking what is unsound; `_Reader` takes the complete objects out of the tree and gives a reason for the
rest.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from plumbline.data.contract import COUNTS_OF_POINTS, MAX_COORDINATE, is_encodable, is_right_count
from plumbline.geometry import KINDS
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown

MAX_DEPTH = 8
"""A multi-image answer with nested pairs has five levels; deeper text is skipped."""
MAX_PROBLEMS = 50

_START = re.compile(r'\{\s*"(?:object|image|图片)_[0-9]{1,9}"\s*:')
_BARE_START = re.compile(r'"(?:object|image|图片)_[0-9]{1,9}"\s*:')
_OBJECT = re.compile(r"object_([0-9]{1,9})")
_IMAGE = re.compile(r"(?:image|图片)_([0-9]{1,9})")
# Possessive quantifiers: a string is read once, whatever it holds.
_TOKEN = re.compile(
    r"""\s*+(?:
        (?P<string>"(?:[^"\\]++|\\.)*+")
      | (?P<number>-?[0-9]{1,18}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?(?![\w.+-]))
      | (?P<mark>[{}\[\]:,])
      | (?P<word>[^\s{}\[\]:,"]++)
    )""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class AnswerObject:
    """One complete object of a reply. `numbers`: flat, in the reply's own scale. `index`: the n of object_n."""

    kind: str
    numbers: tuple[float, ...]
    desc: str
    index: int = 0
    image: int | None = None

    @property
    def name(self) -> str:
        """`object_3`, or `image_2.object_3` in an answer about several pictures."""
        prefix = "" if self.image is None else f"image_{self.image}."
        return f"{prefix}object_{self.index}"


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What could be read, in the reply's order, and the reasons for what could not."""

    objects: tuple[AnswerObject, ...]
    problems: tuple[str, ...]


def parse_answer(text: str) -> ParsedAnswer:
    """The objects of a reply; time and memory are linear in its length.

    Args:
        text: A model's reply, however broken. It never raises.

    Returns:
        The objects in the reply's order, with coordinates as written there, and why the rest could not be read.
    """
    reader = _Reader()
    start, is_braced = _find_start(text)
    if start < 0:
        return ParsedAnswer((), ("no JSON object in the reply",))
    builder = _Builder()
    if not is_braced:
        builder.open(is_object=True)
        reader.problems.append("the opening brace is missing")
    end = builder.feed(text, start)
    if not builder.root.is_closed:
        reader.problems.append("the reply is cut off")
    elif _START.search(text, end):
        reader.problems.append("a second answer follows the first and was not read")
    reader.read_container(builder.root, None)
    return ParsedAnswer(tuple(reader.objects), _capped(reader.problems))


def _find_start(text: str) -> tuple[int, bool]:
    """(position, whether it is a brace); (-1, False) when nothing looks like an answer."""
    match = _START.search(text)
    if match:
        return match.start(), True
    match = _BARE_START.search(text)
    return (match.start(), False) if match else (text.find("{"), True)


def _capped(problems: list[str]) -> tuple[str, ...]:
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    return (*problems[:MAX_PROBLEMS], f"and {len(problems) - MAX_PROBLEMS} more problems")


@dataclass(slots=True)
class _Node:
    """A list or an object of the reply. `items`: values, or (key, value) pairs. Unsound: its syntax is broken."""

    is_object: bool
    name: str = ""
    items: list[Any] = field(default_factory=list)
    key: str | None = None
    needs_comma: bool = False
    is_sound: bool = True
    is_closed: bool = False


class _Builder:
    """Tokens to a tree, with an explicit stack: depth is bounded and a cut keeps the complete parts."""

    def __init__(self) -> None:
        self.root = _Node(is_object=True)
        self.stack: list[_Node] = []
        self.buried = 0  # open brackets below MAX_DEPTH

    def feed(self, text: str, position: int) -> int:
        """Read from `position` until the root closes or the text ends; returns where reading stopped."""
        while not self.root.is_closed:
            match = _TOKEN.match(text, position)
            if match is None:  # the end, or a string that is never closed
                break
            position = match.end()
            kind = match.lastgroup
            token = match.group(kind or 0)
            if kind == "mark":
                self._mark(token)
            elif not self.buried:
                self._value(_scalar(kind, token))
        return position

    def open(self, is_object: bool) -> None:
        if not self.stack:
            self.root = _Node(is_object)
            self.stack.append(self.root)
            return
        if len(self.stack) >= MAX_DEPTH:
            self.stack[-1].is_sound = False
            self.buried = 1
            return
        top = self.stack[-1]
        node = _Node(is_object, name=top.key or "")
        self._value(node)
        self.stack.append(node)

    def _mark(self, mark: str) -> None:
        if self.buried:
            self.buried += (mark in "{[") - (mark in "}]")
        elif mark in "{[":
            self.open(is_object=mark == "{")
        elif mark in "}]":
            self._close(is_object=mark == "}")
        else:
            self._separate(mark)

    def _separate(self, mark: str) -> None:
        top = self.stack[-1]
        if mark == ",":
            if not top.needs_comma:
                top.is_sound = False
            top.needs_comma = False
        elif not top.is_object or top.key is None or top.needs_comma:
            top.is_sound = False

    def _value(self, value: Any) -> None:
        """A scalar or a node that has just begun, as a key, a value of the pending key, or an element."""
        top = self.stack[-1]
        if top.needs_comma:
            top.is_sound = False
        if top.is_object and top.key is None:
            if not isinstance(value, str):
                top.is_sound = False
                return
            if _OBJECT.fullmatch(value) and _OBJECT.fullmatch(top.name):
                self._abandon()  # the brace that should have closed the object before is missing
                top = self.stack[-1]
            top.key = value
            top.needs_comma = False
            return
        top.items.append((top.key, value) if top.is_object else value)
        top.key = None
        top.needs_comma = True

    def _abandon(self) -> None:
        self.stack.pop().is_sound = False

    def _close(self, is_object: bool) -> None:
        top = self.stack[-1]
        if top.is_object and not is_object:
            top.is_sound = False
            return
        if is_object and not top.is_object:
            self._abandon()
            top = self.stack[-1]
        if top.key is not None:
            top.is_sound = False
        top.is_closed = True
        self.stack.pop()


def _scalar(kind: str | None, token: str) -> Any:
    if kind == "string":
        if "\\" not in token:
            return token[1:-1]
        try:
            return json.loads(token, strict=False)
        except ValueError:
            return None  # an escape that JSON does not know
    if kind == "number":
        return float(token) if any(mark in token for mark in ".eE") else int(token)
    return None


class _Reader:
    """Complete objects out of the tree, with a reason for everything that is left out."""

    def __init__(self) -> None:
        self.objects: list[AnswerObject] = []
        self.problems: list[str] = []

    def read_container(self, node: _Node, image: int | None) -> None:
        """The objects of the answer, or of one `image_n` of it."""
        prefix = "" if image is None else f"image_{image}."
        numbers: list[int] = []
        images: list[int] = []
        if not node.is_sound:
            self.problems.append(f"{f'image_{image}' if image is not None else 'the answer'} is not well-formed JSON")
        for key, value in _pairs(node):
            as_object, as_image = _OBJECT.fullmatch(key), _IMAGE.fullmatch(key)
            if as_object:
                numbers.append(int(as_object[1]))
                self._read_object(value, numbers[-1], image, f"{prefix}{key}")
            elif as_image and image is None and isinstance(value, _Node) and value.is_object:
                images.append(int(as_image[1]))
                self.read_container(value, images[-1])
            else:
                self.problems.append(f"{prefix}{shown(key)}: not an object_n")
        self._check_numbering(numbers, f"{prefix}object")
        self._check_numbering(images, f"{prefix}image")

    def _check_numbering(self, numbers: list[int], name: str) -> None:
        counts = Counter(numbers)
        self.problems += [f"{name}_{number} occurs {count} times" for number, count in counts.items() if count > 1]
        seen = sorted(counts)
        if list(counts) != seen:
            self.problems.append(f"{name}_n: the numbers are not in order")
        for before, after in zip([0, *seen], seen, strict=False):
            if after > before + 1:
                gap = f"{name}_{before + 1}"
                self.problems.append(
                    f"{gap} is missing" if after == before + 2 else f"{gap} to {after - 1} are missing"
                )
            elif after == 0:
                self.problems.append(f"{name}_0: numbers start at 1")

    def _read_object(self, value: Any, index: int, image: int | None, name: str) -> None:
        if not isinstance(value, _Node) or not value.is_object:
            self.problems.append(f"{name}: not an object")
            return
        what = _unusable(value)
        if what:
            self.problems.append(f"{name}: {what}")
            return
        fields = dict(_pairs(value))
        kind = next(kind for kind in KINDS if kind in fields)
        numbers = _flat_numbers(fields[kind])
        self._check_extras(fields, kind, numbers or (), name)
        self.objects.append(AnswerObject(kind, numbers or (), fields["desc"], index, image))

    def _check_extras(self, fields: JsonObject, kind: str, numbers: tuple[float, ...], name: str) -> None:
        """What is wrong besides a usable geometry and desc: the object is kept, the reason reported."""
        for key in fields:
            if key not in (kind, "desc", *COUNTS_OF_POINTS):
                self.problems.append(f"{name}: unknown key {shown(key)}")
        for key, counted in COUNTS_OF_POINTS.items():
            if key in fields and (kind != counted or fields[key] != len(numbers) // 2):
                stated = f"{key} says {shown(fields[key])}"
                self.problems.append(f"{name}: {stated}, {kind} has {len(numbers) // 2} points")


def _pairs(node: _Node) -> Iterable[tuple[str, Any]]:
    return node.items if node.is_object else ()


def _unusable(node: _Node) -> str:
    """Why the body of an object_n cannot be used; empty when it can."""
    if not node.is_sound:
        return "not well-formed JSON"
    if not node.is_closed:
        return "cut off"
    keys = [key for key, _ in node.items]
    fields = dict(node.items)
    if len(fields) != len(keys):
        return "a key occurs twice"
    kinds = [kind for kind in KINDS if kind in fields]
    if len(kinds) != 1:
        return f"has {len(kinds)} geometries" if kinds else "has no geometry"
    desc = fields.get("desc")
    if not isinstance(desc, str) or not desc.strip():
        return "has no desc"
    if not is_encodable(desc):
        return "desc holds half a surrogate pair"
    numbers = _flat_numbers(fields[kinds[0]])
    if numbers is None:
        return f"{kinds[0]} is not a list of numbers"
    return "" if is_right_count(kinds[0], len(numbers)) else f"{kinds[0]} has {len(numbers)} numbers"


def _flat_numbers(value: Any) -> tuple[float, ...] | None:
    """The numbers of a flat list or of a list of pairs; None for anything else."""
    if not (isinstance(value, _Node) and not value.is_object and value.is_sound and value.is_closed):
        return None
    numbers: list[Any] = value.items
    if numbers and all(isinstance(item, _Node) for item in numbers):
        pairs = [_flat_numbers(item) if _is_leaf(item) else None for item in numbers]
        if any(pair is None or len(pair) != 2 for pair in pairs):
            return None
        return tuple(number for pair in pairs if pair for number in pair)
    if all(type(item) in (int, float) and -MAX_COORDINATE < item < MAX_COORDINATE for item in numbers):
        return tuple(numbers)
    return None


def _is_leaf(node: _Node) -> bool:
    return not any(isinstance(item, _Node) for item in node.items)
