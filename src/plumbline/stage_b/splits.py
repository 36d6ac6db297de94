"""Tickets to propose, gate, calibration and test: no ticket, group or near-duplicate picture is in two of them.

A split that shares a picture with another measures memory. Tickets that share one form a cluster, and a cluster goes to
one split whole. Every split gets its share of each label: a gate or a calibration without fails shows nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Annotated

from plumbline.config.limits import Range
from plumbline.data.clusters import HashedItem, clusters_of, share_out
from plumbline.data.picture_hash import RADIUS
from plumbline.errors import ConfigError, DataError, Problem

SEALED = "test"
"""The split whose labels are in no figure but those of `stage-b test`."""
SPLITS = ("propose", "gate", "calibration", SEALED)
MOST_TOLD = 10
LEAST = 5
"""Tickets of a label in a split, below which its figures say little."""


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


def split_tickets(tickets: Sequence[HashedItem], seed: int, fractions: Fractions, radius: int = RADIUS) -> Splits:
    """Clusters of one set of labels are shared out together: large ones first, then in the order of a hash of the seed
    and their smallest key, each to the split that lacks most of its share.

    So the shares hold for each label as nearly as whole clusters allow.
    """
    clusters = clusters_of(tickets, radius)
    split_of = share_out(clusters, {ticket.key: ticket.label for ticket in tickets}, seed, _shares(fractions))
    found = {name: tuple(ticket.key for ticket in tickets if split_of[ticket.key] == name) for name in SPLITS}
    return Splits(found, len(clusters), max(map(len, clusters), default=0))


def _shares(fractions: Fractions) -> dict[str, float]:
    return dict(zip(SPLITS, astuple(fractions), strict=True))


def tiny_classes(labels: Mapping[str, int], fractions: Fractions) -> list[str]:
    """What to know of labels that too few tickets carry. labels: tickets of each."""
    shares = {split: share for split, share in zip(SPLITS, astuple(fractions), strict=True) if share}
    notes, total = [], sum(labels.values())
    for label, count in labels.items():
        if not count:
            notes.append(f"no ticket is labelled {label}: nothing shows how the model rates those")
        elif count * min(shares.values()) < LEAST:
            each = ", ".join(f"about {round(count * share)} in {split}" for split, share in shares.items())
            notes.append(f"only {count} of {total} tickets are labelled {label}: {each}; their figures say little")
    return notes


def check_splits(keys: Mapping[str, Iterable[str]], tickets: Sequence[HashedItem], radius: int = RADIUS) -> None:
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
    for cluster in clusters_of(tickets, radius):
        first = {splits_of[key][0]: key for key in reversed(cluster) if splits_of.get(key)}
        if len(first) > 1:
            where = " and ".join(f"{key} in {split}" for split, key in sorted(first.items()))
            what = f"they share a group or a near-duplicate picture: {where}"
            problems.append(Problem("splits", what, "put them into one split"))
    if problems:
        raise DataError(problems[:MOST_TOLD])
