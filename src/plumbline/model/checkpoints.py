"""Checkpoints on disk: the card that inference reads, the marker of completeness, and finding the right folder.

A checkpoint folder is trusted only as data: weights are safetensors (never unpickled), code named by a configuration
(`auto_map`) is never run, and every JSON file is read with a cap on its size and a check of its keys.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Literal, get_args, get_type_hints

from plumbline.data.answer import EMIT_NORMS
from plumbline.data.answer_form import PLAIN_FORM, AnswerForm
from plumbline.data.prompts import MODES, Prompts
from plumbline.errors import DamagedFileError, OutputError, Problem, UserError, writing
from plumbline.model.hub import missing_model
from plumbline.storage.files import flush, write_atomically
from plumbline.storage.objects import read_json_object

CARD_FILE = "plumbline.json"
MARKER_FILE = "COMPLETE"
SCHEMA = 1

CARD_MODES = (*MODES, "mixed")


# ---------------------------------------------------------------------------------------------------------------- card
ANSWER_CHOICES = {name: get_args(kind) for name, kind in get_type_hints(AnswerForm).items()}
"""What each field of an AnswerForm may be."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint must be used with (`plumbline.json`): training writes it, merging copies it, inference reads.

    emit_norm: one of EMIT_NORMS. mode: one of CARD_MODES, `mixed` when both kinds of answer were trained.
    max_length: tokens, or None when unlimited. max_pixels: the largest area of an image after resizing, in pixels,
    where training set one; None means the limit of the checkpoint's own image processor. answer: spelling of answers.
    """

    emit_norm: str
    prompts: Prompts
    mode: str
    object_ordering: str
    template: str
    max_length: int | None
    max_pixels: int | None = None
    answer: AnswerForm = PLAIN_FORM

    def __post_init__(self) -> None:
        if wrong := "; ".join(self._wrong()):
            raise ValueError(wrong)

    def _wrong(self) -> list[str]:
        """Every field that breaks the contract, in words."""
        wrong = []
        for name, allowed in (("emit_norm", EMIT_NORMS), ("mode", CARD_MODES)):
            if getattr(self, name) not in allowed:
                wrong.append(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if not isinstance(self.prompts, Prompts):
            wrong.append("prompts must be Prompts")
        elif not all(isinstance(text, str) for text in self.prompts.as_dict().values()):
            wrong.append("every prompt must be a string")
        for name, allowed in ANSWER_CHOICES.items():
            if getattr(self.answer, name) not in allowed:
                wrong.append(f"answer.{name} must be one of {', '.join(allowed)}, not {getattr(self.answer, name)!r}")
        for name in ("object_ordering", "template"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                wrong.append(f"{name} must be a name, not {getattr(self, name)!r}")
        for name in ("max_length", "max_pixels"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                wrong.append(f"{name} must be a positive integer or null, not {value!r}")
        return wrong

    def write(self, folder: str | Path) -> Path:
        """Write `plumbline.json` into `folder` (temporary name, fsync, rename) and return its path."""
        path = Path(folder) / CARD_FILE
        content = {"schema": SCHEMA, **asdict(self)}
        write_atomically(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
        return path

    @classmethod
    def read(cls, folder: str | Path) -> Card:
        """Read `plumbline.json` of `folder`.

        Raises UserError when there is none, DamagedFileError when it is not one of ours: bad JSON, unknown or missing
        keys, a wrong type, a newer schema.
        """
        path = Path(folder) / CARD_FILE
        if not path.is_file():
            raise UserError(Problem(str(path), "there is no card", "this folder was not written by plumbline"))
        content = read_json_object(path)
        if content.pop("schema", None) != SCHEMA:
            raise DamagedFileError(Problem(str(path), f"the schema is not {SCHEMA}", "use a matching version"))
        known = {field.name for field in fields(cls)}
        if unknown := sorted(content.keys() - known):
            raise DamagedFileError(Problem(str(path), f"unknown keys: {', '.join(map(repr, unknown))}"))
        try:
            parts = {
                "prompts": Prompts(**content.get("prompts", {})),
                "answer": AnswerForm(**content.get("answer", {})),
            }
            return cls(**content | parts)
        except (TypeError, ValueError) as error:
            raise DamagedFileError(Problem(str(path), str(error))) from error


# -------------------------------------------------------------------------------------------------------------- marker
def mark_complete(folder: str | Path) -> Path:
    """Write the COMPLETE marker: the size of every file below `folder`, all flushed to disk first. Call it last."""
    folder = Path(folder)
    sizes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MARKER_FILE):
        flush(path)
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    marker = folder / MARKER_FILE
    write_atomically(marker, json.dumps({"schema": SCHEMA, "files": sizes}, ensure_ascii=False, indent=1) + "\n")
    return marker


def why_incomplete(folder: str | Path) -> str:
    """Why a checkpoint folder is not whole, in words; empty when it is.

    A file that is missing or whose size differs from the marker's, and a marker that cannot be read, all count.
    """
    folder = Path(folder)
    marker = folder / MARKER_FILE
    if not marker.is_file():
        return f"it has no {MARKER_FILE} marker: the save was interrupted"
    try:
        sizes = read_json_object(marker)["files"]
        for name, size in sizes.items():
            if type(size) is not int or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                return f"its {MARKER_FILE} marker is damaged"
            path = folder / name
            actual = path.stat().st_size if path.is_file() else None
            if actual != size:
                return f"{name} is {'missing' if actual is None else f'{actual} bytes long'}, {size} bytes were written"
    except (DamagedFileError, KeyError, AttributeError, OSError, ValueError):
        return f"its {MARKER_FILE} marker is damaged"
    return ""


def is_complete(folder: str | Path) -> bool:
    """Whether the folder carries a COMPLETE marker and every file that the marker names, at its full size."""
    return not why_incomplete(folder)


@dataclass(frozen=True)
class LatestCheckpoint:
    """The newest whole checkpoint of a run, and the newer ones that were passed over, each with the reason."""

    folder: Path | None
    skipped: tuple[tuple[Path, str], ...] = ()


def latest_complete(run_folder: str | Path) -> LatestCheckpoint:
    """The `checkpoint-N` with the highest N that is complete; `folder` is None when there is none."""
    skipped: list[tuple[Path, str]] = []
    for folder in reversed(checkpoint_folders(run_folder)):
        reason = why_incomplete(folder)
        if not reason:
            return LatestCheckpoint(folder, tuple(skipped))
        skipped.append((folder, reason))
    return LatestCheckpoint(None, tuple(skipped))


def checkpoint_folders(run_folder: str | Path) -> list[Path]:
    """The `checkpoint-N` folders of a run, by N."""
    pattern = re.compile(r"checkpoint-(\d+)")
    found = [(match, path) for path in Path(run_folder).glob("checkpoint-*") if (match := pattern.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda pair: int(pair[0][1])) if path.is_dir()]


# ------------------------------------------------------------------------------------------------------------- finding
@dataclass(frozen=True)
class Located:
    """A folder that holds weights. kind: `adapter` or `model`. notes: what the user should know."""

    folder: Path
    kind: Literal["adapter", "model"]
    notes: tuple[str, ...] = ()


def locate(path: str | Path) -> Located:
    """Find the weights behind a path: a run folder (its newest whole checkpoint), a checkpoint, an adapter or a model.

    Raises UserError when there is nothing to load or when the weights are pickled, DamagedFileError when the folder
    carries a card or a marker of ours and is not whole.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists():
            raise UserError(Problem(str(path), "is a file", "name a run, a checkpoint, an adapter or a model folder"))
        raise UserError(Problem(str(path), *missing_model(str(path))))
    if (folder / "adapter_config.json").is_file():
        kind: Literal["adapter", "model"] = "adapter"
    elif (folder / "config.json").is_file():
        kind = "model"
    elif checkpoint_folders(folder):
        return newest_of_run(folder)
    else:
        raise UserError(Problem(str(path), "neither adapter_config.json nor config.json nor checkpoint-N is in it"))
    check_whole(folder)
    check_safetensors(folder, kind)
    return Located(folder, kind)


def newest_of_run(run_folder: Path) -> Located:
    """The newest whole checkpoint of a run folder, with a note about it and about each one passed over."""
    latest = latest_complete(run_folder)
    passed_over = tuple(f"{folder.name} was passed over: {reason}" for folder, reason in latest.skipped)
    if latest.folder is None:
        raise DamagedFileError(Problem(str(run_folder), "no checkpoint is complete", "; ".join(passed_over)))
    located = locate(latest.folder)
    return Located(located.folder, located.kind, (*passed_over, f"{latest.folder.name} is the newest whole checkpoint"))


def check_whole(folder: Path) -> None:
    """Raise DamagedFileError for a folder of ours that is cut short; folders of other programs carry no marker."""
    ours = (folder / CARD_FILE).exists() or (folder / MARKER_FILE).exists()
    if ours and (reason := why_incomplete(folder)):
        raise DamagedFileError(Problem(str(folder), reason, "use the checkpoint before it, or save it again"))


def check_safetensors(folder: Path, kind: Literal["adapter", "model"]) -> None:
    """Raise UserError unless the weights are there as safetensors, under a name by which libraries prefer them."""
    name = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
    if (folder / name).is_file() or (folder / f"{name}.index.json").is_file():
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".pkl"})
    if pickled:
        what = f"its weights are pickled ({pickled[0]}): loading them could run code"
        raise UserError(Problem(str(folder), what, "save them again as safetensors"))
    raise UserError(Problem(str(folder), f"no {name} is in it", "the save was interrupted, or this is another folder"))


# --------------------------------------------------------------------------------------------------------------- files
@contextmanager
def drafted(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A hidden folder next to `folder` to write into; it gets the COMPLETE marker and takes the name when all went
    well.

    On any error nothing is left behind and what was there before is untouched. Raises UserError when `folder` holds
    something and `overwrite` is false.
    """
    folder = Path(folder)
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not overwrite:
        raise UserError(Problem(str(folder), "the folder is not empty", "name a new folder, or remove this one"))
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with saving(folder):
            yield draft
        with writing(folder):
            for path in (draft, *draft.rglob("*")):  # mkdtemp and safetensors write for the owner alone
                path.chmod(0o755 if path.is_dir() else 0o644)
            mark_complete(draft)
            take_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


_WRITE_FAILED = re.compile(r"PytorchStreamWriter failed|file write failed|os error (27|28|30|122)\b")
"""How torch and safetensors name a disk that takes no more: in the text of an error of their own."""


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Inside the block libraries write below `folder`: what the disk refuses becomes an OutputError."""
    with writing(folder):
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if not _WRITE_FAILED.search(str(error)):
                raise
            what = f"cannot be written: {str(error).splitlines()[0]}"
            raise OutputError(Problem(str(folder), what, "make room, or name a place on another disk")) from error


def take_place(draft: Path, folder: Path) -> None:
    """Rename `draft` to `folder`, removing what was there only after the rename."""
    old = draft.with_name(f"{draft.name}.old")
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def weights_stamp(folder: Path) -> str:
    """A fingerprint of a folder's weights without reading them: names, sizes, times."""
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8)
    for path in sorted(folder.glob("*.safetensors")):
        facts = path.stat()
        digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()
