"""Which samples are trained together and at which optimiser step: the same on every rank, worker and resume.

A dataloader item is a tuple of keys: one sample, or a pack of several. The keys travel to the workers, so that no state
has to be kept in step with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class SampleKey(NamedTuple):
    """A sample by its position in an epoch, and the optimiser step for which it is planned (a curriculum's clock).

    length: the tokens that a pack counts on; 0 when nothing was planned.
    """

    position: int
    epoch: int = 0
    step: int = 0
    length: int = 0


Unit = tuple[SampleKey, ...]


@dataclass(frozen=True)
class StepShape:
    """How many units make an optimiser step: per device and micro-batch, micro-batches, data-parallel ranks.

    drop_last: an incomplete micro-batch at the end of an epoch is left out.
    """

    batch_size: int = 1
    accumulation: int = 1
    ranks: int = 1
    drop_last: bool = False

    def batches(self, units: int) -> int:
        """Micro-batches of one rank per epoch."""
        mine = units // self.ranks
        return mine // self.batch_size if self.drop_last else math.ceil(mine / self.batch_size)

    def updates(self, units: int) -> int:
        """Optimiser steps per epoch."""
        return math.ceil(self.batches(units) / self.accumulation)


class Schedule(Protocol):
    """The units of every epoch; each epoch has the same number."""

    def __len__(self) -> int: ...
    def units(self, epoch: int) -> Sequence[Unit]: ...


@dataclass(frozen=True)
class SingleSchedule:
    """One sample per unit, in the order of the epoch. samples: per epoch.

    Ranks take equal numbers: `left_out` samples at an epoch's end have no rank to go to (others each epoch, since the
    order changes).
    """

    samples: int
    shape: StepShape

    @property
    def left_out(self) -> int:
        """Samples per epoch that no rank takes."""
        return self.samples % self.shape.ranks

    def __len__(self) -> int:
        return self.samples - self.left_out

    def units(self, epoch: int) -> list[Unit]:
        """The units of an epoch; each knows the step that it will be part of."""
        first = epoch * self.shape.updates(len(self))
        together = self.shape.ranks * self.shape.batch_size * self.shape.accumulation
        return [(SampleKey(position, epoch, first + position // together),) for position in range(len(self))]


class EpochBatches:
    """Batch sampler of one rank: yields the units of each micro-batch. `set_epoch` picks the epoch."""

    def __init__(self, schedule: Schedule, shape: StepShape, rank: int = 0):
        self.schedule = schedule
        self.shape = shape
        self.rank = rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.shape.batches(len(self.schedule))

    def __iter__(self) -> Iterator[list[Unit]]:
        mine = self.schedule.units(self.epoch)[self.rank :: self.shape.ranks]
        size = self.shape.batch_size
        yield from (list(mine[number * size : (number + 1) * size]) for number in range(len(self)))
