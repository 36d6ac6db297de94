"""YAML text to a tree: core-schema scalars, positions, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.config.parse import MAX_BYTES, parse_file, parse_text
from plumbline.config.scalars import resolve_plain
from plumbline.config.tree import MapNode, leaves, plain
from plumbline.errors import Problem


def parsed(text: str) -> tuple[MapNode | None, list[Problem]]:
    problems: list[Problem] = []
    return parse_text(text, "f.yaml", problems), problems


def refused(text: str) -> Problem:
    problems = parsed(text)[1]
    assert problems, f"{text!r} was accepted"
    return problems[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0E-6", 1e-6),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("010", 10),
        ("0o17", 15),
        ("0xFF", 255),
        ("+3", 3),
        ("null", None),
        ("~", None),
        ("", None),
        ("TRUE", True),
        ("false", False),
        (".inf", float("inf")),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("0b11", "0b11"),
        ("1e", "1e"),
        (".", "."),
        ("-", "-"),
        ("tRUE", "tRUE"),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    got = resolve_plain(text)
    assert got == value
    assert type(got) is type(value)


def test_quoted_scalars_are_text() -> None:
    tree, problems = parsed("a: '1'\nb: \"true\"\nc: |\n  no\n")
    assert not problems
    assert plain(tree) == {"a": "1", "b": "true", "c": "no\n"}


def test_positions_count_from_one_and_in_characters() -> None:
    tree, _ = parsed("提示:\n  说明: 值\n")
    assert tree is not None
    ((path, entry),) = leaves(tree)
    assert path == "提示.说明"
    assert str(entry.origin) == "f.yaml:2:3"
    assert str(entry.node.origin) == "f.yaml:2:7"


def test_aliases_repeat_a_value() -> None:
    tree, problems = parsed("a: &x [1, {b: 2}]\nc: *x\n")
    assert not problems
    assert plain(tree) == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


def test_every_duplicate_key_is_told_with_both_places() -> None:
    tree, problems = parsed("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [problem.where for problem in problems] == ["f.yaml:2:11", "f.yaml:3:1"]
    assert "f.yaml:1:1" in problems[1].what
    assert plain(tree) == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a:\n\tb: 1\n", "f.yaml:2:1", "cannot start any token"),
        ("a: [1, 2\n", "f.yaml:2:1", "starts at line 1, column 4"),
        ("a: b: c\n", "f.yaml:1:5", "not valid YAML"),
        ("", "f.yaml:1:1", "empty"),
        ("# only a comment\n", "f.yaml:1:1", "empty"),
        ("- a\n", "f.yaml:1:1", "top level must be a mapping"),
        ("text\n", "f.yaml:1:1", "top level must be a mapping"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1", "second YAML document"),
        ("a: !!python/object/apply:os.system [id]\n", "f.yaml:1:4", "!!python/object/apply:os.system is refused"),
        ("a: !!str 3\n", "f.yaml:1:4", "!!str is refused"),
        ("a: !mine {b: 1}\n", "f.yaml:1:4", "!mine is refused"),
        ("a: {<<: {b: 1}}\n", "f.yaml:1:5", "merge keys"),
        ("1: 2\n", "f.yaml:1:1", "key 1 is not text"),
        ("~: 2\n", "f.yaml:1:1", "key null is not text"),
        ("? [a]\n: 2\n", "f.yaml:1:3", "key must be text"),
        ("a: &x 1\n*x : 2\n", "f.yaml:2:1", "alias cannot be a key"),
        ("a: &x [*x]\n", "f.yaml:1:8", "no finished anchor"),
        ("a: *x\n", "f.yaml:1:4", "no finished anchor"),
        ("a: b\x07c\n", "f.yaml:1:5", "not allowed in YAML"),
        ("a: " + "9" * 5000 + "\n", "f.yaml:1:4", "5000 characters"),
        ("a: " + "[" * 100_000, "f.yaml:1:43", "nested deeper"),
    ],
)
def test_refusals_name_the_place(text: str, where: str, words: str) -> None:
    problem = refused(text)
    assert problem.where == where
    assert words in problem.what


def test_tabs_get_the_advice() -> None:
    assert "spaces" in refused("a:\n\tb: 1\n").fix


def test_many_laughs_stop_early() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for above, name in zip("abcdefghi", "bcdefghij", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]")
    assert "aliases counted in full" in refused("\n".join(lines)).what


def test_control_characters_in_a_key_are_escaped() -> None:
    problem = refused('"\\e[31mred": 1\n"\\e[31mred": 2\n')
    assert "\x1b" not in str(problem)
    assert "\\x1b[31mred" in problem.what


@pytest.mark.parametrize(
    ("raw", "where"),
    [(b"a: 1\nb: caf\xe9\n", ":2:7"), ("a: 1".encode("utf-16"), ":1:1")],
)
def test_other_encodings_are_refused_at_the_byte(tmp_path: Path, raw: bytes, where: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(raw)
    problems: list[Problem] = []
    assert parse_file(file, problems) is None
    assert problems[0].where == f"{file}{where}"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    problems: list[Problem] = []
    assert plain(parse_file(file, problems)) == {"a": 1}


def test_folders_devices_missing_and_huge_files(tmp_path: Path) -> None:
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (MAX_BYTES + 1))
    for path in (tmp_path, "/dev/zero", tmp_path / "missing.yaml", "nul\0byte", huge):
        problems: list[Problem] = []
        assert parse_file(path, problems) is None
        assert len(problems) == 1
