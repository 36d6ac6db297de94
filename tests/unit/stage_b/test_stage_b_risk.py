"""The bound of automatic passes: exact, covering, void when anything changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from plumbline.stage_b.risk import (
    Certificate,
    Infeasible,
    Setting,
    choose_threshold,
    clopper_pearson_upper,
    tickets_needed,
)

SETTING = Setting("3f2a", "Qwen3-VL-4B", "9c1d")


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.5, 0.999))
def test_the_bound_is_the_beta_quantile_and_inverts_the_binomial(errors: int, right: int, confidence: float) -> None:
    n = errors + right
    bound = clopper_pearson_upper(errors, n, confidence)
    if right == 0:
        assert bound == 1
    else:
        assert bound == beta.ppf(confidence, errors + 1, right)
        assert binom.cdf(errors, n, bound) == pytest.approx(1 - confidence, abs=1e-6)


@pytest.mark.parametrize("rate", [0.004, 0.03, 0.2])
def test_the_bound_covers(rate: float) -> None:
    """Exactly: the outcomes whose bound lies below the rate, by their probability."""
    n = 150
    missed = sum(binom.pmf(errors, n, rate) for errors in range(n) if clopper_pearson_upper(errors, n, 0.95) < rate)
    assert missed <= 0.05


@pytest.mark.parametrize(("errors", "n"), [(-1, 5), (6, 5)])
def test_more_errors_than_tickets(errors: int, n: int) -> None:
    with pytest.raises(ValueError, match="errors of"):
        clopper_pearson_upper(errors, n, 0.95)


@pytest.mark.parametrize(("target", "confidence", "needed"), [(0.01, 0.95, 299), (0.05, 0.95, 59), (0.01, 0.99, 459)])
def test_the_least_number_of_tickets(target: float, confidence: float, needed: int) -> None:
    assert tickets_needed(target, confidence) == needed
    assert clopper_pearson_upper(0, needed, confidence) <= target < clopper_pearson_upper(0, needed - 1, confidence)


def test_the_lowest_threshold_that_holds_is_chosen() -> None:
    scores = [1.0] * 300 + [0.9] * 300 + [0.8] * 100 + [0.1] * 300
    is_fail = [False] * 600 + [True] * 50 + [False] * 50 + [True] * 300
    found = choose_threshold(scores, is_fail, 0.01, 0.95, SETTING)
    assert isinstance(found, Certificate)
    assert (found.threshold, found.n, found.passed, found.errors) == (0.9, 1000, 600, 0)
    assert found.bound == clopper_pearson_upper(0, 600, 0.95)
    assert (found.coverage, found.review_load) == (0.6, 0.4)


def test_nothing_is_tested_beyond_the_first_threshold_that_fails() -> None:
    scores = [1.0] * 300 + [0.9] * 100 + [0.8] * 10_000
    is_fail = [False] * 300 + [True] * 100 + [False] * 10_000
    found = choose_threshold(scores, is_fail, 0.01, 0.95, SETTING)
    assert isinstance(found, Certificate) and found.threshold == 1.0


def test_a_certificate_is_void_when_guidance_model_or_prompts_change() -> None:
    found = choose_threshold([1.0] * 299, [False] * 299, 0.01, 0.95, SETTING)
    assert isinstance(found, Certificate) and found.holds_for(Setting("3f2a", "Qwen3-VL-4B", "9c1d"))
    for name in ("guidance_hash", "model", "prompts_hash"):
        assert not found.holds_for(replace(SETTING, **{name: "other"}))


def test_too_few_tickets_are_told_with_the_number() -> None:
    found = choose_threshold([1.0] * 298, [False] * 298, 0.01, 0.95, SETTING)
    assert isinstance(found, Infeasible)
    assert (found.tickets_needed, found.passed) == (299, 0)
    assert "298 calibration tickets" in found.why and "299" in found.why
    assert isinstance(choose_threshold([], [], 0.01, 0.95, SETTING), Infeasible)


def test_scores_that_do_not_part_are_told() -> None:
    found = choose_threshold([1.0] * 400, [True] * 40 + [False] * 360, 0.01, 0.95, SETTING)
    assert isinstance(found, Infeasible)
    assert (found.passed, found.errors) == (400, 40)


@pytest.mark.parametrize(
    ("scores", "truths", "target"), [([1.0], [], 0.1), ([float("nan")], [True], 0.1), ([1.0], [True], 0.0)]
)
def test_input_that_is_none(scores: list[float], truths: list[bool], target: float) -> None:
    with pytest.raises(ValueError, match=r"score|max_false_pass"):
        choose_threshold(scores, truths, target, 0.95, SETTING)


@given(st.integers(0, 2**32 - 1))
def test_what_is_certified_can_be_counted_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(200), 1)
    is_fail = rng.random(200) > scores**0.2
    found = choose_threshold(list(scores), list(is_fail), 0.1, 0.9, SETTING)
    if isinstance(found, Certificate):
        passed = scores >= found.threshold
        assert (found.passed, found.errors) == (passed.sum(), (passed & is_fail).sum())
        assert found.bound <= 0.1


def test_the_chosen_risk_is_seldom_above_the_target() -> None:
    """300 calibrations on scores whose risk is known: a ticket of score s is a fail with chance (1 - s) / 4."""
    violated = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scores = rng.random(600)
        found = choose_threshold(list(scores), list(rng.random(600) < (1 - scores) / 4), 0.05, 0.9, SETTING)
        if isinstance(found, Certificate):
            violated += (1 - found.threshold) / 8 > 0.05
    assert violated / 300 <= 0.1
