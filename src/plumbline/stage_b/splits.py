"""Tickets to propose, gate, calibration and test: no ticket, group or near-duplicate picture is in two of them.

A split that shares a picture with another measures memory. Tickets that share one form a cluster, and a cluster goes to
one split whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Annotated

from plumbline.config.limits import Range
from plumbline.errors import ConfigError, DataError, Problem
from plumbline.stage_b.picture_hash import RADIUS, PictureHash, near_pairs

SEALED = "test"
"""The split whose labels are in no figure but those of `stage-b test`."""
SPLITS = ("propose", "gate", "calibration", SEALED)
MOST_TOLD = 10


@dataclass(frozen=True)
class Fractions:
    """Share of the tickets in each split; together 1. A split of 0 stays empty."""

    propose: Annotated[float, Range(ge=0)] = 0.3
    """Shown to whoever proposes edits."""
    gate: Annotated[float, Range(ge=0)] = 0.3
    """Edits are tested on these."""
    calibration: Annotated[float, Range(ge=0)] = 0.25
    """The threshold of automatic passes is chosen on these."""
    test: Annotated[float, Range(ge=0)] = 0.15
    """Sealed: looked at by `stage-b test` alone, which counts it."""

    def __post_init__(self) -> None:
        shares = astuple(self)
        if not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            what = f"the shares are {', '.join(f'{share:g}' for share in shares)}"
            raise ConfigError(Problem("splits", what, "each at least 0, together 1"))


@dataclass(frozen=True, slots=True)
class HashedTicket:
    """A ticket as splitting sees it. group: what its labels and repeats share, such as `mission/group_id`."""

    key: str
    group: str
    pictures: tuple[PictureHash, ...]


@dataclass(frozen=True)
class Splits:
    """Keys by split, in the order of the tickets. clusters: how many there are; largest: tickets in the largest."""

    keys: Mapping[str, tuple[str, ...]]
    clusters: int
    largest: int

    @property
    def sizes(self) -> dict[str, int]:
        """Tickets of each split."""
        return {name: len(keys) for name, keys in self.keys.items()}


def split_tickets(tickets: Sequence[HashedTicket], seed: int, fractions: Fractions, radius: int = RADIUS) -> Splits:
    """Each cluster to the split that a hash of the seed and its smallest key points to.

    Shares are met on average, and a ticket's split does not depend on the tickets that share nothing with it.
    """
    clusters = cluster_tickets(tickets, radius)
    split_of = {}
    for keys in clusters:
        split = _draw(f"{seed}/splits/{min(keys)}", fractions)
        split_of.update(dict.fromkeys(keys, split))
    found = {name: tuple(ticket.key for ticket in tickets if split_of[ticket.key] == name) for name in SPLITS}
    return Splits(found, len(clusters), max(map(len, clusters), default=0))


def _draw(name: str, fractions: Fractions) -> str:
    place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
    total = 0.0
    for split, share in zip(SPLITS, astuple(fractions), strict=True):
        total += share
        if place < total:
            return split
    return next(split for split, share in reversed(tuple(zip(SPLITS, astuple(fractions), strict=True))) if share)


def check_splits(keys: Mapping[str, Iterable[str]], tickets: Sequence[HashedTicket], radius: int = RADIUS) -> None:
    """DataError for splits, by name, that share a ticket, a group or a near-duplicate picture, or name no ticket."""
    splits_of: dict[str, list[str]] = defaultdict(list)
    for split, members in keys.items():
        for key in members:
            splits_of[key].append(split)
    known = {ticket.key for ticket in tickets}
    problems = [Problem("splits", f"{key} is no ticket") for key in splits_of if key not in known]
    problems += [
        Problem("splits", f"{key} is in {' and '.join(splits)}", "a ticket belongs to one split")
        for key, splits in splits_of.items()
        if len(splits) > 1
    ]
    for cluster in cluster_tickets(tickets, radius):
        first = {splits_of[key][0]: key for key in reversed(cluster) if splits_of.get(key)}
        if len(first) > 1:
            where = " and ".join(f"{key} in {split}" for split, key in sorted(first.items()))
            what = f"they share a group or a near-duplicate picture: {where}"
            problems.append(Problem("splits", what, "put them into one split"))
    if problems:
        raise DataError(problems[:MOST_TOLD])


def cluster_tickets(tickets: Sequence[HashedTicket], radius: int = RADIUS) -> list[list[str]]:
    """Keys of the tickets that are linked by a group, equal bytes or near patterns, also over others between them."""
    repeated = [key for key, count in Counter(ticket.key for ticket in tickets).items() if count > 1]
    if repeated:
        raise DataError([Problem("splits", f"{key} is there twice") for key in repeated[:MOST_TOLD]])
    parent = list(range(len(tickets)))
    owners: dict[object, int] = {}
    for number, ticket in enumerate(tickets):
        marks = (picture.digest if picture.pattern is None else picture.pattern for picture in ticket.pictures)
        for mark in (("group", ticket.group), *marks):
            _join(parent, number, owners.setdefault(mark, number))
    patterns = [mark for mark in owners if isinstance(mark, int)]
    for one, other in near_pairs(patterns, radius):
        _join(parent, owners[patterns[one]], owners[patterns[other]])
    clusters: dict[int, list[str]] = defaultdict(list)
    for number, ticket in enumerate(tickets):
        clusters[_root(parent, number)].append(ticket.key)
    return list(clusters.values())


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


def _join(parent: list[int], one: int, other: int) -> None:
    parent[_root(parent, one)] = _root(parent, other)
