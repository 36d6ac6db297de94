"""What happens around the steps of a run: frozen parts checked, checkpoints made whole, signals obeyed."""

from __future__ import annotations

import json
import logging
import math
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from plumbline.errors import writing
from plumbline.model.checkpoints import Card, mark_complete
from plumbline.train.config import TrainRun
from plumbline.train.drift import DriftControl
from plumbline.train.folder import EPOCHS
from plumbline.train.health import FrozenTensors
from plumbline.train.telemetry import epoch_account

logger = logging.getLogger(__name__)


class FrozenGuard(TrainerCallback):
    """Compares every frozen tensor before and after the first step of this process."""

    def __init__(self) -> None:
        self._frozen: FrozenTensors | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Remember what is frozen."""
        self._frozen = FrozenTensors(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Compare once."""
        if self._frozen is not None:
            self._frozen.check(model)
            logger.info("%d frozen tensors are byte-identical after step %d", len(self._frozen), state.global_step)
            self._frozen = None


class EpochAccount(TrainerCallback):
    """Counts what the samples of an epoch were and writes one line per epoch into `epochs.jsonl` of the run folder.

    A run that is stopped within an epoch writes a line for its part, and the run that continues it one for the rest:
    `covered` is the share of the epoch that a line counts.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EPOCHS
        self._tally: Counter[str] = Counter()
        self._begin = 0.0
        self.tokens = 0
        """Tokens of this rank's batches so far, prompts included."""

    def add(self, tally: Counter[str]) -> None:
        """Add what a batch holds."""
        self._tally += tally
        self.tokens += tally["tokens"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember how far the run is."""
        self._begin = state.epoch or 0.0

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the line, summed over ranks."""
        tally, self._tally = self._tally, Counter()
        begin, self._begin = self._begin, state.epoch or 0.0
        if dist.is_available() and dist.is_initialized():
            everywhere: list[Counter[str]] = [Counter()] * dist.get_world_size()
            dist.all_gather_object(everywhere, tally)
            tally = sum(everywhere, Counter())
        if state.is_world_process_zero and tally["samples"]:
            account = epoch_account(tally, math.ceil(self._begin), state.global_step, self._begin - begin)
            with writing(self.path), self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(account, ensure_ascii=False) + "\n")


def finish_checkpoint(folder: Path, card: Card) -> None:
    """Write the card that inference reads, then the COMPLETE marker, after every rank has written its files."""
    main_process = True
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        main_process = dist.get_rank() == 0
    if main_process:
        card.write(folder)
        mark_complete(folder)


@dataclass(frozen=True)
class EvaluatedRun:
    """A run at one of its evaluations, for somebody who looks on.

    Attributes:
        run: The run.
        step: Optimiser steps so far.
        folder: The run folder.
        model: As it trains, with its adapters; in evaluation mode.
        processor: Its processor.
    """

    run: TrainRun
    step: int
    folder: Path
    model: Any
    processor: Any


Observer = Callable[[EvaluatedRun], object]
"""Looks at a run on the main process. What it raises is logged: a run never ends for it."""


class Observed(TrainerCallback):
    """Lets observers look at the run after each evaluation, on the main process."""

    def __init__(self, run: TrainRun, processor: Any, observers: Sequence[Observer]) -> None:
        self._run, self._processor, self._observers = run, processor, observers

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Call them in turn, in the run's own precision."""
        if not state.is_world_process_zero:
            return
        at = EvaluatedRun(self._run, state.global_step, Path(args.output_dir), model, self._processor)
        lower = torch.float16 if args.fp16 else torch.bfloat16
        for observe in self._observers:
            try:
                with torch.no_grad(), torch.autocast(args.device.type, lower, enabled=args.bf16 or args.fp16):
                    observe(at)
            except Exception:
                logger.warning("step %d: what was to be shown of the evaluation failed", at.step, exc_info=True)


class RestoreDrift(TrainerCallback):
    """A run that is continued goes on with the factor that its drift has come to."""

    def __init__(self, drift: DriftControl) -> None:
        self._drift = drift

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the log of the steps so far."""
        self._drift.restore(state.log_history)


class StopOnSignal(TrainerCallback):
    """SIGINT and SIGTERM end the run after the current step, with a checkpoint; a second one ends it at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Start listening (main thread only)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def uninstall(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self.uninstall()
            raise KeyboardInterrupt
        self.received = number
        logger.warning("%s: saving a checkpoint after this step, then stopping", signal.Signals(number).name)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask the trainer to save and stop; ranks agree first, or some would save while others go on."""
        if self._anyone_received(args.device):
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True
        return control

    def _anyone_received(self, device: Any) -> bool:
        if not (dist.is_available() and dist.is_initialized()):
            return self.received is not None
        flag = torch.tensor([self.received or 0], device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        self.received = int(flag) or None
        return self.received is not None

    @property
    def exit_code(self) -> int | None:
        """128 + the signal's number, or None when none came."""
        return None if self.received is None else 128 + self.received
