"""What a configuration of operations refuses: every parameter outside its limits, and parameters that do not fit."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from plumbline.augment.config import AugmentationConfig, augmentation_problems
from plumbline.augment.ops import OPERATIONS
from plumbline.config.limits import Length, Range
from plumbline.config.parse import parse_text
from plumbline.config.spec import section_of
from plumbline.config.types import INVALID, CheckReport
from plumbline.errors import Problem

SECTION = section_of(AugmentationConfig)
NEEDED = {"roi_crop": {"classes": ["a"]}}
"""Parameters without a default."""


def load(name: str, **params: Any) -> tuple[AugmentationConfig | None, list[Problem]]:
    """The configuration of one operation, as `config check` judges it."""
    report = CheckReport()
    text = json.dumps({"enabled": True, "ops": [{"name": name, "params": NEEDED.get(name, {}) | params}]})
    tree = parse_text(text.replace("NaN", ".nan").replace("Infinity", ".inf"), "f", report.problems)
    assert tree is not None
    values = SECTION.check(tree, "", report)
    return (None if values is INVALID else SECTION.make(values)), report.problems


def beyond(limit: Range) -> list[float]:
    """The values next to the limits on their wrong side."""
    ends = [(limit.ge, -1), (limit.gt, 0), (limit.le, 1), (limit.lt, 0)]
    return [end + step for end, step in ends if end is not None]


def wrong_values(hint: Any) -> Iterator[Any]:
    """Values that a field with this type hint must refuse."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        yield from ("neither", 5)
        return
    kind, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if kind is str:
        yield from (5, [])
    elif kind in (int, float):
        (limit,) = limits
        yield from beyond(limit)
        yield from ("many", [1, 2], True, float("nan"), float("inf"))
        if kind is int:
            yield 1.5
    elif get_args(kind)[1] is ...:
        yield from ([5], "a", *([[]] if Length(least=1) in limits else []))
    else:
        (limit,) = limits
        inside = 1 if limit.holds(1) else limit.le
        for value in beyond(limit):
            yield from ([value, inside], [inside, value])
        yield from (inside, [inside], [inside] * 3, [limit.le, inside / 2], ["a", "b"])
        if get_args(kind)[0] is int:
            yield [1.5, 2]


FIELDS = [
    (name, field.name, get_type_hints(cls, include_extras=True)[field.name])
    for name, cls in OPERATIONS.items()
    for field in dataclasses.fields(cls)
]


@pytest.mark.parametrize(("name", "key", "hint"), FIELDS, ids=[f"{name}-{key}" for name, key, _ in FIELDS])
def test_a_parameter_outside_its_limits_is_refused_by_name(name: str, key: str, hint: Any) -> None:
    values = list(wrong_values(hint))
    assert len(values) > 1
    for value in values:
        config, problems = load(name, **{key: value})
        assert config is None, f"{key}: {value}"
        assert problems
        assert all(key in f"{problem.where} {problem.what}" for problem in problems), problems


@pytest.mark.parametrize("name", OPERATIONS)
def test_defaults_are_accepted_and_an_unknown_parameter_is_refused(name: str) -> None:
    config, problems = load(name)
    assert config is not None and not problems
    assert not list(augmentation_problems(config))
    config, (problem,) = load(name, probability=0.5)
    assert config is None and "probability" in str(problem)


TEXTS = {"complete_text": "显示完整", "partial_text": "只显示部分"}


@pytest.mark.parametrize("name", ["center_crop", "random_crop", "roi_crop"])
@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"completeness_threshold": 0.9}, "completeness_threshold is set without both texts"),
        ({"completeness_threshold": 0.9, "complete_text": "a"}, "completeness_threshold is set without both texts"),
        ({"completeness_threshold": 0.9, "partial_text": "a"}, "completeness_threshold is set without both texts"),
        (TEXTS, "complete_text and partial_text do nothing alone"),
        ({"partial_text": "a"}, "complete_text and partial_text do nothing alone"),
        ({"completeness_threshold": 0.9, **TEXTS}, ""),
    ],
)
def test_the_visibility_rule_is_whole_or_absent(name: str, params: dict[str, Any], what: str) -> None:
    config, problems = load(name, **params)
    assert config is not None and not problems
    found = list(augmentation_problems(config))
    assert [(path, text) for path, text, _ in found] == ([("ops[0]", what)] if what else [])
    assert all(fix for _, _, fix in found)
