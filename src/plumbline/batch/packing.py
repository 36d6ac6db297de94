"""The packs of every epoch, planned from exact lengths before training begins: no picture is opened for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.augment.plan import Plan, Told
from plumbline.batch.answers import Answer, AnswerCounter
from plumbline.batch.bins import Pack, equalise, lower_bound, pack_samples
from plumbline.batch.lengths import PixelLimits, exact_length, image_tokens, rendered_parts
from plumbline.batch.schedule import SampleKey, StepShape, Unit
from plumbline.batch.tokens import TokenCounter
from plumbline.data.epoch import Drawn, EpochDataset
from plumbline.data.keyed import keyed_generator
from plumbline.data.messages import ask_messages
from plumbline.data.mixture import Turn
from plumbline.errors import DataError, Problem
from plumbline.forked import cores, forked_map

WINDOWS = 20
"""Stretches of an epoch that are packed apart when a curriculum moves within it."""
CLOCK = 1_000_000
"""Steps of a packed run as its curriculum counts them: how many real steps there are is known only after packing."""
LEAST_PER_PROCESS = 2_000
_CHUNK = 500

Lengths = NDArray[np.int32]


@dataclass(frozen=True)
class LengthMeter:
    """Exact lengths of the samples of a run. counter, limits: of the model's folder."""

    samples: EpochDataset
    counter: TokenCounter
    limits: PixelLimits

    def one(self, key: SampleKey) -> int | Problem:
        """Tokens of a sample, or why it cannot be one."""
        return self._chunk([key])[0]

    def _chunk(self, keys: Sequence[SampleKey]) -> list[int | Problem]:
        drawn = self.samples.draw_many([(key.position, key.epoch, key.step) for key in keys])
        answers = [None if isinstance(item, DataError) else self._answer(item) for item in drawn]
        counts = iter(self._answers.count_all([answer for answer in answers if answer is not None]))
        tokens = [None if answer is None else next(counts) for answer in answers]
        return list(map(self._length, keys, drawn, answers, tokens))

    def _length(
        self, key: SampleKey, drawn: Drawn | DataError, answer: Answer | None, tokens: int | None
    ) -> int | Problem:
        """tokens: of the answer, where they could be told without writing it."""
        try:
            if isinstance(drawn, DataError):
                raise drawn
            if answer is not None and tokens is not None:
                with suppress(ValueError):  # a picture too thin for the grid, of which `exact_length` tells more
                    picture = image_tokens(answer.width, answer.height, self.limits) - 1  # its placeholder is text
                    return self._prompt(drawn.turn.source) + picture + tokens
            return exact_length(self.samples.item(key.position, key.epoch, key.step), self.counter, self.limits)
        except DataError as error:
            return error.problems[0]

    def _answer(self, drawn: Drawn) -> Answer | None:
        """A dense answer about one picture, which is counted without being written; None for every other sample."""
        record = drawn.fitted[0].record
        if drawn.turn.mode != "dense" or len(drawn.fitted) > 1 or record.messages is not None:
            return None
        plan = drawn.plans[0][0] if drawn.plans else None
        width, height = (record.width, record.height) if plan is None else (plan.width, plan.height)
        if width is None or height is None or len(record.images) != 1:
            return None
        settings = self.samples.sources[drawn.turn.source].settings
        told = plan.told if isinstance(plan, Plan) else Told.whole(plan.record if plan else record)
        return Answer(told, width, height, settings.emit_norm, settings.ordering)

    @cached_property
    def _answers(self) -> AnswerCounter:
        return AnswerCounter(self.counter)

    @cached_property
    def _prompts(self) -> dict[int, int]:
        return {}

    def _prompt(self, source: int) -> int:
        """Tokens before the answer to one picture."""
        if source not in self._prompts:
            chat = ask_messages(["picture"], *self.samples.sources[source].settings.prompts.of_mode("dense"))
            self._prompts[source] = sum(map(self.counter.count, rendered_parts(chat["messages"])))
        return self._prompts[source]

    def many(
        self, keys: Sequence[SampleKey], progress: Callable[[int], Any] = lambda done: None
    ) -> list[int | Problem]:
        """The same for many, in all cores when there are enough of them; `progress` hears how many are done."""
        processes = min(cores(), len(keys) // LEAST_PER_PROCESS)
        chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
        found: list[int | Problem] = []
        # The chunks are there when the processes are forked: their numbers are all that has to travel.
        for part in forked_map(lambda number: self._chunk(chunks[number]), range(len(chunks)), processes):
            found += part
            progress(len(found))
        return found


@dataclass(frozen=True)
class RunLength:
    """How long a run is: `epochs`, unless `max_steps` optimiser steps end it."""

    epochs: float
    shape: StepShape
    max_steps: int = 0

    def epochs_needed(self, packs: int) -> int:
        """Epochs that are begun when each has this many packs."""
        return math.ceil(self.max_steps / self.shape.updates(packs)) if self.max_steps else math.ceil(self.epochs)


@dataclass(frozen=True)
class PackedSchedule:
    """Units that are packs.

    packs: by epoch, equal numbers of them; lengths: by epoch, tokens by position, 0 for a problem. clock: epochs by
    which a curriculum counts; windows: stretches of an epoch that were packed apart. repeats: all epochs are like the
    first. problems: samples that could not be measured; they are in no pack.
    """

    packs: tuple[tuple[Pack, ...], ...]
    lengths: tuple[Lengths, ...]
    capacity: int
    seed: int
    clock: float
    windows: int = 1
    repeats: bool = False
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.packs[0])

    def units(self, epoch: int) -> list[Unit]:
        """The packs of an epoch in their keyed order; with windows, in the order of the windows."""
        planned = 0 if self.repeats else epoch
        packs, lengths = self.packs[planned], self.lengths[planned].tolist()
        steps = planned_steps(len(lengths), epoch, self.clock, self.windows)
        draws = keyed_generator(self.seed, epoch, 0, "packs").random(len(packs)).tolist()
        order = sorted(range(len(packs)), key=lambda number: (steps[packs[number][0]], draws[number]))
        return [tuple(SampleKey(at, epoch, steps[at], lengths[at]) for at in packs[number]) for number in order]

    @property
    def fill(self) -> float:
        """Share of the packs' capacity that holds samples, over all planned epochs."""
        return self._tokens / (self.capacity * sum(map(len, self.packs)))

    @property
    def fill_bound(self) -> float:
        """What no packing of these samples can exceed."""
        fewest = sum(lower_bound(lengths[lengths > 0], self.capacity) for lengths in self.lengths)
        return self._tokens / (self.capacity * fewest)

    @property
    def _tokens(self) -> int:
        return sum(int(lengths.sum()) for lengths in self.lengths)


def planned_steps(samples: int, epoch: int, clock: float, windows: int) -> list[int]:
    """The step by which each sample of an epoch is planned: the run's progress in `CLOCK` parts, one per window."""
    starts = [int((epoch + window / windows) / clock * CLOCK) for window in range(windows)]
    return [starts[position * windows // samples] for position in range(samples)]


def plan_packs(
    meter: LengthMeter,
    capacity: int,
    run: RunLength,
    *,
    moving: bool = False,
    progress: Callable[[int], Any] = lambda done: None,
) -> PackedSchedule:
    """Plan the packs of every epoch of a run.

    capacity: tokens of a pack; moving: whether a curriculum changes the samples within an epoch. A sample over the
    capacity is a problem like one that cannot be built. Raises DataError when there is nothing to pack.
    """
    samples, windows = meter.samples, WINDOWS if moving else 1
    planner = _EpochPlanner(meter, capacity, run.epochs, windows, progress)
    rows, packs = [planner.lengths(0)], []
    packs.append(_packs_of(rows[0], capacity, windows))
    if not packs[0]:
        raise DataError(list(planner.problems.values())[:20])
    repeats = not samples.varies and not samples.mixture.shuffle
    while not repeats and len(rows) < run.epochs_needed(max(map(len, packs))):
        rows.append(planner.lengths(len(rows)))
        packs.append(_packs_of(rows[-1], capacity, windows))
    count = -(-max(map(len, packs)) // run.shape.ranks) * run.shape.ranks
    fewest_samples = min(int((row > 0).sum()) for row in rows)
    if count > fewest_samples:
        what = f"{fewest_samples} samples cannot be shared by {run.shape.ranks} processes"
        raise DataError(Problem("training.packing", what, "use fewer processes"))
    even = tuple(tuple(equalise(row, count)) for row in packs)
    problems = tuple(planner.problems.values())
    return PackedSchedule(even, tuple(rows), capacity, samples.mixture.seed, run.epochs, windows, repeats, problems)


@dataclass
class _EpochPlanner:
    """Measures epochs one after the other; what does not vary is measured once."""

    meter: LengthMeter
    capacity: int
    clock: float
    windows: int
    progress: Callable[[int], Any]
    problems: dict[str, Problem] = field(default_factory=dict)
    known: dict[Turn, int] = field(default_factory=dict)

    def lengths(self, epoch: int) -> Lengths:
        """Tokens by position; 0 for what is a problem."""
        samples = self.meter.samples
        turns = samples.mixture.turns(epoch)
        if self.known:
            return np.array([self.known[turn] for turn in turns], dtype=np.int32)
        steps = planned_steps(len(turns), epoch, self.clock, self.windows)
        keys = [SampleKey(position, epoch, step) for position, step in enumerate(steps)]
        found = self.meter.many(keys, self.progress)
        row = np.array([self._checked(key, item) for key, item in zip(keys, found, strict=True)], dtype=np.int32)
        if not samples.varies:
            self.known.update(zip(turns, row.tolist(), strict=True))
        return row

    def _checked(self, key: SampleKey, found: int | Problem) -> int:
        if isinstance(found, int):
            if found <= self.capacity:
                return found
            place = self.meter.samples.item(key.position, key.epoch, key.step).record.place
            fix = "raise global_max_length, or lower template.max_pixels"
            found = Problem(place, f"{found} tokens, the limit is {self.capacity}", fix)
        self.problems.setdefault(found.where, found)
        return 0


def _packs_of(lengths: Lengths, capacity: int, windows: int) -> list[Pack]:
    """Packs of positions; each window is packed by itself."""
    size = len(lengths)
    packs: list[Pack] = []
    for window in range(windows):
        positions = np.arange(-(-window * size // windows), -(-(window + 1) * size // windows))
        positions = positions[lengths[positions] > 0]
        packs += [positions[pack].tolist() for pack in pack_samples(lengths[positions], capacity)]
    return packs
