"""Files that build on other files: `extends`, a base below everything, one merged tree."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from plumbline.config.parse import parse_file
from plumbline.config.shipped import shipped
from plumbline.config.tree import ListNode, MapNode, Node, Origin, Scalar, merge
from plumbline.errors import Problem
from plumbline.storage.text import printable

MAX_CHAIN = 32
Prepare = Callable[[MapNode, list[Problem]], MapNode]
"""Brings one file's tree into its canonical form before it is merged (today's names, home sections)."""


def load_tree(path: Path | str, base_config: Path | str | None, prepare: Prepare, problems: list[Problem]) -> MapNode:
    """The merged tree of `path`: `base_config` lowest, then what it `extends` from left to right, then the file.

    `problems` receives everything that is wrong in any of the files, cycles and missing files included; the tree
    holds what could be read.
    """
    loader = _Loader(prepare, problems)
    return _merge_all([loader.load(str(name), ()) for name in (base_config, path) if name is not None])


def _merge_all(layers: list[MapNode]) -> MapNode:
    merged: Node = layers[0]
    for layer in layers[1:]:
        merged = merge(merged, layer)
    assert isinstance(merged, MapNode)
    return merged


class _Loader:
    def __init__(self, prepare: Prepare, problems: list[Problem]):
        self.problems = problems
        self._prepare = prepare
        self._done: dict[str, MapNode] = {}

    def load(self, file: str, chain: tuple[str, ...], named_at: Origin | None = None) -> MapNode:
        """`file` with everything that it extends; `chain` holds the files that led here."""
        empty = MapNode({}, Origin(file, 1, 1))
        try:
            real = str(Path(file).resolve())
        except (OSError, ValueError, RuntimeError) as error:
            self._add(file, named_at, f"cannot be read: {error}")
            return empty
        if real in chain:
            names = " -> ".join(_short(name) for name in (*chain[chain.index(real) :], real))
            self._add(file, named_at, f"extends itself: {names}", "break the circle")
            return empty
        if len(chain) >= MAX_CHAIN:
            self._add(file, named_at, f"a chain of more than {MAX_CHAIN} files", "shorten it")
            return empty
        if real not in self._done:
            self._done[real] = self._read(file, (*chain, real), named_at) or empty
        return self._done[real]

    def _read(self, file: str, chain: tuple[str, ...], named_at: Origin | None) -> MapNode | None:
        if named_at is not None and not Path(file).is_file():
            self._add(
                file,
                named_at,
                "does not exist or is not a file",
                "a path from this file, or a recipe's name (`plumbline config new` lists them)",
            )
            return None
        tree = parse_file(file, self.problems)
        if tree is None:
            return None
        folder = Path(file).parent
        bases = [self.load(_base_file(folder, name), chain, origin) for name, origin in self._extends(tree)]
        rest = MapNode({key: entry for key, entry in tree.entries.items() if key != "extends"}, tree.origin)
        return _merge_all([*bases, self._prepare(rest, self.problems)])

    def _extends(self, tree: MapNode) -> list[tuple[str, Origin]]:
        entry = tree.entries.get("extends")
        if entry is None:
            return []
        items = entry.node.items if isinstance(entry.node, ListNode) else (entry.node,)
        names = []
        for item in items:
            if isinstance(item, Scalar) and isinstance(item.value, str) and item.value:
                names.append((item.value, item.origin))
            else:
                what = "extends must be a path or a list of paths"
                self.problems.append(Problem(str(item.origin), what, "e.g. `extends: base.yaml`"))
        return names

    def _add(self, file: str, named_at: Origin | None, what: str, fix: str = "") -> None:
        where = str(named_at) if named_at else file
        self.problems.append(Problem(where, f"extends {printable(file, limit=200)}: {what}" if named_at else what, fix))


def _base_file(folder: Path, name: str) -> str:
    """The file that `extends` names from a file in `folder`: a bare word is a recipe that ships."""
    is_word = "/" not in name and not Path(name).suffix and not (folder / name).exists()
    return str(shipped(f"{name}.yaml")) if is_word else os.path.normpath(folder / name)


def _short(path: str) -> str:
    """The path from here, where that is below here."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
