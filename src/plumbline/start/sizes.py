"""How long to train on how many records, and how long a sample may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EVALUATIONS = 10
"""In a run of any length: a curve with fewer points shows no turn."""
_WANTED_STEPS = 300
_EPOCHS = (3, 10)
_LENGTH_STEP = 512
_LONGEST = 4096
"""Tokens of the recipes' `global_max_length`."""
_AREAS = (2048 * 32 * 32, 1280 * 32 * 32, 768 * 32 * 32)
"""Largest pictures to try, in pixels: so many visual tokens of 32 x 32 pixels each."""


@dataclass(frozen=True)
class TrainingLength:
    """How long to train.

    Attributes:
        batch: Records of an optimiser step.
        epochs: Times that every record is seen.
        steps: Optimiser steps in all.
        every: Steps between two evaluations, and two checkpoints.
    """

    batch: int
    epochs: int
    steps: int
    every: int


def schedule(records: int) -> TrainingLength:
    """Small sets get small batches and more epochs, so that there are steps enough; ten evaluations in any case."""
    batch = 16 if records >= 1600 else 8 if records >= 100 else 4
    per_epoch = -(-records // batch)
    fewest, most = _EPOCHS
    epochs = min(most, max(fewest, -(-_WANTED_STEPS // per_epoch)))
    steps = per_epoch * epochs
    return TrainingLength(batch, epochs, steps, max(1, round(steps / EVALUATIONS)))


@dataclass(frozen=True)
class Fit:
    """What holds the samples.

    Attributes:
        max_length: Tokens a sample may have.
        max_pixels: Largest area of a picture; None: as large as the model takes it.
        longest: Tokens of the longest sample, pictures scaled down as said.
        too_long: Samples that are longer than `max_length` all the same.
    """

    max_length: int
    max_pixels: int | None
    longest: int
    too_long: int


def fit(measure: Callable[[int | None], np.ndarray]) -> Fit:
    """The largest pictures with which every sample fits.

    measure: tokens int64 [N], N >= 1, of the samples for a `max_pixels`.
    """
    area: int | None = None
    tokens = measure(area)
    for smaller in _AREAS:
        if tokens.max() <= _LONGEST:
            break
        area, tokens = smaller, measure(smaller)
    longest = int(tokens.max())
    length = min(_LONGEST, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)
    return Fit(length, area, longest, int((tokens > length).sum()))
