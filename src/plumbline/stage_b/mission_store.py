"""The files of one mission's run: guidance, state, trajectories, selections and the edits that were tried."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import DamagedFileError, Problem
from plumbline.stage_b.guidance import GuidanceStore
from plumbline.stage_b.tickets import Tickets
from plumbline.storage.files import write_atomically, write_lines
from plumbline.storage.objects import JsonObject, read_json_object
from plumbline.storage.rows import read_rows

TRAJECTORIES = "trajectories.jsonl"
SELECTIONS = "selections.jsonl"
RESOLVED = "resolved.yaml"
STATE = "state.json"
SPLITS = "splits.json"
EDITS = "edits.jsonl"
CERTIFICATE = "certificate.json"
LOOKS = CALIBRATIONS, TEST_USES = "calibrations", "test_uses"
"""Counts in the state: looks at labels that each make the next one worth a little less."""


@dataclass(frozen=True)
class MissionStore:
    """The run folder. retention: snapshots of the guidance that are kept."""

    folder: Path
    retention: int

    @property
    def trajectories(self) -> Path:
        return self.folder / TRAJECTORIES

    @property
    def guidance(self) -> GuidanceStore:
        """The guidance; steps that an epoch used are kept, since its rollouts are scored with them."""
        in_use = frozenset(self.read_state()["epochs"].values())
        return GuidanceStore(self.folder, self.retention, in_use)

    def read_state(self) -> JsonObject:
        """Epoch -> guidance step; reflected epochs; how verdicts were selected; counts of looks at labels.

        Raises:
            DamagedFileError: The file is not the state of a run.
        """
        path = self.folder / STATE
        if not path.exists():
            return {"epochs": {}, "reflected": [], **dict.fromkeys(LOOKS, 0)}
        state = read_json_object(path)
        if not isinstance(state.get("epochs"), dict) or not isinstance(state.get("reflected"), list):
            raise DamagedFileError(Problem(str(path), "is no state of a run", "start over with --no-resume"))
        return state

    def write_state(self, state: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / STATE, json.dumps(state, ensure_ascii=False, indent=1) + "\n")

    def count_look(self, name: str) -> int:
        """Add one to a count of LOOKS; returns it."""
        state = self.read_state()
        looked = int(state.get(name, 0)) + 1
        self.write_state(state | {name: looked})
        return looked

    def selections(self) -> Iterator[tuple[str, JsonObject]]:
        """(ticket, selection), epoch after epoch: the last one of a ticket is its newest."""
        path = self.folder / SELECTIONS
        return ((row["key"].rpartition("/e")[0], row) for row in (read_rows(path) if path.exists() else ()))

    def latest_selections(self, tickets: Tickets) -> dict[str, JsonObject]:
        """Ticket -> its selection of the last epoch that has one."""
        wanted = {head.key for head in tickets.heads()}
        return {key: row for key, row in self.selections() if key in wanted}

    def edits(self) -> list[JsonObject]:
        """Every edit that was tried, with its outcome."""
        path = self.folder / EDITS
        return list(read_rows(path)) if path.exists() else []

    def keep_edit(self, row: Mapping[str, Any]) -> None:
        """Add a row to the edits that were tried."""
        rows: Iterable[Mapping[str, Any]] = [*self.edits(), row]
        write_lines(self.folder / EDITS, (json.dumps(entry, ensure_ascii=False) for entry in rows))
