"""Files that build on each other, and where each value came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.config.load import load_tree
from plumbline.config.tree import MapNode, leaves, plain
from plumbline.errors import Problem

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return put


def load(path: Path, base: Path | None = None) -> tuple[MapNode, list[Problem]]:
    problems: list[Problem] = []
    return load_tree(path, base, lambda tree, _: tree, problems), problems


def test_left_to_right_then_the_file_and_the_base_below_all(write: Write) -> None:
    base = write("below.yaml", "s: {a: base, b: base, c: base, d: base, e: [1, 2]}\n")
    write("one.yaml", "s: {b: one, c: one, d: one}\n")
    write("two.yaml", "s: {c: two, d: two, e: [3]}\n")
    top = write("top.yaml", "extends: [one.yaml, two.yaml]\ns: {d: top}\n")
    tree, problems = load(top, base)
    assert not problems
    assert plain(tree) == {"s": {"a": "base", "b": "one", "c": "two", "d": "top", "e": [3]}}


def test_paths_start_at_the_file_that_says_them(write: Write) -> None:
    write("base.yaml", "a: 1\n")
    write("deep/mid.yaml", "extends: ../base.yaml\nb: 2\n")
    top = write("top.yaml", "extends: deep/mid.yaml\n")
    assert plain(load(top)[0]) == {"a": 1, "b": 2}


def test_each_value_knows_its_file(write: Write) -> None:
    base = write("base.yaml", "s:\n  a: 1\n  b: 2\n")
    top = write("top.yaml", "extends: base.yaml\ns:\n  b: 3\n")
    found = {path: str(entry.node.origin) for path, entry in leaves(load(top)[0])}
    assert found == {"s.a": f"{base}:2:6", "s.b": f"{top}:3:6"}


def test_a_mapping_over_a_value_and_back_replaces(write: Write) -> None:
    write("base.yaml", "a: {b: 1}\nc: 2\n")
    top = write("top.yaml", "extends: base.yaml\na: 3\nc: {d: 4}\n")
    assert plain(load(top)[0]) == {"a": 3, "c": {"d": 4}}


def test_the_same_base_twice_is_no_circle(write: Write) -> None:
    write("base.yaml", "a: 1\n")
    write("left.yaml", "extends: base.yaml\nb: 2\n")
    write("right.yaml", "extends: base.yaml\nc: 3\n")
    tree, problems = load(write("top.yaml", "extends: [left.yaml, right.yaml]\n"))
    assert not problems
    assert plain(tree) == {"a": 1, "b": 2, "c": 3}


def test_a_circle_is_told_with_its_files(write: Write) -> None:
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "extends: ./a.yaml\n")
    (problem,) = load(write("top.yaml", "extends: a.yaml\n"))[1]
    assert "extends itself" in problem.what
    assert problem.what.count("a.yaml") >= 2
    assert "b.yaml" in problem.what


def test_a_wide_diamond_is_read_once_per_file(write: Write) -> None:
    """Twenty layers that each name the one below twice would be a million reads."""
    write("0.yaml", "a: 1\n")
    for i in range(1, 21):
        write(f"{i}.yaml", f"extends: [{i - 1}.yaml, {i - 1}.yaml]\n")
    tree, problems = load(write("top.yaml", "extends: 20.yaml\n"))
    assert not problems
    assert plain(tree) == {"a": 1}


def test_an_endless_chain_stops(write: Write) -> None:
    for i in range(60):
        write(f"{i}.yaml", f"extends: {i + 1}.yaml\n")
    assert any("chain of more than" in problem.what for problem in load(write("top.yaml", "extends: 0.yaml\n"))[1])


def test_every_file_that_cannot_be_read_is_told_at_once(write: Write) -> None:
    write("broken.yaml", "a: [\n")
    top = write("top.yaml", "extends: [missing.yaml, broken.yaml, 3]\na: 1\na: 2\n")
    problems = load(top)[1]
    assert len(problems) == 4
    text = "\n".join(str(problem) for problem in problems)
    for words in ("missing.yaml: does not exist", "broken.yaml:2:1", "path or a list of paths", "written twice"):
        assert words in text
    assert f"{top}:1:11" in text
