"""The samples of a run: sources mixed, modes chosen, pictures grouped, augmentation planned; all from keys.

`item` depends on its arguments alone: the position in the epoch, the epoch, and the optimiser step (which a curriculum
needs). Any worker of any rank, before training or after a resume, builds the same sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

Size = tuple[int, int]
Request = tuple[Record, Size, np.random.Generator, int]
"""A picture to be planned: its record, its size, the generator (valid until the next request), the optimiser step."""


class Augmenter(Protocol):
    """Plans pictures, in the order of the requests (`plumbline.augment.pipeline`).

    at: what the pictures of an optimiser step are drawn with; equal where no curriculum moves.
    """

    def at(self, step: int) -> object: ...
    def plans(self, requests: Iterable[Request]) -> Sequence[PicturePlan]: ...


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
        share = Share(count, mode=mode or settings.mode, chats=records.chats_among(count))
        return cls(name, records, settings, share)


@dataclass(frozen=True, slots=True)
class Drawn:
    """The records of a turn, fitted to their pictures. plans: per record, of its pictures; empty when not augmented."""

    turn: Turn
    fitted: Sequence[Fitted]
    plans: Sequence[tuple[PicturePlan | None, ...]]


@dataclass(frozen=True, slots=True)
class _Read:
    """The records of a turn before their plans. sizes: per record, of the pictures that will be planned."""

    turn: Turn
    fitted: Sequence[Fitted]
    sizes: Sequence[Sequence[Size | None]]


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
        """The content of `item` before it becomes text; raises as `item` does for its records."""
        (drawn,) = self.draw_many([(position, epoch, step)])
        if isinstance(drawn, DataError):
            raise drawn
        return drawn

    def draw_many(self, keys: Sequence[tuple[int, int, int]]) -> list[Drawn | DataError]:
        """`draw` of many (position, epoch, step), with the error of each that cannot be used.

        All are read before the first is planned: a processor's cache holds the code of one of these stages, not both.
        """
        turns = {epoch: self.mixture.turns(epoch) for epoch in {epoch for _, epoch, _ in keys}}
        drawn = [(_turn(turns[epoch], position), epoch) for position, epoch, _ in keys]
        records = self._records(turn for turn, _ in drawn)
        read = [self._read(records, turn, epoch) for turn, epoch in drawn]
        plans = iter(self.augmenter.plans(self._requests(keys, read)) if self.augmenter is not None else ())
        return [
            item
            if isinstance(item, DataError)
            else Drawn(
                item.turn,
                item.fitted,
                [tuple([None if size is None else next(plans) for size in sizes]) for sizes in item.sizes],
            )
            for item in read
        ]

    def _records(self, turns: Iterable[Turn]) -> dict[tuple[int, int], Record | DataError]:
        """The records of turns, by source and index; of each source they are read together."""
        wanted: dict[int, dict[int, None]] = {}
        for turn in turns:
            wanted.setdefault(turn.source, {}).update(dict.fromkeys(turn.records))
        found: dict[tuple[int, int], Record | DataError] = {}
        for number, indices in wanted.items():
            try:
                read = _several(self.sources[number].records, list(indices))
            except DataError as error:  # of the file, not of one record
                read = [error] * len(indices)
            found.update(zip(((number, index) for index in indices), read, strict=True))
        return found

    def _read(self, records: Mapping[tuple[int, int], Record | DataError], turn: Turn, epoch: int) -> _Read | DataError:
        source = self.sources[turn.source]
        try:
            fitted = [self._fitted(records[turn.source, index], turn, index, epoch) for index in turn.records]
            is_planned = self.augmenter is not None and source.augmented
            return _Read(turn, fitted, [_sizes(source, item.record) for item in fitted] if is_planned else ())
        except DataError as error:
            return error

    def _requests(self, keys: Sequence[tuple[int, int, int]], read: Sequence[_Read | DataError]) -> Iterator[Request]:
        for (position, epoch, step), item in zip(keys, read, strict=True):
            if isinstance(item, DataError):
                continue
            # The key holds the position too: a record drawn twice in an epoch is not augmented twice the same way.
            first = position * self.mixture.images_per_turn
            for key, (fitted, sizes) in enumerate(zip(item.fitted, item.sizes, strict=False), start=first):
                # All pictures of a record share the draw.
                for size in sizes:
                    if size is not None:
                        yield fitted.record, size, self._plans.at(epoch, key), step

    def _fitted(self, record: Record | DataError, turn: Turn, index: int, epoch: int) -> Fitted:
        if isinstance(record, DataError):
            raise record
        fitted = fit_for(record, turn.mode)
        most = self.sources[turn.source].max_objects
        if most is None or len(fitted.record.objects) <= most:
            return fitted
        rng = self._picks.at(epoch, index)
        kept = sorted(rng.permutation(len(fitted.record.objects))[:most].tolist())
        objects = tuple(fitted.record.objects[number] for number in kept)
        left_out = len(fitted.record.objects) - most
        return replace(fitted, record=replace(fitted.record, objects=objects), left_out=left_out)

    def survey(self) -> Survey:
        """Count what fitting to the picture does to every record in use, without opening a picture.

        Raises DataError naming the first records that lack the summary which their mode needs.
        """
        counts: Counter[str] = Counter()
        emptied: list[str] = []
        bare: list[Record] = []
        negatives: dict[str, int] = {}
        for source in self.sources:
            negatives[source.name] = 0
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
                negatives[source.name] += record.is_negative
                if _lacks_summary(source, record):
                    bare.append(record)
        if bare:
            what = f"{len(bare)} records have no `summary`, which summary_ratio or use_summary needs"
            fix = "set prompts.negative_summary" if bare[0].is_negative else "add them, or take the key out"
            raise DataError(Problem(bare[0].place, what, fix))
        return Survey(
            counts["records"], counts["objects"], counts["clipped"], counts["dropped"], tuple(emptied), negatives
        )


def _lacks_summary(source: Source, record: Record) -> bool:
    """Whether a record lacks the summary that its source trains on."""
    if source.share.mode not in ("mixed", "summary") or record.summary is not None or record.messages is not None:
        return False
    return not (record.is_negative and source.settings.prompts.negative_summary)


def _turn(turns: Sequence[Turn], position: int) -> Turn:
    if not 0 <= position < len(turns):
        raise IndexError(f"sample {position} of {len(turns)}")
    return turns[position]


def _several(records: Sequence[Record], indices: Sequence[int]) -> Sequence[Record | DataError]:
    return records.several(indices) if isinstance(records, RecordFile) else [records[index] for index in indices]


def _sizes(source: Source, record: Record) -> Sequence[Size | None]:
    """(width, height) of each picture of a record; None for those of a chat, which are not planned."""
    if record.messages is not None or not record.images:
        return (None,) * len(own_images(record))
    if len(record.images) == 1 and record.width is not None and record.height is not None:
        return ((record.width, record.height),)
    return [image_size(path) for path in resolve_images(record.images, record, source.settings.policy)]
