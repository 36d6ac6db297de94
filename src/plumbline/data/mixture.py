"""Which records an epoch shows, in which order, in which mode, in which turns: drawn from (seed, epoch) alone.

Every epoch has the same number of turns, so that schedules and resumes can count on it: shares are drawn as exact
counts, never as independent coins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from plumbline.data.keyed import keyed_generator

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """One source in the mixture, as numbers.

    records: how many it has; ratio: samples per epoch over the targets' records together (over its own, for a target).
    mode: "dense", "summary", "chat", "irrelevant", or "mixed": dense with a share of summaries. chats: records that are
    chats of their own among others; they are used as such, and as many of them per epoch as their number demands.
    """

    records: int
    ratio: float = 1.0
    target: bool = True
    mode: str = "dense"
    without_replacement: bool = True
    chats: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Turn:
    """One sample of an epoch: `records` of one `source`, in one turn, in `mode`."""

    source: int
    records: tuple[int, ...]
    mode: str


@dataclass(frozen=True)
class Mixture:
    """Draws the turns of an epoch.

    summary_ratio: share of the records of a "mixed" source, its chats aside, answered with their summary;
    images_per_turn: records in one turn (chats stay alone); shuffle: False keeps the order of the files.
    """

    shares: tuple[Share, ...]
    seed: int = 0
    summary_ratio: float = 0.0
    images_per_turn: int = 1
    shuffle: bool = True

    @property
    def is_random(self) -> bool:
        """Whether epochs differ in more than their order."""
        drawn = any(not share.without_replacement or share.records != self.count(share) for share in self.shares)
        mixed = 0 < self.summary_ratio < 1 and any(share.mode == "mixed" for share in self.shares)
        return drawn or mixed or self.images_per_turn > 1

    def count(self, share: Share) -> int:
        """Records of a source per epoch."""
        base = share.records if share.target else sum(other.records for other in self.shares if other.target)
        return round(share.ratio * base)

    def turns(self, epoch: int) -> Sequence[Turn]:
        """The turns of an epoch in the order in which they are trained."""
        return _turns(self, epoch)

    def __len__(self) -> int:
        return len(self.turns(0))


@lru_cache(maxsize=4)
def _turns(mixture: Mixture, epoch: int) -> tuple[Turn, ...]:
    sources, records, modes = _drawn(mixture, epoch)
    if mixture.shuffle:
        order = keyed_generator(mixture.seed, epoch, 0, "order").permutation(len(sources))
    else:
        order = np.lexsort((records, sources))
    sources, records, modes = sources[order], records[order], [modes[index] for index in order]
    singles = zip(sources.tolist(), records.tolist(), modes, strict=True)
    if mixture.images_per_turn == 1:
        return tuple(Turn(source, (record,), mode) for source, record, mode in singles)
    return tuple(_grouped(singles, mixture.images_per_turn))


def _drawn(mixture: Mixture, epoch: int) -> tuple[Indices, Indices, list[str]]:
    """(source, record, mode) of every record of the epoch, source by source.

    Chats are drawn apart from the other records: were their number left to chance, turns of several records would make
    epochs of different lengths.
    """
    sources, records = [], []
    modes: list[str] = []
    for number, share in enumerate(mixture.shares):
        chats = np.array(sorted(share.chats), dtype=np.int64)
        others = np.delete(np.arange(share.records), chats)
        count = mixture.count(share)
        chatted = round(count * len(chats) / share.records)
        for pool, size, purpose in ((others, count - chatted, "records"), (chats, chatted, "chats")):
            rng = keyed_generator(mixture.seed, epoch, number, purpose)
            records.append(_chosen(pool, size, rng, without_replacement=share.without_replacement))
        sources.append(np.full(count, number))
        modes += [*_modes(mixture, share, count - chatted, epoch, number), *["chat"] * chatted]
    return np.concatenate(sources), np.concatenate(records), modes


def _chosen(pool: Indices, count: int, rng: np.random.Generator, *, without_replacement: bool) -> Indices:
    """`count` records; each at most once more than any other, unless they are drawn with replacement."""
    if not len(pool):
        return pool
    if not without_replacement:
        return pool[rng.integers(len(pool), size=count)]
    whole, rest = divmod(count, len(pool))
    return np.concatenate([np.tile(pool, whole), pool[rng.permutation(len(pool))[:rest]]])


def _modes(mixture: Mixture, share: Share, count: int, epoch: int, number: int) -> list[str]:
    if share.mode != "mixed":
        return [share.mode] * count
    modes = ["dense"] * count
    summaries = round(mixture.summary_ratio * count)
    for index in keyed_generator(mixture.seed, epoch, number, "mode").permutation(count)[:summaries].tolist():
        modes[index] = "summary"
    return modes


def _grouped(singles: Iterator[tuple[int, int, str]], size: int) -> Iterator[Turn]:
    """Turns of `size` records of one source and mode, each at the place of its last record; the rest at the end."""
    waiting: dict[tuple[int, str], list[int]] = {}
    for source, record, mode in singles:
        group = waiting.setdefault((source, mode), [])
        group.append(record)
        if len(group) == size or mode == "chat":
            yield Turn(source, tuple(group), mode)
            group.clear()
    for (source, mode), group in waiting.items():
        if group:
            yield Turn(source, tuple(group), mode)
