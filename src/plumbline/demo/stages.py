"""The demonstration's stages: each one is done once, remembered with what it measured, and reused by a later run.

A stage may be reused only when it was made by the same code from the same inputs, and everything before it too: its
fingerprint covers all of that. A stage that was cut short has no record, so it is done again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import plumbline
from plumbline.errors import DamagedFileError
from plumbline.model.checkpoints import read_json_object, write_atomically


@dataclass(frozen=True)
class Stage:
    """A finished stage. facts: what it measured, as JSON; seconds: of the run that did it, even when reused now."""

    name: str
    seconds: float
    reused: bool
    facts: Mapping[str, Any]


class Ledger:
    """The record of finished stages in `<output>/stages/`; run the stages in their order."""

    def __init__(self, output: Path):
        self.folder = output / "stages"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.done: list[Stage] = []
        self._chain = code_digest()

    def run(self, name: str, inputs: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> Stage:
        """Reuse the stage when its record fits, otherwise do the work; its facts must survive JSON."""
        self._chain = _digest(self._chain, name, json.dumps(inputs, sort_keys=True, ensure_ascii=False))
        path = self.folder / f"{name}.json"
        stage = self._recorded(name, path)
        if stage is None:
            path.unlink(missing_ok=True)
            begun = time.perf_counter()
            facts = work()
            stage = Stage(name, round(time.perf_counter() - begun, 2), False, facts)
            record = {"fingerprint": self._chain, "seconds": stage.seconds, "facts": dict(facts)}
            write_atomically(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
        self.done.append(stage)
        return stage

    def would_reuse(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether `run` with the same arguments would do no work."""
        chain = _digest(self._chain, name, json.dumps(inputs, sort_keys=True, ensure_ascii=False))
        return _matches(self.folder / f"{name}.json", chain) is not None

    def _recorded(self, name: str, path: Path) -> Stage | None:
        record = _matches(path, self._chain)
        return None if record is None else Stage(name, record["seconds"], True, record["facts"])


def _matches(path: Path, fingerprint: str) -> dict[str, Any] | None:
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
