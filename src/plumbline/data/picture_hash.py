"""Pictures that are nearly the same: a hash of 64 bits each, and all close pairs without comparing all pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from plumbline.data.images import load_image

RADIUS = 4
"""Bits of 64 in which copies of one picture may differ; re-encoded, resized and darkened ones stay within it."""
FLAT = 8
"""Grey levels between the darkest and the brightest cell below which a picture has no pattern to compare."""
_BITS = 64


@dataclass(frozen=True)
class PictureHash:
    """digest: of the file's bytes; pattern: the difference hash, None for a picture without a pattern."""

    digest: str
    pattern: int | None


def hash_picture(path: str | Path) -> PictureHash:
    """The hashes of a file.

    Raises DataError for one that is no picture. pattern: 9 x 8 grey cells, each bit is whether a cell is brighter
    than its left neighbour (dHash, Krawetz 2013), so that brightness and contrast play no part.
    """
    digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
    grey = np.asarray(load_image(path).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    if np.ptp(grey) < FLAT:
        return PictureHash(digest, None)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return PictureHash(digest, int.from_bytes(bits.tobytes(), "big"))


def near_pairs(patterns: Sequence[int], radius: int = RADIUS) -> Iterator[tuple[int, int]]:
    """Places (i, j) of different patterns that differ in at most `radius` bits; some pairs may come twice.

    The 64 bits are cut into radius + 1 bands: two such patterns agree in at least one band whole, so that only patterns
    that share a band are compared (Manku et al. 2007).
    """
    values = np.asarray(patterns, dtype=np.uint64)
    edges = np.linspace(0, _BITS, radius + 2).astype(int)
    for low, high in pairwise(edges):
        band = (values >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] + np.uint64(1)))
        for members in np.split(order, starts[1:]):
            yield from _close(members, values[members], radius)


def _close(members: np.ndarray, values: np.ndarray, radius: int) -> Iterator[tuple[int, int]]:
    for place in range(len(members) - 1):
        distance = np.bitwise_count(values[place + 1 :] ^ values[place])
        for other in np.flatnonzero(distance <= radius):
            yield int(members[place]), int(members[place + 1 + other])
