"""Frozen dataclasses as schemas: what each type hint accepts, how it complains, what it builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from plumbline.config.limits import Length, NameOrFile, Range
from plumbline.config.parse import parse_text
from plumbline.config.schema import json_schema
from plumbline.config.spec import section_of
from plumbline.config.types import INVALID, CheckReport
from plumbline.errors import Problem


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested part."""

    name: str
    """Its name."""
    weight: Annotated[float, Range(ge=0, lt=1)] = 0.5
    """Its weight."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Every kind of field."""

    flag: bool = False
    """A switch."""
    count: Annotated[int, Range(ge=1)] | None = None
    """A count,
    described on two lines."""
    rate: float = 1.0
    text: str = "a"
    mode: Literal["fast", "slow", 3] = "fast"
    names: Annotated[tuple[str, ...], Length(least=1, unique=True)] = ("x",)
    free: Mapping[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=lambda: Inner(name="n"))
    parts: tuple[Inner, ...] = ()
    either: str | tuple[int, ...] = "e"
    file: Annotated[str, NameOrFile(("zero2",), (".json",))] = "zero2"


SECTION = section_of(Outer)


def check(text: str) -> tuple[Any, list[Problem]]:
    report = CheckReport()
    tree = parse_text(text, "f", report.problems)
    assert tree is not None
    return SECTION.check(tree, "", report), report.problems


def build(text: str) -> Outer:
    value, problems = check(text)
    assert not problems
    return SECTION.make(value)


def test_values_arrive_typed() -> None:
    got = build(
        "{flag: true, count: 2, rate: 3, text: no, mode: 3, names: [a, b], free: {k: [1, {z: null}]}, "
        "inner: {name: i, weight: 0}, parts: [{name: p}], either: [1, 2], file: ds/my.json}"
    )
    assert got == Outer(
        flag=True,
        count=2,
        rate=3.0,
        text="no",
        mode=3,
        names=("a", "b"),
        free={"k": [1, {"z": None}]},
        inner=Inner(name="i", weight=0.0),
        parts=(Inner(name="p"),),
        either=(1, 2),
        file="ds/my.json",
    )
    assert isinstance(got.rate, float)
    assert isinstance(got.inner.weight, float)


def test_an_empty_mapping_gives_the_defaults() -> None:
    assert build("{}") == Outer()


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("flag: yes", "flag must be true or false, got the text 'yes'", "write true: in YAML 1.2 this word is text"),
        ("flag: 1", "flag must be true or false, got 1", ""),
        ("count: true", "count must be a whole number >= 1, got true", ""),
        ("count: 2.0", "count must be a whole number >= 1, got 2.0", "write 2"),
        ("count: '2'", "count must be a whole number >= 1, got the text '2'", "write the number without quotes"),
        ("count: 0", "count must be a whole number >= 1, got 0", ""),
        ("rate: null", "rate must be a number, got null", ""),
        ("rate: true", "rate must be a number, got true", ""),
        ("rate: .nan", "rate must be a finite number, got nan", ""),
        ("rate: 1e999", "rate must be a finite number, got inf", ""),
        ("text: 3", "text must be text, got 3", "put it in quotes if it is text"),
        ("text: ''", "text is empty", "write a value or remove the key"),
        ("text: [a]", "text must be text, got a list", ""),
        ("mode: fst", "mode must be one of fast, slow, 3, got the text 'fst'", "did you mean `fast`?"),
        ("mode: '3'", "mode must be one of fast, slow, 3, got the text '3'", ""),
        ("names: a", "names must be a list of text, got the text 'a'", ""),
        ("names: []", "names must be a list of at least 1, got a list", ""),
        ("names: [a, a]", "names names the same thing twice", "keep one of them"),
        ("names: [a, 3]", "names[1] must be text, got 3", "put it in quotes if it is text"),
        ("free: [a]", "free must be a mapping, got a list", ""),
        ("inner: {name: a, weight: 1}", "inner.weight must be a number >= 0 and < 1, got 1", ""),
        ("inner: {}", "inner has no `name`", "add `name: ...`"),
        ("parts: [{name: a, wieght: 0}]", "unknown key `parts[0].wieght`", "did you mean `weight`?"),
        ("either: 3", "either must be text or a list of a whole number, got 3", ""),
        ("either: [a]", "either[0] must be a whole number, got the text 'a'", ""),
        ("file: zero9", "file must be one of zero2, or the path of a file (.json), got the text 'zero9'", "zero2"),
        ("cout: 3", "unknown key `cout`", "did you mean `count`?"),
    ],
)
def test_complaints(text: str, what: str, fix: str) -> None:
    value, problems = check(text)
    assert value is INVALID
    assert [problem.what for problem in problems] == [what]
    assert fix in problems[0].fix
    assert bool(fix) == bool(problems[0].fix)


def test_all_problems_are_told_at_once() -> None:
    problems = check("flag: 3\ncount: x\nparts:\n  - name: 1\n  - {}\nnope: 1\n")[1]
    assert [problem.where for problem in problems] == ["f:1:7", "f:2:8", "f:4:11", "f:5:5", "f:6:1"]


def test_the_strings_below_fields_describe_them() -> None:
    assert SECTION.fields["count"].doc == "A count, described on two lines."
    assert SECTION.fields["rate"].doc == ""
    assert SECTION.doc == "Every kind of field."


def test_json_schema_of_every_kind() -> None:
    schema = json_schema(SECTION, "t")
    properties = schema["properties"]
    assert schema["additionalProperties"] is False
    assert properties["count"] == {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}],
        "description": "A count, described on two lines.",
        "default": None,
    }
    assert properties["mode"] == {"enum": ["fast", "slow", 3], "default": "fast"}
    assert properties["names"]["uniqueItems"] is True
    assert schema["$defs"]["Inner"]["required"] == ["name"]
    assert schema["$defs"]["Inner"]["properties"]["weight"]["exclusiveMaximum"] == 1


@dataclass(frozen=True)
class Odd:
    value: complex = 0j


def test_an_unsupported_hint_is_our_own_mistake() -> None:
    with pytest.raises(TypeError, match="complex"):
        section_of(Odd)


def test_a_flood_of_unknown_keys_stays_quick() -> None:
    """Suggestions stop after a while: looking thousands of keys up would take minutes."""
    problems = check("\n".join(f"key{i}: 1" for i in range(5000)))[1]
    assert len(problems) == 5000
    assert not problems[-1].fix
