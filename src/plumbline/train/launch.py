"""Processes of a run: one per GPU under torchrun, signals passed on, what the launching process decided."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import EXIT_OK
from plumbline.train.folder import Continuation
from plumbline.train.start import Start

LAUNCHED = "PLUMBLINE_LAUNCHED"
"""Folder through which a launching process gives its children the start, and rank 0 returns the exit code."""
SAVE_SECONDS = 600
"""How long torchrun lets the processes save after a signal before it kills them."""


@dataclass(frozen=True)
class TrainOptions:
    """What the command line adds to the YAML.

    Attributes:
        base_config: A file below everything that the YAML says and extends.
        debug: Show debug lines and whole tracebacks.
        dry_run: Check everything, write nothing.
        gpus: Device numbers such as "0,1", one process each.
        resume: Go on in a folder that holds a run.
        as_json: Print one JSON object instead of lines.
        build_teacher_cache: Let the teacher read the samples, train nothing.
        extend: Train a finished run on for more steps.
    """

    base_config: Path | None = None
    debug: bool = False
    dry_run: bool = False
    gpus: str | None = None
    resume: bool = True
    as_json: bool = False
    build_teacher_cache: bool = False
    extend: bool = False


def wanted_processes(gpus: str | None) -> int:
    """One process per named GPU; NPROC_PER_NODE says it where there is none to name."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        return len([number for number in gpus.split(",") if number.strip()])
    if "LOCAL_RANK" not in os.environ and "NPROC_PER_NODE" not in os.environ:
        # A single process that sees several GPUs would split the model over them.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return int(os.environ.get("NPROC_PER_NODE", "1"))


def launch(config: Path, options: TrainOptions, processes: int, start: Start) -> int:
    """Start the same command under torchrun, with the start decided here; returns rank 0's exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [f"--shutdown-timeout={SAVE_SECONDS}", "-m", "plumbline", "train", str(config)]
    command += ["--base-config", str(options.base_config)] if options.base_config else []
    command += ["--debug"] if options.debug else []
    command += ["--json"] if options.as_json else []
    command += ["--build-teacher-cache"] if options.build_teacher_cache else []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = start.how.checkpoint
        decided = {"checkpoint": None if checkpoint is None else str(checkpoint), "data": start.data}
        (Path(folder) / "start.json").write_text(json.dumps(decided), encoding="utf-8")
        code = _wait_for(command, os.environ | {LAUNCHED: folder})
        outcome = Path(folder) / "exit_code"
        return int(outcome.read_text()) if outcome.is_file() else code


def _wait_for(command: list[str], environment: dict[str, str]) -> int:
    """Run a command in a session of its own; one signal is passed on, so that its processes save and stop."""
    received: list[int] = []
    with subprocess.Popen(command, env=environment, start_new_session=True) as child:

        def pass_on(number: int, frame: Any) -> None:
            if not received:
                child.send_signal(signal.SIGTERM)
            received.append(number)

        previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        code = child.wait()
    for number, handler in previous.items():
        signal.signal(number, handler)
    return 128 + received[0] if received and code else code


def start_of_launcher() -> Start | None:
    """What the launching process decided; None when this process decides for itself."""
    if LAUNCHED not in os.environ:
        return None
    decided = json.loads((Path(os.environ[LAUNCHED]) / "start.json").read_text(encoding="utf-8"))
    return Start(Continuation(decided["checkpoint"] and Path(decided["checkpoint"])), decided["data"])


def report_outcome(code: int) -> int:
    """Leave rank 0's exit code for the launching process; a launched process that trained ends with 0."""
    if LAUNCHED not in os.environ:
        return code
    if rank() == 0:
        (Path(os.environ[LAUNCHED]) / "exit_code").write_text(str(code))
    return EXIT_OK


def rank() -> int:
    """This process among all; 0 is the one that reports."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes that train."""
    return int(os.environ.get("WORLD_SIZE", "1"))
