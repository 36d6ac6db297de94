"""A sample as the teacher's side knows it: its key in a cache of rows, its chat for a server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CacheEntry = tuple[str, int]
"""Key of a sample and how many supervised tokens it has."""


def sample_key(row: Mapping[str, Any], ignored: int) -> CacheEntry:
    """Key of an encoded row (`input_ids`, `labels`, `pixel_values`, `image_grid_thw`), by what it holds."""
    digest = hashlib.blake2b(digest_size=16)
    labels = torch.as_tensor(row["labels"])
    supervised = labels != ignored
    for part in (torch.as_tensor(row["input_ids"]), supervised, row.get("image_grid_thw"), row.get("pixel_values")):
        if part is not None:
            tensor = torch.as_tensor(part).contiguous()
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest(), int(supervised[1:].sum())


@dataclass(frozen=True)
class Chat:
    """A sample as a server receives it.

    messages: its turns, answer included, pictures as data URLs; places, ids: of its supervised tokens.
    """

    messages: Sequence[Mapping[str, Any]]
    places: tuple[int, ...]
    ids: tuple[int, ...]


def supervised(labels: Tensor, ignored: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(places, ids) of the supervised tokens of a row's labels [L]; the first token has nothing before it."""
    places = [place for place in (labels != ignored).nonzero()[:, 0].tolist() if place]
    return tuple(places), tuple(labels[places].tolist())
