"""How new tickets are judged: by which run, under which certificate, with how many checks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import DamagedFileError, Problem
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import read_json_object

NEW_TICKETS = "new_tickets.json"


@dataclass(frozen=True)
class NewTickets:
    """New tickets under the guidance of an earlier run.

    Attributes:
        origin: Folder of that run, next to that of the new tickets.
        certificate: Digest of its certificate when they were judged; empty where none held.
        audit_share: Share of the automatic passes that a person checks, drawn at random.
        seed: Of the draw.
    """

    origin: Path
    certificate: str
    audit_share: float
    seed: int = 0

    def is_audited(self, key: str) -> bool:
        """Whether a ticket is checked by a person though it passes by itself; a draw that its content cannot sway."""
        digest = hashlib.blake2b(f"{self.seed}/audit/{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.audit_share * 2**64

    def write(self, folder: Path) -> None:
        content = {**vars(self), "origin": self.origin.name}  # both may be moved together
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / NEW_TICKETS, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_new_tickets(folder: Path) -> NewTickets | None:
    """None for the folder of a run; DamagedFileError for a file that is none of these."""
    path = folder / NEW_TICKETS
    if not path.is_file():
        return None
    content = read_json_object(path)
    try:
        origin = folder.resolve().parent / Path(content["origin"]).name
        found = NewTickets(origin, str(content["certificate"]), float(content["audit_share"]), int(content["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(
            Problem(str(path), f"does not say how the tickets are judged: {error}", "judge again")
        ) from error
    return found
