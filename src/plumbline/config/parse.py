"""YAML text -> a tree with positions.

The file is hostile until proven otherwise: tags are refused rather than executed, aliases count at their full size,
depth and size are bounded, and the walk over the parser's events is iterative.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from plumbline.config.scalars import resolve_plain
from plumbline.config.tree import Entry, ListNode, MapNode, Node, Origin, Scalar, show_plain
from plumbline.errors import ConfigError, Problem
from plumbline.storage.text import printable

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 100_000

_Loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def parse_file(path: Path | str, problems: list[Problem]) -> MapNode | None:
    """Read one YAML file whose top level is a mapping.

    What is wrong goes to `problems`; the tree is returned where reading on makes sense (a duplicate key, a refused
    tag), so that the rest of the file can be checked at the same time, and None where it does not.
    """
    try:
        return parse_text(_read(Path(path)), str(path), problems)
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def parse_text(text: str, file: str, problems: list[Problem]) -> MapNode | None:
    """The tree of `text`, as `parse_file`; `file` is only named in positions."""
    builder = _TreeBuilder(file, problems)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.take(event)
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(error, text, file))
        return None
    except _Stop:
        return None
    if isinstance(builder.root, MapNode):
        return builder.root
    if builder.root is None:
        builder.problem(Origin(file, 1, 1), "the file is empty", "write at least one section, e.g. `model:`")
    else:
        builder.problem(builder.root.origin, "the top level must be a mapping of sections", "start with e.g. `model:`")
    return None


class _Stop(Exception):  # noqa: N818  (not an error: the problem is already noted)
    """Reading on makes no sense."""


def _read(path: Path) -> str:
    where = str(path)
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise ConfigError(Problem(where, "is not a regular file", "name a YAML file"))
        if info.st_size > MAX_BYTES:
            what = f"is {info.st_size:,} bytes long; a configuration has at most {MAX_BYTES:,}"
            raise ConfigError(Problem(where, what, "is this the file that was meant?"))
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(Problem(where, f"cannot be read: {reason}", "check the path")) from None
    return _decode(raw, where)


def _decode(raw: bytes, file: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        col = len(raw[raw.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        what = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise ConfigError(Problem(str(Origin(file, line, col)), what, "save the file as UTF-8")) from None


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        start = error.context_mark
        if start is not None and start.line != mark.line:
            what += f" (it starts at line {start.line + 1}, column {start.column + 1})"
        lines = text.splitlines()
        has_tab = mark.line < len(lines) and "\t" in lines[mark.line]
        fix = "indent with spaces: YAML allows no tabs there" if has_tab else ""
        return Problem(str(Origin(file, mark.line + 1, mark.column + 1)), f"not valid YAML: {what}", fix)
    bad = next((i for i, char in enumerate(text) if not _printable(char)), 0)
    line = text.count("\n", 0, bad) + 1
    origin = Origin(file, line, bad - text.rfind("\n", 0, bad))
    return Problem(str(origin), f"the character {text[bad : bad + 1]!r} is not allowed in YAML", "remove it")


def _printable(char: str) -> bool:
    """YAML 1.2.2, production 1: c-printable."""
    code = ord(char)
    return (
        char in "\t\n\r\x85"
        or 0x20 <= code <= 0x7E
        or 0xA0 <= code <= 0xD7FF
        or 0xE000 <= code <= 0xFFFD
        or code >= 0x10000
    )


@dataclass
class _Frame:
    """A collection that is still open."""

    origin: Origin
    anchor: str | None
    first_node: int
    is_map: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    key: tuple[str | None, Origin] | None = None  # the key whose value comes next; None for a refused key


class _TreeBuilder:
    """Takes the parser's events one by one; `root` is the finished tree."""

    def __init__(self, file: str, problems: list[Problem]):
        self.file = file
        self.problems = problems
        self.root: Node | None = None
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._nodes = 0

    def problem(self, origin: Origin, what: str, fix: str = "") -> None:
        self.problems.append(Problem(str(origin), what, fix))

    def _stop(self, origin: Origin, what: str, fix: str = "") -> NoReturn:
        self.problem(origin, what, fix)
        raise _Stop

    def take(self, event: Any) -> None:
        origin = Origin(self.file, event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            if self.root is not None:
                self._stop(origin, "a second YAML document starts here", "keep one document in a file")
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, origin)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event, origin)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._open(event, origin)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._close()

    def _count(self, nodes: int, origin: Origin) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._stop(origin, f"more than {MAX_NODES:,} values, aliases counted in full", "shorten the file")

    def _refuse_tag(self, event: Any, origin: Origin) -> None:
        if event.tag is not None:
            name = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(origin, f"the tag {name} is refused: configurations hold plain values only", "remove the tag")

    def _awaits_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].is_map and self._stack[-1].key is None

    def _scalar(self, event: yaml.ScalarEvent, origin: Origin) -> None:
        self._count(1, origin)
        self._refuse_tag(event, origin)
        value: str | int | float | bool | None = event.value
        if not event.style:
            try:
                value = resolve_plain(event.value)
            except ValueError as error:
                self._stop(origin, f"{error} cannot be used")
        if self._awaits_key():
            self._key(value, origin)
        else:
            self._finish(Scalar(value, origin), event.anchor, 1)

    def _key(self, value: Any, origin: Origin) -> None:
        frame = self._stack[-1]
        frame.key = (None, origin)
        if not isinstance(value, str):
            self.problem(origin, f"the key {show_plain(value)} is not text", "put the key in quotes")
        elif value == "<<":
            self.problem(origin, "merge keys (<<) are not part of YAML 1.2", "use `extends` to build on another file")
        elif value in frame.entries:
            first = frame.entries[value].origin
            what = f"the key `{printable(value, limit=80)}` is written twice; first at {first}"
            self.problem(origin, what, "keep one of them")
        else:
            frame.key = (value, origin)

    def _alias(self, event: yaml.AliasEvent, origin: Origin) -> None:
        known = self._anchors.get(event.anchor or "")
        if known is None:
            self._stop(origin, f"the alias *{event.anchor} names no finished anchor above it")
        elif self._awaits_key():
            self._stop(origin, "an alias cannot be a key", "write the key out")
        else:
            node, size = known
            self._count(size, origin)
            self._finish(node, None, size)

    def _open(self, event: Any, origin: Origin) -> None:
        if self._awaits_key():
            self._stop(origin, "a key must be text, not a list or a mapping", "put the key in quotes")
        if len(self._stack) >= MAX_DEPTH:
            self._stop(origin, f"nested deeper than {MAX_DEPTH} levels", "flatten the file")
        self._count(1, origin)
        self._refuse_tag(event, origin)
        is_map = isinstance(event, yaml.MappingStartEvent)
        self._stack.append(_Frame(origin, event.anchor, self._nodes - 1, is_map))

    def _close(self) -> None:
        frame = self._stack.pop()
        node: Node
        node = MapNode(frame.entries, frame.origin) if frame.is_map else ListNode(tuple(frame.items), frame.origin)
        self._finish(node, frame.anchor, self._nodes - frame.first_node)

    def _finish(self, node: Node, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        if not frame.is_map:
            frame.items.append(node)
            return
        assert frame.key is not None
        name, origin = frame.key
        if name is not None:
            frame.entries[name] = Entry(origin, node)
        frame.key = None
