"""How long a run is, and how large its pictures may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.start.sizes import fit, schedule


@given(st.integers(1, 200_000))
def test_every_run_has_steps_and_about_ten_evaluations(records):
    found = schedule(records)
    assert 3 <= found.epochs <= 10
    assert found.steps == -(-records // found.batch) * found.epochs
    assert 1 <= found.every <= found.steps
    if found.steps >= 20:
        assert 9 <= found.steps / found.every <= 11


@pytest.mark.parametrize(("records", "batch", "epochs"), [(50, 4, 10), (180, 8, 10), (1000, 8, 3), (10_000, 16, 3)])
def test_known_sizes(records, batch, epochs):
    found = schedule(records)
    assert (found.batch, found.epochs) == (batch, epochs)


def test_pictures_are_scaled_down_only_when_a_sample_would_not_fit():
    def measure(max_pixels: int | None) -> np.ndarray:
        return np.array([900, 300 + 12_000 if max_pixels is None else 300 + max_pixels // 1024])

    found = fit(measure)
    assert (found.max_pixels, found.longest, found.max_length, found.too_long) == (2048 * 1024, 2348, 2560, 0)
    small = fit(lambda max_pixels: np.array([900, 1100]))
    assert (small.max_pixels, small.max_length) == (None, 1536)


def test_an_answer_that_is_too_long_is_counted():
    found = fit(lambda max_pixels: np.array([900, 9000]))
    assert (found.max_length, found.too_long, found.max_pixels) == (4096, 1, 768 * 1024)
