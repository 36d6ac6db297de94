"""The shape of the sources: a type's name occurs once, and no module imports itself through others."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

SOURCES = Path(__file__).parents[3] / "src"


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def test_a_type_name_occurs_once() -> None:
    places = defaultdict(list)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_imports_have_no_circle() -> None:
    """Those inside functions count too. `graphlib` names the circle."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for module, tree in known.items():
        wanted = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= (inner & known.keys()) or {node.module}
        graph[module] = (wanted & known.keys()) - {module}
    TopologicalSorter(graph).prepare()
