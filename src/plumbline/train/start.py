"""From where a run starts: fresh, or from a checkpoint of its folder or of another."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.model.checkpoints import latest_complete
from plumbline.train.config import LoadedRun, TrainRun
from plumbline.train.datasets import files_in_use
from plumbline.train.folder import Continuation, data_manifest, find_continuation, require_trainer_state
from plumbline.train.preflight import image_policy
from plumbline.train.progress import phase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """how: from where; data: the run's manifest, None where it was not needed yet or is rank 0's to make."""

    how: Continuation
    data: dict[str, Any] | None


def decide_start(loaded: LoadedRun, *, resume: bool, extend: bool, main_process: bool) -> Start:
    """How the run starts, from its folder; nothing is written."""
    run = loaded.run
    folder = Path(run.upstream["output_dir"])
    data = manifest_of(run) if main_process and latest_complete(folder).folder is not None else None
    if run.continue_from is not None:
        checkpoint = _named_checkpoint(Path(run.continue_from), folder)
        require_trainer_state(checkpoint)
        how = Continuation(checkpoint, notes=(f"continuing from {checkpoint}",))
    else:
        how = find_continuation(folder, loaded.resolved, data, resume=resume, extend=extend)
    if main_process:
        for note in how.notes:
            logger.info("%s", note)
    return Start(how, data)


def manifest_of(run: TrainRun) -> dict[str, Any]:
    with phase("digesting the data"):
        return data_manifest(files_in_use(run), image_policy(run), strict=run.custom.strict)


def _named_checkpoint(named: Path, folder: Path) -> Path:
    """The checkpoint to continue; inside the run's own folder the newest, when an interrupted continuation left one."""
    if named.resolve().parent != folder.resolve():
        return named
    return latest_complete(folder).folder or named
