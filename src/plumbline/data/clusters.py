"""Items that share a group or a near-duplicate picture, kept together when they are shared out among splits.

A split that shares a picture with another measures memory. So linked items form a cluster, a cluster goes to one split
whole, and clusters of one set of labels are shared out together.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plumbline.data.picture_hash import RADIUS, PictureHash, near_pairs
from plumbline.errors import DataError, Problem

MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class HashedItem:
    """A ticket or a record as splitting sees it.

    Attributes:
        key: Its name.
        group: What labels and repeats share, such as `mission/group_id`.
        pictures: Hashes of its pictures.
        label: Of which every split should get its share.
    """

    key: str
    group: str
    pictures: tuple[PictureHash, ...]
    label: str = ""


def share_out(
    clusters: Sequence[list[str]], labels: Mapping[str, str], seed: int, shares: Mapping[str, float]
) -> dict[str, str]:
    """Item -> split. Clusters of one set of labels are shared out together.

    Large ones first, then in the order of a hash of the seed and their smallest key, each to the split that lacks most
    of its share. So the shares hold for each label as nearly as whole clusters allow.
    """
    strata: dict[frozenset[str], list[list[str]]] = defaultdict(list)
    for keys in clusters:
        strata[frozenset(labels[key] for key in keys)].append(keys)
    lacking = {split: 0.0 for split, share in shares.items() if share}
    found: dict[str, str] = {}
    for mine in sorted(strata.values(), key=lambda mine: sum(map(len, mine))):
        # What rounding leaves of one set of labels is made up for by the next.
        total = sum(map(len, mine))
        lacking = {split: rest + shares[split] * total for split, rest in lacking.items()}
        found.update(_share_out(mine, seed, lacking))
    return found


def _share_out(clusters: Sequence[list[str]], seed: int, lacking: dict[str, float]) -> Iterator[tuple[str, str]]:
    """(item, split); what is given is taken off `lacking`."""
    for keys in sorted(clusters, key=lambda keys: (-len(keys), _drawn(f"{seed}/splits/{min(keys)}"))):
        split = max(lacking, key=lambda name: lacking[name])
        lacking[split] -= len(keys)
        yield from ((key, split) for key in keys)


def _drawn(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def clusters_of(items: Sequence[HashedItem], radius: int = RADIUS) -> list[list[str]]:
    """Keys of the items that are linked by a group, equal bytes or near patterns, also over others between them."""
    repeated = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if repeated:
        raise DataError([Problem("splits", f"{key} is there twice") for key in repeated[:MOST_NAMED]])
    parent = list(range(len(items)))
    owners: dict[object, int] = {}
    for number, item in enumerate(items):
        marks = (picture.digest if picture.pattern is None else picture.pattern for picture in item.pictures)
        for mark in (("group", item.group), *marks):
            _join(parent, number, owners.setdefault(mark, number))
    patterns = [mark for mark in owners if isinstance(mark, int)]
    for one, other in near_pairs(patterns, radius):
        _join(parent, owners[patterns[one]], owners[patterns[other]])
    clusters: dict[int, list[str]] = defaultdict(list)
    for number, item in enumerate(items):
        clusters[_root(parent, number)].append(item.key)
    return list(clusters.values())


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


def _join(parent: list[int], one: int, other: int) -> None:
    parent[_root(parent, one)] = _root(parent, other)
