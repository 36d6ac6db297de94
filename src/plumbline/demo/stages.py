"""The demonstration's stages: each one is done once, remembered with what it measured, and reused by a later run.

A stage may be reused only when it was made by the same code from the same inputs, and everything before it too: its
fingerprint covers all of that. A stage that was cut short has no record, so it is done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import plumbline
from plumbline.errors import DamagedFileError
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import JsonObject, read_json_object

TITLES = {
    "model": "Write the small base model",
    "data": "Write photographs and rack scenes",
    "anchors": "Let the base answer other questions",
    "check": "Check every record and picture",
    "sft": "Fine-tune with LoRA",
    "anchored": "Fine-tune, held to the base",
    "merge": "Merge the adapter",
    "captions": "Describe the held-out pictures",
    "evaluate": "Measure the descriptions",
    "drift": "See what was forgotten",
    "stage_a": "Summarise tickets of photos",
    "stage_b": "Judge the tickets, and simulated ones",
}


@dataclass(frozen=True)
class Stage:
    """A finished stage. facts: what it measured, as JSON; seconds: of the run that did it, even when reused now."""

    name: str
    seconds: float
    reused: bool
    facts: Mapping[str, Any]


class Ledger:
    """The record of finished stages in `<output>/stages/`. Ask and record the stages in their order."""

    def __init__(self, output: Path):
        self.folder = output / "stages"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.done: list[Stage] = []
        self._chain = code_digest()
        self._is_fresh = False  # whether a stage of this run was done again: then everything after it is, too

    def recall(self, name: str, inputs: Mapping[str, Any], is_whole: Callable[[], bool]) -> Stage | None:
        """The finished stage, when its record fits and what it made is still there; otherwise forget it.

        inputs: what its result depends on besides the code and the stages before it, as JSON.
        """
        self._chain = _digest(self._chain, name, json.dumps(inputs, sort_keys=True, ensure_ascii=False))
        path = self._path(name)
        record = None if self._is_fresh else _matching_record(path, self._chain)
        if record is None or not is_whole():
            path.unlink(missing_ok=True)
            self._is_fresh = True
            return None
        self.done.append(Stage(name, record["seconds"], True, record["facts"]))
        return self.done[-1]

    def record(self, name: str, seconds: float, facts: Mapping[str, Any]) -> Stage:
        """Remember that the stage requested last is finished."""
        record = {"fingerprint": self._chain, "seconds": round(seconds, 2), "facts": dict(facts)}
        write_atomically(self._path(name), json.dumps(record, ensure_ascii=False, indent=1) + "\n")
        self.done.append(Stage(name, round(seconds, 2), False, facts))
        return self.done[-1]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _matching_record(path: Path, fingerprint: str) -> JsonObject | None:
    """The record when it is whole and of this fingerprint."""
    if not path.is_file():
        return None
    try:
        record = read_json_object(path)
    except DamagedFileError:
        return None
    return record if record.get("fingerprint") == fingerprint else None


@cache
def code_digest() -> str:
    """Digest of the package's own files: another version of the code never passes off an older one's results."""
    root = Path(plumbline.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return _digest(*(f"{path.relative_to(root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()
