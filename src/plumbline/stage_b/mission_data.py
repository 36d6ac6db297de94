"""The data of one mission: its tickets, its focus, and the kinds of items that count for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plumbline.data.keyed import keyed_generator
from plumbline.stage_b.config import SplitsConfig
from plumbline.stage_b.splits import tiny_classes
from plumbline.stage_b.tickets import LABELS, Tickets


@dataclass(frozen=True)
class MissionData:
    """tickets: all of them, in the order of the input. items: kinds of things that count for the mission, where its
    file names them."""

    mission: str
    focus: str
    tickets: Tickets
    items: tuple[str, ...] = ()

    def digest(self) -> str:
        """Hash of the tickets' keys and contents; labels are not part of it."""
        digest = hashlib.sha256()
        for head in self.tickets.heads():
            digest.update(f"{head.key}\n{head.content.hex()}\n".encode())
        return digest.hexdigest()[:16]

    def shuffled(self, seed: int, epoch: int) -> Tickets:
        """The tickets in the order of an epoch."""
        order = keyed_generator(seed, epoch, 0, "stage-b tickets").permutation(len(self.tickets))
        return self.tickets.at(order)

    def of_split(self, split: str, split_of: Mapping[str, str]) -> Tickets:
        """The tickets of one split, in the order of the input. split_of: ticket -> its split."""
        heads = enumerate(self.tickets.heads())
        return self.tickets.at(place for place, head in heads if split_of.get(head.key) == split)

    def uncited(self, evidence: Iterable[str]) -> list[str]:
        """Evidence of an edit that names no ticket: neither a group id nor a key, with or without `/image_n`."""
        names = {name for head in self.tickets.heads() for name in (head.group_id, head.key)}
        return [each for each in evidence if each not in names and each.rpartition("/image_")[0] not in names]

    def notes(self, splits: SplitsConfig) -> list[str]:
        """What to know before the run: labels that too few tickets carry."""
        count = Counter(head.label for head in self.tickets.heads())
        return tiny_classes({label: count[label] for label in LABELS}, splits.shares)
