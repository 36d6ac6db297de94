"""The run folder: what is written before work begins, and whether a run that was interrupted may be continued."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from plumbline.data.dataset import manifest
from plumbline.data.images import ImagePolicy
from plumbline.errors import ConfigError, Problem, writing
from plumbline.model.checkpoints import latest_complete
from plumbline.storage.files import write_atomically
from plumbline.train.config import load_run

PACKAGES = ("plumbline", "torch", "transformers", "ms-swift", "peft", "trl", "accelerate", "deepspeed", "numpy")
RESOLVED, VERSIONS, MANIFEST, LOG = "resolved.yaml", "versions.json", "data_manifest.json", "logging.jsonl"
EPOCHS = "epochs.jsonl"


@dataclass(frozen=True)
class Continuation:
    """checkpoint: where to go on, None for a fresh start; finished: nothing is left to do; notes: what to print."""

    checkpoint: Path | None = None
    finished: bool = False
    notes: tuple[str, ...] = ()


def versions() -> dict[str, str]:
    """Version of every package that shapes a run."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def data_manifest(files: Mapping[str, int | None], policy: ImagePolicy, *, strict: bool) -> dict[str, Any]:
    """Digest of every JSONL and size and digest of every image of its records in use.

    files: JSONL -> number of records in use (None: all); strict: an image that cannot be read is an error.
    """
    return {"files": [manifest(file, policy, limit, strict) for file, limit in files.items()]}


def find_continuation(
    folder: Path, resolved: Mapping[str, Any], data: dict[str, Any] | None, *, resume: bool, extend: bool = False
) -> Continuation:
    """Decide how a run starts in `folder`.

    resolved: this run's resolved configuration; data: its manifest, None where another rank compares; resume: False
    refuses a folder with checkpoints; extend: more steps or epochs than before are no difference.
    Raises ConfigError when the folder holds another configuration's or other data's run.
    """
    latest = latest_complete(folder)
    notes = [f"{path.name} is ignored: {reason}" for path, reason in latest.skipped]
    if latest.folder is None:
        return Continuation(notes=tuple(notes))
    if not resume:
        what = f"holds a run already, its last checkpoint is {latest.folder.name}"
        raise ConfigError(Problem(str(folder), what, "name another training.output_dir, or remove the folder"))
    if data is not None:
        notes += _refuse_differences(folder, resolved, data, extend=extend)
    require_trainer_state(latest.folder)
    state = json.loads((latest.folder / "trainer_state.json").read_text(encoding="utf-8"))
    if _is_finished(state, resolved.get("training", {})):
        return Continuation(latest.folder, finished=True, notes=(*notes, f"{folder} is finished: nothing to do"))
    return Continuation(latest.folder, notes=(*notes, f"continuing from {latest.folder}"))


def _is_finished(state: Mapping[str, Any], training: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is the last of a run of this length, which may be longer than the one that wrote it."""
    steps, epochs = training.get("max_steps") or -1, training.get("num_train_epochs")
    if steps > 0:
        return bool(state["global_step"] >= steps)
    is_longer = epochs is not None and math.ceil(epochs) > state.get("num_train_epochs", math.inf)
    return state["global_step"] >= state["max_steps"] and not is_longer


def require_trainer_state(checkpoint: Path) -> None:
    """Raise ConfigError for a checkpoint that holds weights alone: its optimiser and schedule would start again."""
    state = ("optimizer.pt", "global_step*", "optimizer_0", "pytorch_model_fsdp_0")
    if not any(any(checkpoint.glob(pattern)) for pattern in state):
        what = "holds weights alone (save_only_model): the optimiser and the schedule cannot go on"
        fix = "take its weights with tuner.resume_from_checkpoint in a new output_dir, or remove this folder"
        raise ConfigError(Problem(str(checkpoint), what, fix))


LENGTHS = {"training.max_steps": None, "training.num_train_epochs": 3.0}
"""Keys that say how long a run is, and what they are where they are not set."""
_SCHEDULE = "the learning rate goes on by the schedule of the longer run, so that a decayed one rises again"


def _refuse_differences(folder: Path, resolved: Mapping[str, Any], data: dict[str, Any], *, extend: bool) -> list[str]:
    """Raise ConfigError for what makes another run; returns notes on what makes a longer one, where that is wanted."""
    fix = "name another training.output_dir, or restore what was changed"
    problems, notes = [], []
    before = folder / RESOLVED
    if before.is_file():
        for key, old, new in _changed(load_run(before, plugins=False).resolved, resolved):
            is_longer = key in LENGTHS and _is_more(new, LENGTHS[key] if old is None else old)
            if is_longer and extend:
                notes.append(f"extended: {key} was {old} and is now {new}; {_SCHEDULE}")
                continue
            longer = f"to train on, add --extend ({_SCHEDULE}); else " if is_longer else ""
            problems.append(Problem(str(before), f"{key} was {old} and is now {new}", longer + fix))
    manifest_file = folder / MANIFEST
    if manifest_file.is_file():
        changed = _changed_data(json.loads(manifest_file.read_text(encoding="utf-8")), data)
        problems += [Problem(str(manifest_file), what, fix) for what in changed]
    if problems:
        raise ConfigError(problems)
    return notes


def _is_more(new: Any, old: Any) -> bool:
    """Whether one length of a run is more than another; a length that is not set is no number."""
    return all(isinstance(length, int | float) and length > 0 for length in (new, old)) and new > old


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    old, new = _flat(before), _flat(after)
    for key in ("tuner.resume_from_checkpoint", "training.resume_from_checkpoint"):  # how a run began, not what it is
        old.pop(key, None), new.pop(key, None)
    return [
        (key, old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    ]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _changed_data(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = ({entry["file"]: entry for entry in manifest["files"]} for manifest in (before, after))
    changed = [f"{file} is not part of the run any more" for file in sorted(old.keys() - new.keys())]
    for file, entry in new.items():
        if file not in old:
            changed.append(f"{file} was not part of the run")
            continue
        if entry["sha256"] != old[file]["sha256"]:
            changed.append(f"{file} has other content now")
        images = old[file]["images"]
        changed += [
            f"{name} is another picture now" for name, facts in entry["images"].items() if images.get(name) != facts
        ]
    return changed


def prepare_folder(folder: Path, resolved: str, data: dict[str, Any], start: Continuation) -> None:
    """Write what the run is made of, and take from its logs what an interrupted attempt wrote after its checkpoint."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    ours = (folder / RESOLVED).is_file()
    write_atomically(folder / RESOLVED, resolved)
    write_atomically(folder / VERSIONS, json.dumps(versions(), indent=2) + "\n")
    write_atomically(folder / MANIFEST, json.dumps(data, ensure_ascii=False, indent=1) + "\n")
    if start.checkpoint is None and ours:  # what an attempt before its first checkpoint left; never somebody else's
        (folder / LOG).unlink(missing_ok=True)
        (folder / EPOCHS).unlink(missing_ok=True)
        shutil.rmtree(folder / "runs", ignore_errors=True)
    elif start.checkpoint is not None:
        step = int(start.checkpoint.name.rsplit("-", 1)[1])
        trim_log(folder / LOG, step)
        trim_log(folder / EPOCHS, step, "step")


def trim_log(path: Path, step: int, key: str = "global_step/max_steps") -> None:
    """Keep the log lines up to `step`, which is under `key`: what came after it is done again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            position = str(json.loads(line)[key])
        except (ValueError, KeyError):
            continue  # a torn line, or the summary at the end of an attempt
        if int(position.split("/")[0]) <= step:
            kept.append(line)
    write_atomically(path, "".join(f"{line}\n" for line in kept))
