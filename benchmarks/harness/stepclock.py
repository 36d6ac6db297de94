"""Times the optimiser steps of any trainer of this process, ours or the upstream's, and gives all the same adapters.

On a CUDA device a step ends when the device has done its work, and memory is what torch allocated there.
"""

from __future__ import annotations

import time
import zlib
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from harness.memory import resident_mb, restart_peak


class StepClock(TrainerCallback):
    """Seconds of each step, and the growth of the peak memory from the moment the trainer stands."""

    last: StepClock

    def __init__(self) -> None:
        StepClock.last = self
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.logs: list[dict[str, float]] = []
        self.tokens = 0
        self._cuda = False
        self._began = self._before = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Adapters that have moved, the same by name whoever trains."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                seed = zlib.crc32(name.split("base_model.model.")[-1].encode())
                values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                with torch.no_grad():
                    parameter.copy_(values * 0.05)
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_hook(lambda module, inputs, output: self._count(inputs[0]))
        self._cuda = next(model.parameters()).device.type == "cuda"
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 1e6
        else:
            self._before = restart_peak()

    def _count(self, ids: torch.Tensor) -> None:
        """Tokens of a batch, padding included."""
        self.tokens = ids.numel()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds.append(self._now() - self._began)

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep what is compared."""
        if "loss" in (logs or {}):
            self.losses.append(float(logs["loss"]))
            self.norms.append(float(logs["grad_norm"]))
            self.logs.append(dict(logs))

    def grown_mb(self) -> float:
        """Growth of the peak so far."""
        return (torch.cuda.max_memory_allocated() / 1e6 if self._cuda else resident_mb("VmHWM")) - self._before


def install() -> None:
    """Every trainer that starts from now on has a clock: `StepClock.last` is the newest."""
    inner = Trainer._inner_training_loop

    def clocked(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        self.add_callback(StepClock())
        return inner(self, *args, **kwargs)

    Trainer._inner_training_loop = clocked
