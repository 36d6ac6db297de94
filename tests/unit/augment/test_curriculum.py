"""Phases over a run: what is refused, and which numbers hold at which step."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline.augment.config import AugmentationConfig, augmentation_problems
from plumbline.augment.curriculum import resolve
from plumbline.augment.ops import NAMES
from plumbline.augment.pipeline import ScheduledAugmentation
from plumbline.config.parse import parse_text
from plumbline.config.spec import section_of
from plumbline.config.types import INVALID, CheckReport
from plumbline.errors import Problem

SECTION = section_of(AugmentationConfig)
CHAIN = """
enabled: true
bypass_prob: 0.4
ops:
  - {name: rotate, params: {max_deg: 1.0, prob: 0.1}}
  - {name: color_jitter, params: {brightness: [0.9, 1.1]}}
  - {name: posterize, params: {bits: [8, 8]}}
  - {name: random_crop}
"""


def load(text: str) -> tuple[AugmentationConfig | None, list[Problem]]:
    """The configuration from YAML, as `config check` judges it: each key by itself."""
    report = CheckReport()
    tree = parse_text(text, "f", report.problems)
    assert tree is not None
    values = SECTION.check(tree, "", report)
    return (None if values is INVALID else SECTION.make(values)), report.problems


def config_of(phases: str, chain: str = CHAIN) -> AugmentationConfig:
    config, problems = load(f"{chain}curriculum: {{phases: {phases}}}")
    assert config is not None and not problems, problems
    return config


def found(phases: str, chain: str = CHAIN) -> list[tuple[str, str, str]]:
    return list(augmentation_problems(config_of(phases, chain)))


def at(config: AugmentationConfig, step: int, total: int = 100) -> tuple[dict[str, Any], float]:
    assert config.curriculum is not None
    operations, bypass = resolve(config.ops, config.bypass_prob, config.curriculum, NAMES, step, total)
    return {NAMES[type(operation)]: operation for operation in operations}, bypass


def test_numbers_are_reached_at_the_end_and_move_in_a_straight_line_before_it() -> None:
    config = config_of(
        "[{until_percent: 20, bypass_prob: 0.2, ops: {rotate: {max_deg: 5.0}}},"
        " {until_percent: 60, ops: {rotate: {max_deg: 15, prob: 0.5}, color_jitter: {brightness: [0.7, 1.5]}}}]"
    )
    seen = {step: at(config, step) for step in (0, 10, 20, 40, 60, 100, 1000)}
    assert [ops["rotate"].max_deg for ops, _ in seen.values()] == [1.0, 3.0, 5.0, 10.0, 15.0, 15.0, 15.0]
    assert [ops["rotate"].prob for ops, _ in seen.values()] == pytest.approx([0.1, 0.1, 0.1, 0.3, 0.5, 0.5, 0.5])
    assert seen[40][0]["color_jitter"].brightness == pytest.approx((0.8, 1.3))
    assert seen[20][0]["color_jitter"].brightness == (0.9, 1.1)
    assert seen[100][0]["color_jitter"].contrast == (0.85, 1.15), "what no phase names stays"
    assert [bypass for _, bypass in seen.values()] == pytest.approx([0.4, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2])


def test_steps_and_percents_of_the_same_run_agree() -> None:
    params = "ops: {rotate: {max_deg: 9.0}}"
    percent = config_of(f"[{{until_percent: 25, {params}}}, {{until_percent: 50}}]")
    steps = config_of(f"[{{until_step: 10, {params}}}, {{until_step: 20}}]")
    assert all(at(percent, step, 40) == at(steps, step, 40) for step in range(45))


def test_whole_numbers_stay_whole() -> None:
    config = config_of("[{until_step: 10, ops: {posterize: {bits: [2, 5]}, random_crop: {min_objects: 4}}}]")
    bits = [at(config, step)[0]["posterize"].bits for step in range(12)]
    assert bits[0] == (8, 8) and bits[5] == (5, 6) and bits[10] == bits[11] == (2, 5)
    assert all(isinstance(value, int) for pair in bits for value in pair)
    assert [at(config, step)[0]["random_crop"].min_objects for step in (0, 3, 5, 10)] == [1, 2, 2, 4]


def test_the_same_operation_twice_is_fine_while_no_phase_names_it() -> None:
    chain = CHAIN + "  - {name: rotate, params: {max_deg: 90.0}}\n"
    phases = "[{until_step: 5, ops: {posterize: {prob: 0.5}}}]"
    assert found(phases, chain) == []
    config = config_of(phases, chain)
    assert config.curriculum is not None
    operations, _ = resolve(config.ops, 0.0, config.curriculum, NAMES, 3, 10)
    assert [operation.max_deg for operation in operations if hasattr(operation, "max_deg")] == [1.0, 90.0]
    (problem,) = found("[{until_step: 5, ops: {rotate: {prob: 0.5}}}]", chain)
    assert problem[0] == "curriculum.phases[0].ops.rotate" and "more than once" in problem[1]


def test_a_chain_follows_the_step_in_any_order_of_calls() -> None:
    config = config_of("[{until_step: 10, ops: {rotate: {max_deg: 11.0}}}]")
    schedule = ScheduledAugmentation(config, 100)
    for step in (10, 0, 5, 5, 10, 0):
        assert schedule.at(step).operations[0].max_deg == 1.0 + step
    assert ScheduledAugmentation(config_of("[{until_step: 1}]"), 100).at(7).operations == config.ops


@pytest.mark.parametrize(
    ("phases", "where", "what", "fix"),
    [
        ("[{until_percent: 50}, {until_percent: 50}]", "phases", "do not ascend: 50, 50", "sort"),
        ("[{until_step: 9}, {until_step: 5}]", "phases", "do not ascend: 9, 5", "sort"),
        ("[{until_percent: 50}, {until_step: 500}]", "phases", "until_percent or until_step", ""),
        ("[{until_percent: 50, until_step: 5}]", "phases", "until_percent or until_step", ""),
        ("[{bypass_prob: 0.5}]", "phases", "until_percent or until_step", ""),
        ("[{until_step: 5, ops: {rotat: {prob: 0.5}}}]", "phases[0].ops.rotat", "not among", "`rotate`"),
        ("[{until_step: 5, ops: {blur: {prob: 0.5}}}]", "phases[0].ops.blur", "not among", "random_crop"),
        ("[{until_step: 5, ops: {rotate: {max_dg: 3.0}}}]", "phases[0].ops.rotate.max_dg", "not a param", "`max_deg`"),
        ("[{until_step: 5, ops: {random_crop: {line_policy: drop}}}]", ".line_policy", "cannot move", ""),
        ("[{until_step: 5, ops: {random_crop: {completeness_threshold: 0.5}}}]", "_threshold", "cannot move", ""),
        ("[{until_step: 5, ops: {rotate: {max_deg: 500.0}}}]", "phases[0].ops.rotate", "<= 180", ""),
        ("[{until_step: 5, ops: {rotate: {max_deg: [1.0, 2.0]}}}]", "phases[0].ops.rotate", "a number", ""),
        ("[{until_step: 5, ops: {posterize: {bits: [2.5, 4]}}}]", "phases[0].ops.posterize", "a whole number", ""),
        ("[{until_step: 5, ops: {color_jitter: {brightness: 1.2}}}]", "phases[0].ops.color_jitter", "low, high", ""),
        ("[{until_step: 5, ops: {color_jitter: {contrast: [1.2, 0.8]}}}]", "color_jitter", "ascend", ""),
    ],
)
def test_what_cannot_be_scheduled_is_named(phases: str, where: str, what: str, fix: str) -> None:
    (problem,) = found(phases)
    assert where in problem[0] and problem[0].startswith("curriculum.phases")
    assert what in problem[1] and fix in problem[2]


@pytest.mark.parametrize(
    ("phases", "what"),
    [
        ("[]", "at least 1"),
        ("[{until_percent: 0}]", "until_percent"),
        ("[{until_percent: 101}]", "until_percent"),
        ("[{until_step: 0}]", "until_step"),
        ("[{until_step: 2.5}]", "until_step"),
        ("[{until_step: 2, bypass_prob: 2}]", "bypass_prob"),
        ("[{until_step: 2, op: {}}]", "unknown key"),
        ("[{until_step: 2, ops: {rotate: 5}}]", "a mapping"),
    ],
)
def test_each_key_is_judged_by_itself_without_the_chain(phases: str, what: str) -> None:
    config, problems = load(f"{CHAIN}curriculum: {{phases: {phases}}}")
    assert config is None
    assert any(what in problem.what for problem in problems), problems


def test_all_findings_come_at_once_each_with_its_place() -> None:
    several = "[{until_step: 5, ops: {rotat: {prob: 0.5}, rotate: {prob: 7}}}, {until_step: 9, ops: {blur: {}}}]"
    assert [path for path, _, _ in found(several)] == [
        "curriculum.phases[0].ops.rotat",
        "curriculum.phases[0].ops.rotate",
        "curriculum.phases[1].ops.blur",
    ]
