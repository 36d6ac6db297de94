"""The splits of a run on disk: drawn once and kept; one that somebody wrote or changed is checked before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plumbline.data.clusters import HashedItem
from plumbline.data.picture_hash import PictureHash, hash_picture
from plumbline.errors import ConfigError, DamagedFileError, DataError, Problem
from plumbline.stage_b.config import SplitsConfig
from plumbline.stage_b.splits import SPLITS, check_splits, split_tickets
from plumbline.stage_b.tickets import Ticket, TicketHead, Tickets
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import JsonObject, read_json_object

LARGEST_FILE = 1 << 28


@dataclass(frozen=True)
class SplitStore:
    """`splits.json` of a mission's tickets."""

    path: Path
    tickets: Tickets
    seed: int
    config: SplitsConfig

    def read(self) -> dict[str, str]:
        """Ticket -> its split, drawn where there are none yet.

        Raises DataError for splits of another hand that share a ticket, a group or a near-duplicate picture.
        """
        if not self.path.exists():
            self._draw()
        content = self._content()
        if content.get("digest") != _digest(content["keys"]):
            check_splits(content["keys"], self._hashed())
            self._write(content)
        return {key: split for split, keys in content["keys"].items() for key in keys}

    def notes(self) -> list[str]:
        """What a user should know of the splits that are there."""
        found, pictures = [], self._content().get("pictures", {})
        if self.is_drawn_otherwise():
            found.append("the seed or splits.shares have changed; the splits stay as they were drawn")
        if self.config.image_root is None:
            found.append("near-duplicate photos in two splits are not looked for: splits.image_root is not set")
        elif pictures.get("unopened"):
            found.append(f"{pictures['unopened']} photos cannot be opened, and were not compared with others")
        return found

    def is_drawn_otherwise(self) -> bool:
        """Whether splits are there that another seed or other shares made."""
        return self.path.exists() and self._content().get("drawn_with", self._drawn_with()) != self._drawn_with()

    def _drawn_with(self) -> JsonObject:
        return {"seed": self.seed, "shares": asdict(self.config.shares)}

    def _draw(self) -> None:
        hashed = self._hashed()
        found = split_tickets(hashed, self.seed, self.config.shares)
        compared = sum(len(ticket.pictures) for ticket in hashed)
        unopened = sum(len(ticket.images) for ticket in self.tickets) - compared if self.config.image_root else 0
        if unopened and not compared:
            what = f"none of the tickets' {unopened} photos can be opened in it"
            raise ConfigError(Problem("splits.image_root", what, "name the folder that stage-a read"))
        sizes = {"sizes": found.sizes, "clusters": found.clusters, "largest": found.largest}
        pictures = {"compared": compared, "unopened": unopened}
        self._write({"drawn_with": self._drawn_with(), **sizes, "pictures": pictures, "keys": dict(found.keys)})

    def _hashed(self) -> list[HashedItem]:
        root = self.config.image_root
        if root is None:
            return [HashedItem(head.key, _group(head), (), head.label) for head in self.tickets.heads()]
        if not Path(root).is_dir():
            raise ConfigError(Problem("splits.image_root", f"{root} is no folder", "name the folder that stage-a read"))
        return [
            HashedItem(ticket.key, _group(ticket), tuple(_hashes(Path(root), ticket.images)), ticket.label)
            for ticket in self.tickets
        ]

    def _content(self) -> JsonObject:
        content = read_json_object(self.path, LARGEST_FILE)
        keys = content.get("keys")
        if not isinstance(keys, dict) or not all(_is_split(name, members) for name, members in keys.items()):
            fix = "remove it to draw them again"
            raise DamagedFileError(Problem(str(self.path), f"holds no lists of tickets under {', '.join(SPLITS)}", fix))
        return content

    def _write(self, content: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        signed = {**content, "digest": _digest(content["keys"])}
        write_atomically(self.path, json.dumps(signed, ensure_ascii=False, indent=1) + "\n")


def _is_split(name: str, members: Any) -> bool:
    return name in SPLITS and isinstance(members, list) and all(isinstance(key, str) for key in members)


def _digest(keys: Mapping[str, Sequence[str]]) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16]


def _group(ticket: Ticket | TicketHead) -> str:
    """What both labels of one group id share."""
    return f"{ticket.mission}/{ticket.group_id}"


def _hashes(root: Path, images: Sequence[str]) -> Iterator[PictureHash]:
    """Hashes of the pictures that can be opened: Stage-A has reported the others."""
    for image in images:
        try:
            yield hash_picture(root / image)
        except (DataError, OSError):
            continue
