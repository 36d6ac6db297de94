"""Samples into packs of a fixed number of tokens, and the bound that no packing can beat."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Pack = list[int]

WINDOW = 24
"""Samples among which `subset_fill` looks for those that fill a pack."""
NEAR = 2000
"""A pack that lacks less than one token in so many is full: the last one or two cost as much as all before."""
GOOD = 0.995
"""Share of the bound at which best fit decreasing is good enough."""


def pack_samples(lengths: ArrayLike, capacity: int) -> list[Pack]:
    """Best fit decreasing; where it stays below `GOOD` of the bound, `subset_fill` if that needs fewer packs."""
    packs = best_fit_decreasing(lengths, capacity)
    if lower_bound(lengths, capacity) >= GOOD * len(packs):
        return packs
    return min(packs, subset_fill(lengths, capacity), key=len)


def best_fit_decreasing(lengths: ArrayLike, capacity: int) -> list[Pack]:
    """Packs of indices into `lengths`, each pack's lengths adding up to `capacity` at most.

    The longest first, each into the fullest pack that still has room (Johnson 1973). Deterministic: equal lengths go in
    order of their index. Free spaces are bits of one whole number, so that "the smallest space of at least n" is a
    shift and a look at the lowest set bit, and 100,000 samples take well under a second.
    Raises ValueError for a length over the capacity or below 1.
    """
    sizes = _checked(lengths, capacity)
    packs: list[Pack] = []
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]  # packs by their free space
    spaces = 0  # bit n: some pack has n tokens of free space
    for index in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[index])
        fitting = spaces >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            pack = waiting[space].pop()
            if not waiting[space]:
                spaces &= ~(1 << space)
            packs[pack].append(index)
        else:
            space, pack = capacity, len(packs)
            packs.append([index])
        waiting[space - size].append(pack)
        spaces |= 1 << (space - size)
    return packs


def subset_fill(lengths: ArrayLike, capacity: int) -> list[Pack]:
    """Packs filled one after the other: a sample, and what fills its room of the next `WINDOW` in a shuffled order.

    Which subset of the window fills it best is found by subset sums as bits of one whole number (the idea of the
    minimum bin slack heuristic of Gupta and Ho, 1999, with Bellman's recursion in the place of its search). A shuffled
    order keeps the mixture of lengths the same to the end, so that the last packs fill as well as the first: near the
    bound where several samples share a pack. What takes more than half a pack comes first, the longest before the
    others; where that is most of them, best fit decreasing does better. Deterministic. Raises as `best_fit_decreasing`
    does.
    """
    sizes = _checked(lengths, capacity).tolist()
    order = list(range(len(sizes)))
    random.Random(0).shuffle(order)
    large = sorted((index for index in order if 2 * sizes[index] > capacity), key=sizes.__getitem__)
    waiting = [index for index in order if 2 * sizes[index] <= capacity]
    window: list[int] = []
    packs: list[Pack] = []
    while large or window or waiting:
        missing = WINDOW - len(window)
        if missing > 0:
            window += waiting[: -missing - 1 : -1]
            del waiting[-missing:]
        first = large.pop() if large else window.pop(0)
        pack = [first]
        for place in _best_subset([sizes[index] for index in window], capacity - sizes[first], capacity // NEAR):
            pack.append(window.pop(place))  # the places descend
        packs.append(pack)
    return packs


def _best_subset(sizes: Sequence[int], room: int, near: int) -> list[int]:
    """The places, descending, of the sizes with the largest sum that does not exceed `room`.

    The first sum within `near` of it is good enough; which one that is depends on the sizes' order alone.
    """
    reachable, inside = 1, (1 << (room + 1)) - 1
    seen: list[tuple[int, int, int]] = []
    for place, size in enumerate(sizes):
        if size <= room:
            seen.append((place, size, reachable))
            reachable |= (reachable << size) & inside
            if reachable.bit_length() > room - near:
                break
    total = reachable.bit_length() - 1
    chosen = []
    while total:
        place, size, sums = seen.pop()
        if not sums >> total & 1:
            chosen.append(place)
            total -= size
    return chosen


def lower_bound(lengths: ArrayLike, capacity: int) -> int:
    """Packs that any packing needs at least (bound L2 of Martello and Toth, 1990, chapter 8.3).

    For every threshold k: samples over capacity - k share their pack with nothing of k or more; those over half the
    capacity cannot share with each other; the rest fills what room they leave.
    """
    sizes = np.sort(_checked(lengths, capacity))[::-1]
    if not len(sizes):
        return 0
    sums = np.concatenate([[0], np.cumsum(sizes)])
    best = -(-int(sums[-1]) // capacity)
    over_half = int(np.searchsorted(-sizes, -capacity / 2, side="left"))  # sizes > capacity / 2
    for k in [0, *np.unique(sizes[sizes <= capacity / 2]).tolist()]:
        alone = int(np.searchsorted(-sizes, -(capacity - k), side="left"))  # sizes > capacity - k
        small = int(np.searchsorted(-sizes, -k, side="right"))  # sizes >= k
        room = (over_half - alone) * capacity - int(sums[over_half] - sums[alone])
        rest = int(sums[small] - sums[over_half]) - room
        best = max(best, over_half + max(0, -(-rest // capacity)))
    return best


def equalise(packs: Sequence[Pack], count: int) -> list[Pack]:
    """Exactly `count` packs of the same samples: those with most samples are halved until there are enough.

    Ranks and epochs need equal numbers of packs; nothing is repeated or left out. Raises ValueError for fewer samples
    than packs, or for more packs than `count`.
    """
    samples = sum(map(len, packs))
    if not len(packs) <= count <= samples:
        raise ValueError(f"{len(packs)} packs of {samples} samples cannot become {count} packs")
    even = [list(pack) for pack in packs]
    while len(even) < count:
        largest = max(range(len(even)), key=lambda number: len(even[number]))
        pack = even[largest]
        even[largest] = pack[::2]
        even.append(pack[1::2])
    return even


def _checked(lengths: ArrayLike, capacity: int) -> NDArray[np.int64]:
    sizes = np.asarray(lengths, dtype=np.int64)
    for wrong in np.nonzero((sizes > capacity) | (sizes < 1))[0][:1].tolist():
        raise ValueError(f"sample {wrong} has {sizes[wrong]} tokens, a pack holds 1 to {capacity}")
    return sizes
