"""A threshold for automatic passes whose risk is bounded, for a guidance, a model and prompts that stay as they are.

The risk is the share of the automatically passed tickets that are truly fails. What is measured on calibration tickets
speaks for tickets like them (drawn alike), and the truth is what their labels say.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import beta, binom


def clopper_pearson_upper(errors: int, n: int, confidence: float) -> float:
    """The exact upper bound of a rate of which `errors` of `n` were seen (Clopper & Pearson 1934).

    The `confidence` quantile of Beta(errors + 1, n - errors); 1 where nothing was seen or all were errors.
    """
    if not 0 <= errors <= n:
        raise ValueError(f"{errors} errors of {n}")
    return 1.0 if errors == n else float(beta.ppf(confidence, errors + 1, n - errors))


def tickets_needed(max_false_pass: float, confidence: float) -> int:
    """The least number of automatic passes, all of them right, that shows a risk of at most `max_false_pass`.

    The smallest n with (1 - max_false_pass)^n <= 1 - confidence: ln(1 - confidence) / ln(1 - max_false_pass).
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_false_pass))


@dataclass(frozen=True)
class Setting:
    """What the scores were made with: a bound speaks for nothing else."""

    guidance_hash: str
    model: str
    prompts_hash: str


@dataclass(frozen=True)
class Certificate:
    """With `confidence`, at most `bound` of the tickets with a score of `threshold` or more are truly fails.

    n: calibration tickets; passed: of them at or above the threshold, of which `errors` are fails.
    """

    threshold: float
    bound: float
    max_false_pass: float
    confidence: float
    n: int
    passed: int
    errors: int
    setting: Setting

    @property
    def coverage(self) -> float:
        """Share of the tickets that pass automatically."""
        return self.passed / self.n

    @property
    def review_load(self) -> float:
        """Share of the tickets that a person still looks at: all the others."""
        return 1 - self.coverage

    @property
    def digest(self) -> str:
        """Of everything in it; 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def holds_for(self, setting: Setting) -> bool:
        """False as soon as the guidance, the model or the prompts are others."""
        return setting == self.setting


@dataclass(frozen=True)
class Infeasible:
    """No threshold can be certified. tickets_needed: automatic passes, all right, that the target takes at least;
    passed and errors: at the strictest threshold that was tested, 0 where none could be."""

    why: str
    tickets_needed: int
    passed: int
    errors: int


def choose_threshold(
    scores: Sequence[float], is_fail: Sequence[bool], max_false_pass: float, confidence: float, setting: Setting
) -> Certificate | Infeasible:
    """The lowest threshold whose risk is shown to be at most `max_false_pass`.

    Fixed-sequence testing (Angelopoulos et al. 2021, "Learn then Test"): from the strictest threshold down, each tested
    with the whole 1 - confidence, until the first that fails; so the chance that the risk of the chosen one is above
    `max_false_pass` is at most 1 - confidence. Thresholds are the scores themselves, from the first that passes as many
    tickets as any proof takes: where to begin depends on the scores alone, never on the labels.
    """
    _check(scores, is_fail, max_false_pass, confidence)
    needed = tickets_needed(max_false_pass, confidence)
    thresholds, passed, errors = _steps(scores, is_fail, needed)
    if not len(thresholds):
        why = f"{len(scores)} calibration tickets are fewer than the {needed} automatic passes that a proof takes"
        return Infeasible(why, needed, 0, 0)
    # the bound is at most the target where the binomial tail at the target is at most 1 - confidence
    holds = binom.cdf(errors, passed, max_false_pass) <= 1 - confidence
    last = len(holds) - 1 if holds.all() else int(holds.argmin()) - 1
    if last < 0:
        why = (
            f"{errors[0]} of the {passed[0]} tickets with the highest scores are fails: they are not parted well enough"
        )
        return Infeasible(why, needed, int(passed[0]), int(errors[0]))
    n, wrong = int(passed[last]), int(errors[last])
    bound = clopper_pearson_upper(wrong, n, confidence)
    return Certificate(float(thresholds[last]), bound, max_false_pass, confidence, len(scores), n, wrong, setting)


def _check(scores: Sequence[float], is_fail: Sequence[bool], max_false_pass: float, confidence: float) -> None:
    if len(scores) != len(is_fail) or not all(map(math.isfinite, scores)):
        raise ValueError("a finite score and a truth per ticket are needed")
    if not 0 < max_false_pass < 1 or not 0 < confidence < 1:
        raise ValueError(f"max_false_pass {max_false_pass} and confidence {confidence} must lie between 0 and 1")


def _steps(scores: Sequence[float], is_fail: Sequence[bool], least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds from the strictest down, one per distinct score with `least` tickets at or above it; how many tickets
    that are, and how many of them are fails."""
    values = np.asarray(scores, dtype=float)
    order = np.argsort(-values, kind="stable")
    values, errors = values[order], np.cumsum(np.asarray(is_fail, dtype=int)[order])
    ends = np.flatnonzero(np.diff(values, append=-np.inf))
    ends = ends[ends + 1 >= least]
    return values[ends], ends + 1, errors[ends]
