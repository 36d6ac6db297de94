"""Earlier configurations rewritten in today's names, in place: comments, order and layout stay as they are.

What can be said for certain is rewritten. What has no place today is commented out with the reason. The rest stays, and
the check of the result names what a person must decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plumbline.config.load import load_tree
from plumbline.config.tree import Entry, ListNode, MapNode, Node, Scalar, plain, show_plain
from plumbline.config.upstream import SECTIONS, table
from plumbline.errors import Problem
from plumbline.train.canonical import GONE, RENAMED
from plumbline.train.old_names import OLD_NAMES
from plumbline.train.unused import without_effect

_OPS = "custom.augmentation.ops.params"
_SAME_PLACE = {
    "model.model_name_or_path": "model",
    "custom.object_ordering_policy": "object_ordering",
    f"{_OPS}.scale": "area",
    f"{_OPS}.aspect_ratio": "aspect",
    f"{_OPS}.align_multiple": "multiple",
    f"{_OPS}.skip_if_line": "line_policy",
    f"{_OPS}.hue_delta_deg": "hue_deg",
    f"{_OPS}.sat": "saturation",
    f"{_OPS}.val": "value",
    f"{_OPS}.tile_grid_size": "tiles",
    "output.run_name": "run",
} | {f"{section}.{old}": new for section in (*SECTIONS, "rlhf") for old, new in RENAMED.items()}
"""Path of a key -> its name today, in the same section. The last but the general ones is Stage-B's."""
_MOVED = {
    "custom.bypass_prob": ("custom", "augmentation", "bypass_prob"),
    "custom.augmentation_curriculum": ("custom", "augmentation", "curriculum"),
    "custom.external_plugins": ("custom", "plugins"),
    "training.external_plugins": ("custom", "plugins"),
    "data.eval_dataset": ("custom", "val_jsonl"),
}
"""Path of a key -> its sections and its name today."""
_ORDERINGS = {"reference_tlbr": "top_left", "center_tlbr": "center"}
_STAGE_B_GONE = ("signals", "evaluation")
_SYMMETRIC = {f"{_OPS}.hue_delta_deg": 0.0, f"{_OPS}.sat": 1.0, f"{_OPS}.val": 1.0}
"""Ranges around a middle that are one number today: how far to either side."""


@dataclass(frozen=True)
class Migrated:
    """text: the file in today's names; changes: what was rewritten, by line of the old file."""

    text: str
    changes: tuple[str, ...]


def migrate(file: Path) -> tuple[Migrated, tuple[Problem, ...]]:
    """(the rewritten file, what could not be read in it); nothing is written."""
    problems: list[Problem] = []
    tree = load_tree(file, None, lambda node, _: node, problems)
    editor = _Editor(file.read_text(encoding="utf-8-sig").splitlines(), str(file))
    for path, entry, section in _entries(tree, ""):
        if entry.origin.file == str(file):
            _rewrite(editor, path, entry, section, tree)
    return Migrated(editor.text, tuple(editor.changes)), tuple(problems)


def _entries(node: Node, prefix: str) -> Iterator[tuple[str, Entry, MapNode]]:
    """(path without indices, entry, the mapping that it is in), inner ones first: they are further down."""
    if isinstance(node, ListNode):
        for item in node.items:
            yield from _entries(item, prefix)
    elif isinstance(node, MapNode):
        for key, entry in node.entries.items():
            path = f"{prefix}.{key}" if prefix else key
            yield from _entries(entry.node, path)
            yield path, entry, node


def _rewrite(editor: _Editor, path: str, entry: Entry, section: MapNode, tree: MapNode) -> None:
    key = path.rpartition(".")[2]
    if path in _MOVED:
        editor.move(key, entry, _MOVED[path], tree)
    elif path == f"{_OPS}.lo" and "hi" in section.entries:
        editor.join_range(entry, section.entries["hi"])
    elif path == f"{_OPS}.clip_limit" and isinstance(entry.node, Scalar):
        limit = show_plain(entry.node.value)
        editor.rename(key, key, entry, f"[{limit}, {limit}]")
    elif path in _SAME_PLACE and _SAME_PLACE[path] not in section.entries:
        editor.rename(key, _SAME_PLACE[path], entry, _value_today(path, entry.node))
    elif path in _SAME_PLACE:
        editor.comment_out(key, entry, f"`{_SAME_PLACE[path]}` says it already")
    elif key in GONE or path in _STAGE_B_GONE:
        editor.comment_out(key, entry, "has no effect any more")
    elif OLD_NAMES.get(path, "").startswith("take it out"):
        editor.comment_out(key, entry, OLD_NAMES[path].removeprefix("take it out").lstrip(": "))
    elif _is_ignored(path, entry.node):
        editor.comment_out(key, entry, without_effect()[key].removeprefix("remove it").lstrip(": "))


def _is_ignored(path: str, node: Node) -> bool:
    """Whether it is a key of the upstream that does nothing here and that nothing takes the place of."""
    section, _, key = path.rpartition(".")
    advice = without_effect().get(key, "") if section in (*SECTIONS, "rlhf") else ""
    return advice.startswith("remove it") and plain(node) not in (None, table()[key]["default"])


def _value_today(path: str, node: Node) -> str | None:
    """What a value is written as today; None where it stays."""
    value = plain(node)
    if path == "custom.object_ordering_policy":
        return _ORDERINGS.get(str(value))
    if path == f"{_OPS}.skip_if_line":
        return "skip" if value is True else "cut"
    if path == f"{_OPS}.tile_grid_size" and isinstance(value, list) and len(set(value)) == 1:
        return str(value[0])
    if path in _SYMMETRIC and isinstance(value, list) and len(value) == 2:
        middle = _SYMMETRIC[path]
        if all(isinstance(end, int | float) for end in value):
            return f"{max(abs(end - middle) for end in value):.6g}"
    return None


class _Editor:
    """The lines of a file, changed where entries were written.

    Places stay valid to the end: what moves away leaves an empty slot, and what comes in hangs on the line above it.
    """

    def __init__(self, lines: list[str], file: str):
        self.lines, self._file = lines, file
        self.changes: list[str] = []
        self._left: set[int] = set()
        self._incoming: dict[int, list[tuple[int, list[str]]]] = {}
        self._buckets: dict[tuple[str, ...], list[str]] = {}

    @property
    def text(self) -> str:
        """The file as it is now."""
        merged = []
        for number, line in enumerate(self.lines):
            merged += [] if number in self._left else [line]
            for indent, block in self._incoming.get(number, ()):
                merged += [f"{' ' * indent}{added}" for added in block]
        return "".join(f"{line}\n" for line in merged)

    def move(self, old: str, entry: Entry, to: tuple[str, ...], tree: MapNode) -> None:
        """The entry with all that is below it under another section, which is made where it is not there.

        In a flow mapping, into a flow mapping, and where the new key is there already, it stays for a person.
        """
        *sections, new = to
        place = _place(tree, sections, self._file)
        number, last = self._block(old, entry)
        if place is None or last is None or new in place.keys:
            return
        here = entry.origin.col - 1
        block = [line[here:] for line in self.lines[number : last + 1]]
        block[0] = re.sub(rf"^(['\"]?){re.escape(old)}\1(\s*:)", rf"{new}\2", block[0])
        self._left.update(range(number, last + 1))
        self._bucket(tuple(sections), place).extend(block)
        self.changes.append(f"{self._file}:{number + 1}: {old} -> {'.'.join(to)}")

    def rename(self, old: str, new: str, entry: Entry, value: str | None) -> None:
        """Another key, and another value where one is given, on the line of the entry."""
        number, column = entry.origin.line - 1, entry.origin.col - 1
        line = self.lines[number]
        head, tail = line[:column], line[column:]
        pattern = re.compile(rf"(['\"]?){re.escape(old)}\1(\s*:)")
        if not pattern.match(tail):  # moved by an earlier change on this line, as in a flow mapping
            pattern, head, tail = re.compile(rf"(?<![\w])(['\"]?){re.escape(old)}\1(\s*:)"), "", line
        changed = pattern.sub(lambda found: f"{new}{found[2]}", tail, count=1)
        if value is not None:
            changed = _with_value(changed, new, value)
        self._replace(number, head + changed, f"{old} -> {new}{'' if value is None else f': {value}'}")

    def join_range(self, low: Entry, high: Entry) -> None:
        """`lo` and `hi` as one range, where both are plain numbers."""
        if not isinstance(low.node, Scalar) or not isinstance(high.node, Scalar):
            return
        ends = f"[{show_plain(low.node.value)}, {show_plain(high.node.value)}]"
        number = low.origin.line - 1
        self.rename("lo", "factor", low, ends)
        if high.origin.line == low.origin.line:
            self.lines[number] = re.sub(r",?\s*\bhi\s*:\s*[^,}\s]+", "", self.lines[number], count=1)
        else:
            self.comment_out("hi", high, "is part of `factor`")

    def _bucket(self, sections: tuple[str, ...], place: _Place) -> list[str]:
        """The lines that come into a section, one list per section; a section that is not there is made by them."""
        if sections not in self._buckets:
            deep = place.indent + 2 * len(place.missing)
            self._buckets[sections] = []
            line = place.line if place.line >= 0 else len(self.lines) - 1
            made = [(place.indent + 2 * depth, [f"{name}:"]) for depth, name in enumerate(place.missing)]
            self._incoming.setdefault(line, []).extend([*made, (deep, self._buckets[sections])])
        return self._buckets[sections]

    def comment_out(self, key: str, entry: Entry, reason: str) -> None:
        """The entry with all that is below it, in a block; in a flow mapping it stays, and the check names it."""
        number, last = self._block(key, entry)
        if last is None:
            return
        indent = entry.origin.col - 1
        for each in range(number, last + 1):
            self.lines[each] = f"{' ' * indent}# {self.lines[each][indent:]}"
        self._replace(number, self.lines[number], f"{key} is commented out: {reason}")

    def _block(self, key: str, entry: Entry) -> tuple[int, int | None]:
        """(first line, last line) of an entry with all that is below it; no last line in a flow mapping."""
        number, indent = entry.origin.line - 1, entry.origin.col - 1
        if not re.match(rf"\s*['\"]?{re.escape(key)}['\"]?\s*:", self.lines[number]):
            return number, None
        last = number
        for following in range(number + 1, len(self.lines)):
            text = self.lines[following]
            if text.strip() and len(text) - len(text.lstrip()) <= indent and not text.startswith(" " * indent + "- "):
                break
            last = following if text.strip() else last
        return number, last

    def _replace(self, number: int, line: str, what: str) -> None:
        self.lines[number] = line
        self.changes.append(f"{self._file}:{number + 1}: {what}")


@dataclass(frozen=True)
class _Place:
    """Where an entry can be put: below `line` (from 0) at `indent`, after making the `missing` sections there."""

    line: int
    indent: int
    missing: tuple[str, ...]
    keys: frozenset[str]


def _place(tree: MapNode, sections: list[str], file: str) -> _Place | None:
    """The place for an entry of `sections`; None where the section is written as a flow mapping or in another file."""
    node, line, indent = tree, -1, 0
    for depth, name in enumerate(sections):
        found = node.entries.get(name)
        if found is None:
            return _Place(line, indent, tuple(sections[depth:]), frozenset())
        if not isinstance(found.node, MapNode) or not found.node.entries or found.origin.file != file:
            return None
        first = next(iter(found.node.entries.values())).origin
        if first.line == found.origin.line:
            return None
        node, line, indent = found.node, found.origin.line - 1, first.col - 1
    return _Place(line, indent, (), frozenset(node.entries))


def _with_value(text: str, key: str, value: str) -> str:
    """The text with another value behind a key: a flow list, or one plain word."""
    return re.sub(rf"({re.escape(key)}\s*:\s*)(?:\[[^\]]*\]|[^,}}#\s]+)", lambda found: found[1] + value, text, count=1)
