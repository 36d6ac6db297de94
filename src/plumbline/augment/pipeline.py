"""From a record's metadata to its plan: operations drawn in order, multiplied into one map, objects cut once.

Deterministic in its arguments alone: the record, the keyed generator and the step. Called a thousand times before
training (to learn exact lengths) and once more in a worker (to render), it says the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from plumbline.augment.config import AugmentationConfig
from plumbline.augment.curriculum import resolve
from plumbline.augment.ops import COLOUR, NAMES
from plumbline.augment.plan import AugmentationPlan, ObjectRule, Skip, View, VisibleObjects
from plumbline.data.record import DataObject, Record
from plumbline.geometry import Polyline, Shape
from plumbline.geometry.clip import cut_crossing, is_outside
from plumbline.geometry.group import ShapeGroup
from plumbline.geometry.maps import IDENTITY

BYPASS = "bypass"
EMPTIED = "every object would be lost"


@dataclass(frozen=True)
class Augmentation:
    """The chain of operations of one step. bypass_prob: chance that a sample stays as it is."""

    operations: tuple[Any, ...] = ()
    bypass_prob: float = 0.0

    def plan(self, record: Record, size: tuple[int, int], rng: np.random.Generator) -> AugmentationPlan:
        """Plan one picture of `record`. size: (width, height) in pixels of the source, EXIF applied.

        The objects must lie inside the picture (`plumbline.data.fit`). A record with objects keeps at least one: a
        chain that would lose them all is undone and counted, its colour operations stay.
        """
        return _finish(self.draw(record, size, rng))

    def draw(self, record: Record, size: tuple[int, int], rng: np.random.Generator) -> Chain:
        """The numbers of `plan`, before any object is cut; `rng` is not needed any more."""
        view = View(record, size)
        applied: list[str] = []
        skipped: list[tuple[str, str]] = []
        colour: list[tuple[Any, tuple[float, ...]]] = []
        if self.bypass_prob and rng.random() < self.bypass_prob:
            return Chain(view, (), (BYPASS,), ())
        for operation, name, prob, is_colour in self._chain:
            if prob < 1 and rng.random() >= prob:
                continue
            if is_colour:
                colour.append((operation, operation.draw(rng)))
                applied.append(name)
                continue
            step = operation.draw(view, rng)
            if isinstance(step, Skip):
                skipped.append((name, step.reason))
                continue
            view.advance(step)
            applied.append(name)
        return Chain(view, tuple(colour), tuple(applied), tuple(skipped))

    @cached_property
    def _chain(self) -> list[tuple[Any, str, float, bool]]:
        """(operation, name, chance, whether it is a colour operation): looked up once, not for every picture."""
        named = [(operation, NAMES[type(operation)]) for operation in self.operations]
        return [(operation, name, operation.prob, name in COLOUR) for operation, name in named]


@dataclass(frozen=True, slots=True)
class Chain:
    """Operations drawn for one picture: what they made of the view, and what the plan will say of them."""

    view: View
    colour: tuple[tuple[Any, tuple[float, ...]], ...]
    applied: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Outcome:
    """Objects on the final canvas, being collected: places in their group, or objects that the edge changed."""

    items: list[int | DataObject] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    coverages: list[float] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)


def _finish(chain: Chain) -> AugmentationPlan:
    view, applied = chain.view, chain.applied
    if applied == (BYPASS,):
        return _unmoved(chain)
    outcome = _Outcome()
    _place(outcome, view, view.group, range(len(view.record.objects)))
    for patch in view.patches:
        copied, group = _Outcome(), view.copied(patch)
        _place(copied, view, group, patch.indices)
        objects = view.record.objects
        outcome.items += [
            item if isinstance(item, DataObject) else DataObject(objects[patch.indices[item]].desc, group.shape(item))
            for item in copied.items
        ]
        outcome.indices += copied.indices
        outcome.coverages += copied.coverages
    if view.record.objects and not outcome.items:
        left = tuple(name for name in applied if name in COLOUR)
        return _unmoved(replace(chain, applied=left, skipped=(*chain.skipped, ("chain", EMPTIED))))
    return AugmentationPlan(
        source=view.source,
        width=view.width,
        height=view.height,
        matrix=view.matrix,
        visible=VisibleObjects(view.record, view.group, tuple(outcome.items)),
        kept_indices=tuple(outcome.indices),
        coverages=tuple(outcome.coverages),
        dropped=tuple(outcome.dropped),
        patches=view.patches,
        colour=chain.colour,
        applied=applied,
        skipped=chain.skipped,
    )


def _unmoved(chain: Chain) -> AugmentationPlan:
    """The source's own geometry."""
    view = chain.view
    width, height = view.source
    visible = VisibleObjects.whole(view.record)
    return AugmentationPlan(
        source=view.source,
        width=width,
        height=height,
        matrix=IDENTITY,
        visible=visible,
        kept_indices=tuple(range(len(visible.items))),
        coverages=(1.0,) * len(visible.items),
        colour=chain.colour,
        applied=chain.applied,
        skipped=chain.skipped,
    )


def _place(outcome: _Outcome, view: View, group: ShapeGroup, indices: Sequence[int]) -> None:
    """Cut the mapped objects at the canvas and judge them by the rule. indices: of the group's shapes in the record."""
    width, height, objects = view.width, view.height, view.record.objects
    if group.lies_inside(width, height):
        outcome.items += range(len(indices))
        outcome.indices += indices
        outcome.coverages += [1.0] * len(indices)
        return
    items, kept_indices, coverages = outcome.items, outcome.indices, outcome.coverages
    for place, (index, bounds) in enumerate(zip(indices, group.bounds, strict=True)):
        x1, y1, x2, y2 = bounds
        if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
            items.append(place)
            kept_indices.append(index)
            coverages.append(1.0)
            continue
        if is_outside(group.forms[place][0], bounds, width, height):
            outcome.dropped.append((index, "outside"))
            continue
        visible, share = cut_crossing(group.shape(place), bounds, width, height)
        kept = _cut(objects[index], visible, share, view.rule)
        if isinstance(kept, str):
            outcome.dropped.append((index, kept))
            continue
        items.append(kept)
        kept_indices.append(index)
        coverages.append(share)


def _cut(item: DataObject, visible: Shape | None, share: float, rule: ObjectRule) -> DataObject | str:
    """What is left of an object that crosses the edge, or why nothing is."""
    if share < rule.min_coverage:
        return "below min_coverage"
    if rule.lines == "drop" and isinstance(item.shape, Polyline):
        return "line cut"
    return "sliver" if visible is None else DataObject(_rewritten(item.desc, share, rule), visible)


def _rewritten(desc: str, share: float, rule: ObjectRule) -> str:
    """`desc` with its visibility attribute changed where the object is cut enough; nothing else changes."""
    for rewriting in rule.rewritings:
        if share < rewriting.below:
            # A whole attribute only: between separators of levels, attributes and values, or at an end.
            whole = rf"(?<![^/,，=:：]){re.escape(rewriting.whole_text)}(?![^/,，])"
            desc = rewriting.part_text.join(re.split(whole, desc))
    return desc


class ScheduledAugmentation:
    """A run's augmentation: the chain of the step at hand. total_steps: the clock of a curriculum's percents."""

    def __init__(self, config: AugmentationConfig, total_steps: int):
        self.config = config
        self.total_steps = total_steps
        self._at = (-1, Augmentation(config.ops, config.bypass_prob))

    def at(self, step: int) -> Augmentation:
        """The chain of an optimiser step."""
        curriculum = self.config.curriculum
        if curriculum is None or self._at[0] == step:
            return self._at[1]
        chain, bypass = resolve(self.config.ops, self.config.bypass_prob, curriculum, NAMES, step, self.total_steps)
        self._at = (step, Augmentation(chain, bypass))
        return self._at[1]

    def plans(
        self, requests: Iterable[tuple[Record, tuple[int, int], np.random.Generator, int]]
    ) -> list[AugmentationPlan]:
        """Plan pictures, each given by its record, size, generator and step; see `Augmentation.plan`."""
        chains = [self.at(step).draw(record, size, rng) for record, size, rng, step in requests]
        View.map_all(chain.view for chain in chains)
        return list(map(_finish, chains))
