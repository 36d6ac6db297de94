"""The packs of every epoch, planned from exact lengths before training begins: no picture is opened for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.augment.plan import AugmentationPlan, VisibleObjects
from plumbline.batch.answers import Answer, AnswerCounter
from plumbline.batch.bins import GOOD, Pack, equalise, lower_bound, pack_samples
from plumbline.batch.lengths import PixelLimits, exact_length, image_tokens, rendered_parts
from plumbline.batch.schedule import SampleKey, StepShape, Unit
from plumbline.batch.tokens import TokenCounter
from plumbline.data.answer_form import PLAIN_FORM
from plumbline.data.epoch import Drawn, EpochDataset
from plumbline.data.keyed import keyed_generator
from plumbline.data.messages import ask_messages
from plumbline.data.mixture import Turn
from plumbline.errors import DataError, Problem
from plumbline.forked import cores, forked_map

WINDOWS = 20
"""Stretches of an epoch that are packed apart, at most, where a curriculum moves within it."""
LEAST_PACKS = 200
"""Packs of a stretch, at least: of each the last pack is not full, which costs a pack in so many at most."""
PROBES = 400
"""Samples that the number of packs is estimated from before there are lengths."""
CLOCK = 1_000_000
"""Steps of a packed run as its curriculum counts them: how many real steps there are is known only after packing."""
LEAST_FILL = 0.985
"""Packs that are less full are worth a warning."""
LEAST_PER_PROCESS = 2_000
_CHUNK = 500

Lengths = NDArray[np.int32]
Steps = NDArray[np.int32]


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
        """tokens: of the answer, where they were counted without writing it."""
        try:
            if isinstance(drawn, DataError):
                raise drawn
            if answer is not None and tokens is not None:
                with suppress(ValueError):  # a picture too thin for the grid, which `exact_length` reports in full
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
        if settings.form != PLAIN_FORM:  # counted by writing it: no run of numbers is worth a second counter
            return None
        visible = (
            plan.visible
            if isinstance(plan, AugmentationPlan)
            else VisibleObjects.whole(plan.record if plan else record)
        )
        return Answer(visible, width, height, settings.emit_norm, settings.ordering)

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

    packs: by epoch, equal numbers of them; lengths, steps: by epoch, tokens by position (0 for a problem) and the part
    of the run as which they were planned. halved: packs more than the samples needed, for equal numbers. repeats: all
    epochs are like the first. problems: samples that could not be measured; they are in no pack.
    """

    packs: tuple[tuple[Pack, ...], ...]
    lengths: tuple[Lengths, ...]
    steps: tuple[Steps, ...]
    capacity: int
    seed: int
    halved: int = 0
    repeats: bool = False
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.packs[0])

    def units(self, epoch: int) -> list[Unit]:
        """The packs of an epoch in their keyed order; where a curriculum moves, stretch by stretch."""
        planned = 0 if self.repeats else epoch
        packs, lengths, steps = self.packs[planned], self.lengths[planned].tolist(), self.steps[planned].tolist()
        draws = keyed_generator(self.seed, epoch, 0, "packs").random(len(packs)).tolist()
        order = sorted(range(len(packs)), key=lambda number: (steps[packs[number][0]], draws[number]))
        return [tuple(SampleKey(at, epoch, steps[at], lengths[at]) for at in packs[number]) for number in order]

    @property
    def fill(self) -> float:
        """Share of the packs' capacity that holds samples, over all planned epochs."""
        return self._tokens / (self.capacity * sum(map(len, self.packs)))

    @cached_property
    def fill_bound(self) -> float:
        """What no packing of these samples can exceed."""
        fewest = sum(lower_bound(lengths[lengths > 0], self.capacity) for lengths in self.lengths)
        return self._tokens / (self.capacity * fewest)

    @property
    def stages(self) -> int:
        """How many parts of the run are planned apart: a curriculum moves between them."""
        return len({int(step) for steps in self.steps for step in np.unique(steps)})

    @property
    def shortfall(self) -> str:
        """Why the packs are less full than they should be; empty when they are full."""
        bound = self.fill_bound
        found = []
        if bound < LEAST_FILL:
            found.append(f"no packing of these samples fills more than {100 * bound:.1f} %: they are few, or long")
        if self.fill < GOOD * bound and self.halved:
            found.append(f"{self.halved} packs were halved: every epoch and process needs the same number")
        elif self.fill < GOOD * bound:
            found.append("no better packing of these samples was found")
        return "; ".join(found)

    @property
    def _tokens(self) -> int:
        return sum(int(lengths.sum()) for lengths in self.lengths)


@dataclass(frozen=True)
class Progress:
    """How far a packed run is, in `CLOCK` parts, by which its curriculum is read.

    epochs: of the run; windows: stretches of an epoch, each planned as at its middle; chain_at: what the samples of a
    part are drawn with. Neighbours that are drawn with the same are one stretch.
    """

    epochs: float
    windows: int
    chain_at: Callable[[int], object]

    def steps(self, samples: int, epoch: int) -> Steps:
        """The part of the run as which each position of an epoch is planned."""
        parts: list[int] = []
        for window in range(self.windows):
            middle = (epoch + (window + 0.5) / self.windows) / self.epochs
            part = min(CLOCK, int(middle * CLOCK))
            is_one = bool(parts) and self.chain_at(part) == self.chain_at(parts[-1])
            parts.append(parts[-1] if is_one else part)
        return np.array(parts, dtype=np.int32)[np.arange(samples) * self.windows // samples]

    @property
    def moves(self) -> bool:
        """Whether anything changes inside an epoch."""
        return any(len(np.unique(self.steps(self.windows, epoch))) > 1 for epoch in range(math.ceil(self.epochs)))


def plan_packs(
    meter: LengthMeter,
    capacity: int,
    run: RunLength,
    progress: Callable[[int], Any] = lambda done: None,
) -> PackedSchedule:
    """Plan the packs of every epoch of a run.

    capacity: tokens of a pack. A sample over the capacity is a problem like one that cannot be built. Raises DataError
    when there is nothing to pack.
    """
    samples = meter.samples
    planner = _EpochPlanner(meter, capacity, _clock(meter, capacity, run.epochs), progress)
    steps, packs = [planner.steps(0)], []
    rows = [planner.lengths(0, steps[0])]
    packs.append(_packs_of(rows[0], steps[0], capacity))
    if not packs[0]:
        raise DataError(list(planner.problems.values())[:20])
    repeats = not samples.varies and not samples.mixture.shuffle
    while not repeats and len(rows) < run.epochs_needed(max(map(len, packs))):
        steps.append(planner.steps(len(rows)))
        rows.append(planner.lengths(len(rows), steps[-1]))
        packs.append(_packs_of(rows[-1], steps[-1], capacity))
    count = -(-max(map(len, packs)) // run.shape.ranks) * run.shape.ranks
    fewest_samples = min(int((row > 0).sum()) for row in rows)
    if count > fewest_samples:
        what = f"{fewest_samples} samples cannot be shared by {run.shape.ranks} processes"
        raise DataError(Problem("training.packing", what, "use fewer processes"))
    even = tuple(tuple(equalise(row, count)) for row in packs)
    halved = sum(count - len(row) for row in packs)
    problems = tuple(planner.problems.values())
    return PackedSchedule(even, tuple(rows), tuple(steps), capacity, samples.mixture.seed, halved, repeats, problems)


def _clock(meter: LengthMeter, capacity: int, epochs: float) -> Progress:
    """As many stretches as leave each enough packs; one where nothing moves."""
    augmenter = meter.samples.augmenter
    finest = Progress(epochs, WINDOWS, (lambda step: None) if augmenter is None else augmenter.at)
    if not finest.moves:
        return replace(finest, windows=1)
    return replace(finest, windows=min(WINDOWS, max(1, _packs_expected(meter, capacity) // LEAST_PACKS)))


def _packs_expected(meter: LengthMeter, capacity: int) -> int:
    """Packs of an epoch, estimated from samples spread over the run."""
    samples = len(meter.samples)
    keys = [
        SampleKey(position, 0, position * CLOCK // samples) for position in range(0, samples, -(-samples // PROBES))
    ]
    found = [length for length in meter.many(keys) if isinstance(length, int) and length <= capacity]
    return lower_bound(found, capacity) * samples // len(keys)


@dataclass
class _EpochPlanner:
    """Measures epochs one after the other; what does not vary is measured once."""

    meter: LengthMeter
    capacity: int
    clock: Progress
    progress: Callable[[int], Any]
    problems: dict[str, Problem] = field(default_factory=dict)
    known: dict[Turn, int] = field(default_factory=dict)

    def steps(self, epoch: int) -> Steps:
        """The part of the run by position."""
        return self.clock.steps(len(self.meter.samples), epoch)

    def lengths(self, epoch: int, steps: Steps) -> Lengths:
        """Tokens by position; 0 for what is a problem. steps: of the epoch."""
        samples = self.meter.samples
        turns = samples.mixture.turns(epoch)
        if self.known:
            return np.array([self.known[turn] for turn in turns], dtype=np.int32)
        keys = [SampleKey(position, epoch, step) for position, step in enumerate(steps.tolist())]
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


def _packs_of(lengths: Lengths, steps: Steps, capacity: int) -> list[Pack]:
    """Packs of positions; what is planned as another part of the run is packed apart."""
    packs: list[Pack] = []
    for step in np.unique(steps):
        positions = np.nonzero((steps == step) & (lengths > 0))[0]
        packs += [positions[pack].tolist() for pack in pack_samples(lengths[positions], capacity)]
    return packs
