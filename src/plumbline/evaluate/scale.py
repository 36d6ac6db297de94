"""Coordinates read in another scale than they were written in: the most frequent reason for a score near zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from plumbline.evaluate.pairs import Pair
from plumbline.evaluate.similarity import similarities
from plumbline.geometry import Shape

SAMPLED = 50
"""Pictures that are looked at."""
GAIN = 0.2
"""A reading must be better by so much mean similarity to be worth a word."""

Reading = Callable[[np.ndarray, tuple[int, int]], np.ndarray]

_NORMS = {"norm1000": 1000.0, "norm100": 100.0, "0 to 1": 1.0}


def _readings() -> dict[str, Reading]:
    """Other ways to read points [N, 2] that were read as pixels, for a picture of (width, height)."""
    readings: dict[str, Reading] = {"x and y swapped": lambda points, size: points[:, ::-1]}
    for name, span in _NORMS.items():
        readings[f"{name} read as pixels"] = lambda points, size, span=span: points * np.array(size) / span  # type: ignore[misc]
        readings[f"pixels read as {name}"] = lambda points, size, span=span: points * span / np.array(size)  # type: ignore[misc]
    readings["norm1000 read as norm100"] = lambda points, size: points / 10
    readings["norm100 read as norm1000"] = lambda points, size: points * 10
    return readings


def wrong_scale(pairs: Sequence[Pair]) -> str | None:
    """In what the predictions seem to be written, when another reading fits the annotations far better.

    Compares the mean over annotated objects of the best similarity to any prediction, whatever the class.
    """
    looked_at = list(islice(_usable(pairs), SAMPLED))
    if not looked_at:
        return None
    now = _fit(looked_at, lambda points, size: points)
    if now > 1 - GAIN:
        return None
    fits = {name: _fit(looked_at, reading) for name, reading in _readings().items()}
    best = max(fits, key=lambda name: fits[name])
    return best if fits[best] > now + GAIN else None


def _usable(pairs: Sequence[Pair]) -> Iterator[Pair]:
    return (pair for pair in pairs if pair.truth and pair.found and 0 not in pair.size)


def _fit(pairs: Sequence[Pair], reading: Reading) -> float:
    best: list[float] = []
    for pair in pairs:
        found = [_read(item.shape, reading, pair.size) for item in pair.found]
        best += similarities([item.shape for item in pair.truth], found, pair.diagonal).max(axis=1).tolist()
    return float(np.mean(best))


def _read(shape: Shape, reading: Reading, size: tuple[int, int]) -> Shape:
    return shape.with_points(reading(shape.points, size))
