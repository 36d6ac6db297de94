"""The samples of a run: sources mixed, modes chosen, pictures grouped, augmentation planned; all from keys.

`item` depends on its arguments alone: the position in the epoch, the epoch, and the optimiser step (which a curriculum
needs). Any worker of any rank, before training or after a resume, builds the same sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from plumbline.data.dataset import (
    DatasetSettings,
    PicturePlan,
    RecordFile,
    Sample,
    Survey,
    build_sample,
    fit_for,
    resolve_images,
)
from plumbline.data.fit import Fitted
from plumbline.data.images import image_size
from plumbline.data.keyed import KeyedStream
from plumbline.data.messages import own_images
from plumbline.data.mixture import Mixture, Share, Turn
from plumbline.data.record import Record
from plumbline.errors import DataError, Problem


class Augmenter(Protocol):
    """Plans the pictures of a record (`plumbline.augment.curriculum`)."""

    def plan(self, record: Record, size: tuple[int, int], rng: np.random.Generator, step: int) -> PicturePlan: ...


@dataclass(frozen=True)
class Source:
    """One JSONL of a run. settings: its prompts and how its answers are written; max_objects: more are left out."""

    name: str
    records: Sequence[Record]
    settings: DatasetSettings
    share: Share
    augmented: bool = True
    max_objects: int | None = None

    @classmethod
    def of_file(cls, path: str, settings: DatasetSettings, name: str = "train", mode: str = "") -> Source:
        """A whole file as the only source."""
        records = RecordFile(path)
        limit = settings.sample_limit
        count = len(records) if limit is None else min(limit, len(records))
        return cls(name, records, settings, Share(count, mode=mode or settings.mode))


@dataclass(frozen=True, slots=True)
class Drawn:
    """The records of a turn, fitted to their pictures. plans: per record, of its pictures; empty when not augmented."""

    turn: Turn
    fitted: Sequence[Fitted]
    plans: Sequence[tuple[PicturePlan | None, ...]]


class EpochDataset:
    """All samples of a run. augmenter None: nothing is augmented (validation never is)."""

    def __init__(self, sources: Sequence[Source], mixture: Mixture, augmenter: Augmenter | None = None):
        self.sources = tuple(sources)
        self.mixture = mixture
        self.augmenter = augmenter
        self._plans = KeyedStream(mixture.seed, "augment")
        self._picks = KeyedStream(mixture.seed, "objects")

    def __len__(self) -> int:
        return len(self.mixture)

    @property
    def varies(self) -> bool:
        """Whether a position's sample can differ in length from epoch to epoch."""
        capped = any(source.max_objects is not None for source in self.sources)
        return self.augmenter is not None or capped or self.mixture.is_random

    def item(self, position: int, epoch: int = 0, step: int = 0) -> Sample:
        """The sample at `position` of `epoch`, planned for optimiser step `step`.

        Raises IndexError outside the epoch and DataError, naming file and line, for a record that cannot be used.
        """
        drawn = self.draw(position, epoch, step)
        source = self.sources[drawn.turn.source]
        return build_sample(drawn.fitted, drawn.turn.mode, source.settings, drawn.plans, source.name)

    def draw(self, position: int, epoch: int = 0, step: int = 0) -> Drawn:
        """What `item` tells, before it is put into words; raises as `item` does for its records."""
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        turn = self.mixture.turns(epoch)[position]
        source = self.sources[turn.source]
        fitted = [self._fitted(source, turn, index, epoch) for index in turn.records]
        plans: list[tuple[PicturePlan | None, ...]] = []
        if self.augmenter is not None and source.augmented:
            # The key holds the position too: a record drawn twice in an epoch is not augmented twice the same way.
            keys = [position * self.mixture.images_per_turn + number for number in range(len(fitted))]
            plans = [
                self._planned(source, item.record, epoch, key, step) for item, key in zip(fitted, keys, strict=True)
            ]
        return Drawn(turn, fitted, plans)

    def _fitted(self, source: Source, turn: Turn, index: int, epoch: int) -> Fitted:
        fitted = fit_for(source.records[index], turn.mode)
        most = source.max_objects
        if most is None or len(fitted.record.objects) <= most:
            return fitted
        rng = self._picks.at(epoch, index)
        kept = sorted(rng.permutation(len(fitted.record.objects))[:most].tolist())
        objects = tuple(fitted.record.objects[number] for number in kept)
        return replace(fitted, record=replace(fitted.record, objects=objects))

    def _planned(
        self, source: Source, record: Record, epoch: int, key: int, step: int
    ) -> tuple[PicturePlan | None, ...]:
        """One plan per picture; all pictures of a record share the draw."""
        assert self.augmenter is not None
        if record.messages is not None or not record.images:
            return (None,) * len(own_images(record))
        if len(record.images) == 1 and record.width is not None and record.height is not None:
            sizes = [(record.width, record.height)]
        else:
            sizes = [image_size(path) for path in resolve_images(record.images, record, source.settings.policy)]
        return tuple(self.augmenter.plan(record, size, self._plans.at(epoch, key), step) for size in sizes)

    def survey(self) -> Survey:
        """Count what fitting to the picture does to every record in use, without opening a picture.

        Raises DataError naming the first records that lack the summary which their mode needs.
        """
        counts: Counter[str] = Counter()
        emptied: list[str] = []
        bare: list[str] = []
        for source in self.sources:
            for index in range(source.share.records):
                record = source.records[index]
                fitted = fit_for(record, "summary")
                counts.update(
                    records=1,
                    objects=len(fitted.record.objects),
                    clipped=len(fitted.clipped),
                    dropped=len(fitted.dropped),
                )
                if fitted.dropped and not fitted.record.objects:
                    emptied.append(record.place)
                if source.share.mode in ("mixed", "summary") and record.summary is None and record.messages is None:
                    bare.append(record.place)
        if bare:
            what = f"{len(bare)} records have no `summary`, which summary_ratio or use_summary needs"
            raise DataError(Problem(bare[0], what, "add them, or take the key out"))
        return Survey(counts["records"], counts["objects"], counts["clipped"], counts["dropped"], tuple(emptied))
