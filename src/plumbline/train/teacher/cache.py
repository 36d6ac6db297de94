"""The teacher's hidden rows of supervised tokens, kept in a folder, so that a later epoch needs no teacher pass.

From them the divergence over the whole vocabulary is exact, and they are small: `hidden * bytes` per supervised token
instead of `vocabulary * bytes`. A row depends on what the teacher is and on what it reads. The first makes a folder of
its own below the configured one; the second is the key of an entry: token ids, which of them are supervised, pixels and
grids as they enter the model. Another prompt, template, picture, augmentation or teacher has other keys, so that what
is stale is never found.

`FOLDER/<teacher>/rows-*.safetensors`: [n, H] per key. Files appear whole under their final name and never change, so
that several runs and ranks may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plumbline.errors import DataError, Problem, writing
from plumbline.model.checkpoints import saving
from plumbline.train.identity import CacheEntry

logger = logging.getLogger(__name__)

_FLUSH_BYTES = 64 * 2**20
_DESCRIPTION = "teacher.json"


def teacher_fingerprint(
    folder: Path, adapters: Sequence[str], computed: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """(digest of a teacher, what it was made of).

    folder: its base; adapters: folders loaded on it; computed: how its numbers come about (precision, quantisation).
    Reads every weight once: about a second per gigabyte.
    """
    facts: dict[str, Any] = {"computed": dict(computed), "files": {}}
    for place in (folder, *map(Path, adapters)):
        for path in sorted([*place.glob("*.safetensors"), *place.glob("*config.json")]):
            with path.open("rb") as file:
                facts["files"][f"{place.name}/{path.name}"] = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    content = json.dumps({**facts, "files": sorted(facts["files"].values())}, sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest(), facts


class TeacherCache:
    """Rows by key; `rows` looks up, `add` keeps, `flush` writes what is not in a file yet.

    Raises DataError for a file that is damaged or holds rows of another shape.
    """

    def __init__(self, folder: Path, fingerprint: str, facts: Mapping[str, Any]):
        self.folder = folder / fingerprint
        self.hits = self.misses = 0
        self._files: dict[Path, Any] = {}
        self._where: dict[str, Path] = {}
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        description = self.folder / _DESCRIPTION
        if not description.exists():
            _write_whole(description, lambda path: path.write_text(json.dumps(facts, indent=1), encoding="utf-8"))
        others = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name != fingerprint]
        if others:
            size = sum(file.stat().st_size for entry in others for file in entry.glob("*.safetensors"))
            logger.info(
                "%s: rows of %d other teacher(s), %.0f MB, are stale and left alone", folder, len(others), size / 1e6
            )
        self._look()

    def __len__(self) -> int:
        return len(self._where) + len(self._waiting)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self._files)

    def __contains__(self, key: str) -> bool:
        return key in self._waiting or key in self._where

    def missing(self, entries: Sequence[CacheEntry]) -> list[CacheEntry]:
        """What is not there; files that others have written meanwhile are looked at first."""
        if any(key not in self for key, _ in entries):
            self._look()
        return [entry for entry in entries if entry[0] not in self]

    def rows(self, entries: Sequence[CacheEntry], width: int) -> Tensor | None:
        """Rows [N, width] of a batch's supervised tokens, in its order; None when any sample is missing."""
        if not entries or self.missing(entries):
            self.misses += len(entries)
            return None
        self.hits += len(entries)
        return torch.cat([self._read(key, count, width) for key, count in entries])

    def add(self, entries: Sequence[CacheEntry], rows: Tensor) -> None:
        """Keep the rows [N, H] of a batch; those that are there already stay as they are."""
        start = 0
        for key, count in entries:
            if key not in self:
                self._waiting[key] = rows[start : start + count].detach().to("cpu", copy=True)
                self._waiting_bytes += self._waiting[key].nbytes
            start += count
        if start != rows.shape[0]:
            raise ValueError(f"{rows.shape[0]} rows for {start} supervised tokens")
        if self._waiting_bytes >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is not in a file yet."""
        if not self._waiting:
            return
        path = self.folder / f"rows-{uuid.uuid4().hex}.safetensors"
        waiting = self._waiting
        _write_whole(path, lambda temporary: save_file(waiting, temporary))
        self._waiting, self._waiting_bytes = {}, 0
        self._look()

    def _look(self) -> None:
        """Learn of files that are new."""
        for path in self.folder.glob("rows-*.safetensors"):
            if path not in self._files:
                try:
                    self._files[path] = safe_open(path, framework="pt")
                    self._where.update((key, path) for key in self._files[path].keys())  # noqa: SIM118
                except (SafetensorError, OSError) as error:
                    raise _damaged(path, str(error)) from error

    def _read(self, key: str, count: int, width: int) -> Tensor:
        if key in self._waiting:
            return self._waiting[key]
        path = self._where[key]
        try:
            rows = self._files[path].get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from error
        if rows.shape != (count, width):
            raise _damaged(path, f"{key} has the shape {tuple(rows.shape)} instead of ({count}, {width})")
        return rows


def _damaged(path: Path, what: str) -> DataError:
    return DataError(Problem(str(path), f"cannot be used: {what}", "delete the file: its rows are computed again"))


def _write_whole(path: Path, write: Any) -> None:
    """Write under another name and rename, so that nobody sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with saving(path):
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
