"""Figures from summed counts, with bootstrap intervals over pictures and paired comparisons of two models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plumbline.evaluate.counts import COLUMN
from plumbline.evaluate.descriptions import MAX_LEVELS
from plumbline.evaluate.matching import ERROR_KINDS, THRESHOLDS
from plumbline.evaluate.similarity import Matrix

BOOTSTRAPS = 1000
CONFIDENCE = 0.95
_BLOCK = 4096
"""Pictures whose draws are multiplied at a time: memory stays flat."""

Sums = Callable[[str], NDArray[np.float64]]
FiguresOf = Callable[[Matrix], dict[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class Figure:
    """A figure and its interval; None where nothing could be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def dense_figures(sums: Matrix) -> dict[str, NDArray[np.float64]]:
    """Every figure of summed counts [..., K], as arrays [...]; NaN where there is nothing to divide by."""

    def of(name: str) -> NDArray[np.float64]:
        column: NDArray[np.float64] = sums[..., COLUMN[name]]
        return column

    at = {threshold: _f1(of(f"hits_{threshold:.2f}"), of("truth"), of("found")) for threshold in THRESHOLDS}
    hits = of(f"hits_{THRESHOLDS[0]:.2f}")
    return {
        "f1_50": at[0.5],
        "f1_75": at[0.75],
        "f1_50_95": np.mean(np.stack(list(at.values())), axis=0),
        "precision_50": _share(hits, of("found")),
        "recall_50": _share(hits, of("truth")),
        "f1_50_any_class": _f1(of("places"), of("truth"), of("found")),
        **_gains(of, hits),
        "description_exact": _share(of("exact"), of("pairs")),
        **{
            f"description_level_{level}": _share(of(f"level_{level}_right"), of(f"level_{level}"))
            for level in range(1, MAX_LEVELS + 1)
        },
        "attribute_f1": _f1(of("attributes_right"), of("attributes_truth"), of("attributes_found")),
        "hallucinated_objects": _share(of("ghost_mentions"), of("found")),
        "hallucinated_pictures": _share(of("ghost_pictures"), of("pictures")),
        "false_alarms_on_empty": _share(of("empty_alarms"), of("empty")),
        "replies_read_whole": _share(of("replies_whole"), of("replies")),
    }


def _gains(of: Sums, hits: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """What F1 at 0.5 would gain if all errors of one kind were mended."""
    truth, found = of("truth"), of("found")
    now = _f1(hits, truth, found)
    gains = {}
    for kind in ERROR_KINDS:
        if kind == "missed":
            mended = _f1(hits + of(kind), truth, found + of(kind))
        elif kind in ("ghost", "duplicate"):
            mended = _f1(hits, truth, found - of(kind))
        else:
            right = of(f"{kind}_mendable")
            mended = _f1(hits + right, truth, found - (of(kind) - right))
        gains[f"gain_{kind}"] = mended - now
    return gains


def _f1(hits: NDArray[np.float64], truth: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    return _share(2 * hits, truth + found)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def resampled_sums(counts: Matrix, times: int, seed: int) -> Matrix:
    """Sums over pictures drawn with replacement; the same seed draws the same pictures of another model's counts.

    Args:
        counts: float64 [P, K].
        times: B draws.
        seed: Of the draws.

    Returns:
        float64 [B, K].
    """
    rng = np.random.default_rng(seed)
    pictures = len(counts)
    sums = np.zeros((times, counts.shape[1]))
    # Splitting P draws over blocks of pictures first keeps the distribution and bounds the memory.
    starts = list(range(0, pictures, _BLOCK))
    shares = [min(_BLOCK, pictures - start) / pictures for start in starts]
    numbers = rng.multinomial(pictures, shares, size=times)
    for start, drawn in zip(starts, numbers.T, strict=True):
        block = counts[start : start + _BLOCK]
        weights = rng.multinomial(drawn, np.full(len(block), 1 / len(block)))
        sums += weights.astype(np.float64) @ block
    return sums


def measure(counts: Matrix, figures_of: FiguresOf, times: int = BOOTSTRAPS, seed: int = 0) -> dict[str, Figure]:
    """Every figure of the pictures, with percentile intervals over pictures.

    Args:
        counts: float64 [P, K], a row per picture.
        figures_of: Summed counts [..., K] to figures [...], such as `dense_figures`.
        times: Bootstrap draws; 0 for none.
        seed: Of the draws.
    """
    values = figures_of(counts.sum(axis=0))
    drawn = figures_of(resampled_sums(counts, times, seed)) if times else {}
    return {name: _figure(float(value), drawn.get(name)) for name, value in values.items()}


def _figure(value: float, drawn: NDArray[np.float64] | None) -> Figure:
    if np.isnan(value):
        return Figure(None)
    if drawn is None or np.isnan(drawn).all():
        return Figure(value)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Figure(value, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """One model less another on the same pictures.

    Attributes:
        value: Difference of the figure.
        low: End of the interval.
        high: End of the interval.
        p: Two-sided, from the draws' standard error, adjusted over all figures (Holm).
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def is_significant(self) -> bool:
        return self.p < 1 - CONFIDENCE

    def is_worse(self, name: str) -> bool:
        """Whether the difference of the figure `name` is for the worse: some are the better the lower."""
        return (self.value < 0) != name.startswith(("hallucinated", "false_alarms", "relevant_refused"))


def compare(
    mine: Matrix, other: Matrix, figures_of: FiguresOf, times: int = BOOTSTRAPS, seed: int = 0
) -> dict[str, Difference]:
    """Paired differences (mine less other) of the figures that both have, gains aside.

    Args:
        mine: float64 [P, K], a row per picture.
        other: The same of another model on the same pictures.
        figures_of: As for `measure`.
        times: Bootstrap draws, the same pictures for both.
        seed: Of the draws.
    """
    if len(mine) != len(other):
        raise ValueError(f"{len(mine)} pictures against {len(other)}: not the same")
    now = [figures_of(counts.sum(axis=0)) for counts in (mine, other)]
    drawn = [figures_of(resampled_sums(counts, times, seed)) for counts in (mine, other)]
    tail = (1 - CONFIDENCE) / 2
    found: dict[str, Difference] = {}
    for name in (name for name in now[0] if not name.startswith("gain_")):
        value = float(now[0][name] - now[1][name])
        apart = drawn[0][name] - drawn[1][name]
        apart = apart[~np.isnan(apart)]
        if np.isnan(value) or not len(apart):
            continue
        low, high = np.quantile(apart, [tail, 1 - tail])
        found[name] = Difference(value, float(low), float(high), _p_value(value, float(apart.std())))
    return _holm(found)


def _p_value(value: float, error: float) -> float:
    """Two-sided, from the bootstrap's standard error: draws alone could not show a p below one in their number."""
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return math.erfc(abs(value) / error / math.sqrt(2))


def _holm(found: dict[str, Difference]) -> dict[str, Difference]:
    """p values as they are after testing all of them."""
    adjusted = holm([one.p for one in found.values()])
    return {name: replace(one, p=p) for (name, one), p in zip(found.items(), adjusted, strict=True)}


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm), in their order."""
    adjusted, worst = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = worst
    return adjusted
