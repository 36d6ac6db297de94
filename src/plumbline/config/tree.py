"""A parsed YAML file: plain values that remember where they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Plain = Any  # str | int | float | bool | None | list | dict, as YAML knows them


@dataclass(frozen=True, slots=True)
class Origin:
    """A place in a file; line and col count from 1."""

    file: str
    line: int
    col: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value: text, a number, true, false or null."""

    value: str | int | float | bool | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class ListNode:
    """An ordered list of nodes."""

    items: tuple[Node, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's place and its value."""

    origin: Origin
    node: Node


@dataclass(frozen=True, slots=True)
class MapNode:
    """Keys (text only) in the order in which they were written."""

    entries: Mapping[str, Entry]
    origin: Origin


Node = Scalar | ListNode | MapNode


def show_plain(value: Any) -> str:
    """A plain value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def plain(node: Node) -> Plain:
    """The node's value without its places."""
    if isinstance(node, MapNode):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return node.value


def node_of(value: Plain, origin: Origin) -> Node:
    """A plain value as a node, all of it from one place."""
    if isinstance(value, dict):
        return MapNode({key: Entry(origin, node_of(item, origin)) for key, item in value.items()}, origin)
    if isinstance(value, list | tuple):
        return ListNode(tuple(node_of(item, origin) for item in value), origin)
    return Scalar(value, origin)


def merge(below: Node, above: Node) -> Node:
    """`above` over `below`: mappings merge key by key, everything else is replaced as a whole (lists too)."""
    if not (isinstance(below, MapNode) and isinstance(above, MapNode)):
        return above
    entries = dict(below.entries)
    for key, entry in above.entries.items():
        under = entries.get(key)
        node = merge(under.node, entry.node) if under else entry.node
        entries[key] = Entry(entry.origin, node)
    return MapNode(entries, above.origin)


def leaves(node: MapNode, prefix: str = "") -> Iterator[tuple[str, Entry]]:
    """Every value with its dotted path; a list or an empty mapping is one value."""
    for key, entry in node.entries.items():
        path = f"{prefix}{key}"
        if isinstance(entry.node, MapNode) and entry.node.entries:
            yield from leaves(entry.node, f"{path}.")
        else:
            yield path, entry
