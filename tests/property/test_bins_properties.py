"""Packing: nothing lost, nothing twice, nothing over; and never better than the bound."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.batch.bins import best_fit_decreasing, equalise, lower_bound, pack_samples, subset_fill

CAPACITY = 40
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=60)


@pytest.mark.parametrize("packing", [best_fit_decreasing, subset_fill, pack_samples])
@given(LENGTHS)
def test_every_sample_is_in_one_pack_and_no_pack_is_too_full(packing, lengths: list[int]) -> None:
    packs = packing(lengths, CAPACITY)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in pack) <= CAPACITY for pack in packs)
    assert len(packs) >= lower_bound(lengths, CAPACITY)
    assert packing(lengths, CAPACITY) == packs


def _fewest(lengths: tuple[int, ...], capacity: int) -> int:
    """The true optimum, by trying everything."""
    if not lengths:
        return 0
    first, rest = lengths[0], lengths[1:]
    best = len(lengths)
    for count in range(len(rest) + 1):
        for chosen in combinations(range(len(rest)), count):
            if first + sum(rest[index] for index in chosen) <= capacity:
                others = tuple(length for index, length in enumerate(rest) if index not in chosen)
                best = min(best, 1 + _fewest(others, capacity))
    return best


@given(st.lists(st.integers(1, 10), max_size=7))
def test_the_bound_never_exceeds_the_optimum(lengths: list[int]) -> None:
    optimum = _fewest(tuple(lengths), 10)
    assert lower_bound(lengths, 10) <= optimum <= len(pack_samples(lengths, 10))


def test_literal_packs_and_bounds() -> None:
    assert best_fit_decreasing([3, 7, 5, 5], 10) == [[1, 0], [2, 3]]
    assert lower_bound([6, 6, 6], 10) == 3, "no two of them fit together although the sum needs only two packs"
    assert lower_bound([], 10) == 0
    assert sorted(map(sorted, subset_fill([6, 5, 4, 3, 2], 10))) == [[0, 2], [1, 3, 4]]


@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=10))
def test_the_first_pack_is_filled_as_well_as_can_be(lengths: list[int]) -> None:
    first = subset_fill(lengths, CAPACITY)[0]
    others = [length for index, length in enumerate(lengths) if index != first[0]]
    sums = [sum(chosen) for count in range(len(others) + 1) for chosen in combinations(others, count)]
    room = CAPACITY - lengths[first[0]]
    halves = [length for length in lengths if 2 * length > CAPACITY]
    assert not halves or lengths[first[0]] == max(halves)
    if len(halves) <= 1:  # of those over half a pack, each has a pack of its own
        assert sum(lengths[index] for index in first[1:]) == max(total for total in sums if total <= room)


def test_a_large_pack_may_lack_a_token_or_two() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(500, 1600, 4000)
    packs = subset_fill(lengths, 4096)
    missing = np.array([4096 - lengths[pack].sum() for pack in packs])
    assert np.median(missing) <= 2
    assert lengths.sum() / (4096 * len(packs)) > 0.998


@pytest.mark.parametrize("lengths", [[11], [0], [3, -1]])
def test_what_fits_in_no_pack_is_named(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=f"sample {len(lengths) - 1} has"):
        best_fit_decreasing(lengths, 10)


@given(LENGTHS.filter(bool), st.integers(0, 60))
def test_equal_numbers_of_packs_lose_nothing(lengths: list[int], more: int) -> None:
    packs = pack_samples(lengths, CAPACITY)
    count = min(len(packs) + more, len(lengths))
    even = equalise(packs, count)
    assert len(even) == count and all(even)
    assert sorted(index for pack in even for index in pack) == list(range(len(lengths)))
    with pytest.raises(ValueError, match="cannot become"):
        equalise(packs, len(lengths) + 1)


def test_realistic_lengths_are_packed_close_to_the_bound() -> None:
    rng = np.random.default_rng(0)
    for lengths, capacity in (
        (rng.integers(300, 2500, 5000), 4096),
        (np.clip(rng.lognormal(5.5, 0.6, 5000), 20, 2048).astype(int), 2048),
        (np.clip(rng.normal(900, 200, 5000), 100, 4000).astype(int), 4096),
        (np.clip(rng.normal(900, 200, 100_000), 100, 4000).astype(int), 4096),
    ):
        packs = len(pack_samples(lengths, capacity))
        assert lengths.sum() / (packs * capacity) >= 0.985
        assert lower_bound(lengths, capacity) / packs >= 0.995
