"""Records as a map-style dataset without torch: byte offsets in memory, one record parsed on access."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Protocol, overload

from plumbline.data.answer_form import PLAIN_FORM, AnswerForm
from plumbline.data.findings import Finding, data_error
from plumbline.data.fit import Fitted, fit_record
from plumbline.data.images import ImagePolicy, image_size, is_data_url
from plumbline.data.messages import build_turn, own_images, with_images
from plumbline.data.prompts import Prompts, default_prompts
from plumbline.data.read import BOM, collect_findings, open_data, read_lines, reload
from plumbline.data.record import Record
from plumbline.errors import DataError, Problem
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown_path

MAX_SHOWN = 20
"""Problems listed when a file is refused; `plumbline data check` lists them all."""


class RecordFile(Sequence[Record]):
    """A JSONL file as a sequence of records; holds 24 bytes per record and can be pickled to workers.

    Every line is checked when the file is opened: DataError with the first problems of the whole file. Reading a record
    later raises DataError when the file has changed since.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._name = str(self.path)
        self._offsets = array("q")
        self._sizes = array("q")
        self._lines = array("q")
        self._chats = array("q")
        self._stream: BufferedReader | None = None
        self._stamp = (0, 0)
        self._index()

    @property
    def folder(self) -> Path:
        """Where relative image paths start."""
        return self.path.parent

    def __len__(self) -> int:
        return len(self._offsets)

    def chats_among(self, count: int) -> frozenset[int]:
        """Those of the first `count` records that are chats of their own."""
        return frozenset(index for index in self._chats if index < count)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return self.several(range(*index.indices(len(self))))
        return self.several([index])[0]

    def several(self, indices: Sequence[int]) -> list[Record]:
        """The records of several places, which costs less than one after the other."""
        descriptor = self._opened()
        if _stamp(descriptor) != self._stamp:
            raise DataError(Problem(shown_path(self.path), "has changed since it was opened", "start again"))
        # Every line was checked when the file was opened, and it has not changed since.
        lines = (
            os.pread(descriptor, self._sizes[index], self._offsets[index]).removeprefix(BOM).strip(b" \t\r\n")
            for index in indices
        )
        return reload(lines, self._name, [self._lines[index] for index in indices])

    def _opened(self) -> int:
        """A descriptor of this process, kept open: a file is read by position, so that forks may share it."""
        if self._stream is None:
            self._stream = open_data(self.path)
        return self._stream.fileno()

    def __getstate__(self) -> JsonObject:
        return self.__dict__ | {"_stream": None}

    def _index(self) -> None:
        with open_data(self.path) as stream:
            self._stamp = _stamp(stream.fileno())
        problems: list[Finding] = []
        for line in read_lines(self.path):
            raw, found = collect_findings(line, str(self.path))
            problems += found
            if not found and "messages" in raw:
                self._chats.append(len(self._offsets))
            self._offsets.append(line.offset)
            self._sizes.append(line.size)
            self._lines.append(line.number)
        if problems:
            rest = len(problems) - MAX_SHOWN
            tail = [Finding("more", str(self.path), 0, "", f"and {rest} more problems", "run `plumbline data check`")]
            raise data_error(problems[:MAX_SHOWN] + (tail if rest > 0 else []))
        if not self._offsets:
            raise DataError(Problem(shown_path(self.path), "holds no record"))


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """How records become samples. mode: "dense" or "summary". sample_limit: the first N records, None for all."""

    mode: str = "dense"
    prompts: Prompts = field(default_factory=default_prompts)
    emit_norm: str = "norm1000"
    ordering: str = "top_left"
    sample_limit: int | None = None
    policy: ImagePolicy = field(default_factory=ImagePolicy)
    form: AnswerForm = PLAIN_FORM


class PicturePlan(Protocol):
    """What will be done to a picture before the model sees it (`plumbline.augment.plan.Plan`)."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def record(self) -> Record: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a sample.

    reference: resolved path or data URL; place: `file:line` of its record; size: (width, height) in pixels as the
    record has it, None where it does not; plan: its augmentation.
    """

    reference: str
    place: str
    size: tuple[int, int] | None = None
    plan: PicturePlan | None = None

    def shown_size(self) -> tuple[int, int]:
        """(width, height) before the model's grid; opens the header only where the record has no size."""
        if self.plan is not None:
            return self.plan.width, self.plan.height
        return self.size or image_size(self.reference)


@dataclass(frozen=True, slots=True)
class Sample:
    """One chat ready for the template.

    images: resolved paths or data URLs, also inside `messages`, in order; pictures: more about each of them.
    mode: "dense", "summary", "chat" or "irrelevant". record: its record (the first one of a turn with several), its
    geometry inside the picture. objects: how many are to be seen on its pictures as they are shown, whether or not the
    answer tells them. clipped, dropped: how many the picture's own edge touched; left_out: how many were over the most
    that their source wants of a picture. source: name of the data source.
    """

    messages: list[JsonObject]
    images: list[str]
    mode: str
    record: Record
    objects: int = 0
    clipped: int = 0
    dropped: int = 0
    left_out: int = 0
    pictures: tuple[Picture, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the whole dataset holds, counted before training. emptied: records that lost every object; negatives:
    records of each source that say there is none."""

    records: int
    objects: int
    clipped: int
    dropped: int
    emptied: tuple[str, ...]
    negatives: Mapping[str, int] = field(default_factory=dict)


class RecordDataset:
    """Samples of a sequence of records. `item` depends on its arguments alone, never on the calls before it."""

    def __init__(self, records: Sequence[Record], settings: DatasetSettings | None = None):
        self.records = records
        self.settings = settings or DatasetSettings()

    def __len__(self) -> int:
        limit = self.settings.sample_limit
        return len(self.records) if limit is None else min(limit, len(self.records))

    def item(self, index: int) -> Sample:
        """The sample of record `index`.

        Raises IndexError outside the dataset and DataError, naming file and line, for a record that cannot be used.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return build_sample([fit_for(self.records[index], self.settings.mode)], self.settings.mode, self.settings)

    def survey(self) -> Survey:
        """Count what fitting to the picture does to every record, without opening a picture."""
        objects = clipped = dropped = 0
        emptied: list[str] = []
        for index in range(len(self)):
            fitted = fit_record(self.records[index])
            objects += len(fitted.record.objects)
            clipped += len(fitted.clipped)
            dropped += len(fitted.dropped)
            if fitted.dropped and not fitted.record.objects:
                emptied.append(fitted.record.place)
        return Survey(len(self), objects, clipped, dropped, tuple(emptied))


def fit_for(record: Record, mode: str) -> Fitted:
    """The record with its objects inside the picture; DataError when dense mode would have no object left."""
    fitted = fit_record(record)
    if fitted.dropped and not fitted.record.objects and mode == "dense":
        what = f"all {len(fitted.dropped)} objects lie outside the picture of {record.width} x {record.height}"
        raise DataError(Problem(record.place, what, "correct the geometry, or the width and height"))
    return fitted


def build_sample(
    fitted: Sequence[Fitted],
    mode: str,
    settings: DatasetSettings,
    plans: Sequence[Sequence[PicturePlan | None]] = (),
    source: str = "",
) -> Sample:
    """The sample of one record, or of several in one turn.

    plans: per record, the plan of each of its pictures; empty when nothing is augmented.
    """
    records = [item.record for item in fitted]
    if plans:
        shown = [
            record if not own or own[0] is None else own[0].record for record, own in zip(records, plans, strict=True)
        ]
    else:
        shown = records
    chat = build_turn(shown, mode, settings.prompts, settings.emit_norm, settings.ordering, settings.form)
    pictures = tuple(
        picture
        for number, record in enumerate(records)
        for picture in _pictures(record, settings.policy, plans[number] if plans else ())
    )
    chat = with_images(chat, [picture.reference for picture in pictures])
    return Sample(
        messages=chat["messages"],
        images=chat["images"],
        mode="chat" if records[0].messages is not None else mode,
        record=shown[0],
        objects=sum(len(record.objects) for record in shown),
        clipped=sum(len(item.clipped) for item in fitted),
        dropped=sum(len(item.dropped) for item in fitted),
        left_out=sum(item.left_out for item in fitted),
        pictures=pictures,
        source=source,
    )


def _pictures(record: Record, policy: ImagePolicy, plans: Sequence[PicturePlan | None]) -> Iterator[Picture]:
    references = resolve_images(own_images(record), record, policy)
    # A record of several pictures has no size.
    has_size = len(references) == 1 and record.width is not None and record.height is not None
    size = (record.width, record.height) if has_size else None
    for number, reference in enumerate(references):
        yield Picture(reference, record.place, size, plans[number] if plans else None)  # type: ignore[arg-type]


def resolve_images(images: Sequence[str], record: Record, policy: ImagePolicy) -> list[str]:
    """The references that may be opened; DataError naming the record's file and line for the first that may not."""
    folder = Path(record.file).parent
    try:
        return [policy.reference(image, folder) for image in images]
    except DataError as error:
        raise DataError(
            Problem(f"{record.place}: {problem.where}", problem.what, problem.fix) for problem in error.problems
        ) from error


def manifest(
    jsonl: str | Path, policy: ImagePolicy, sample_limit: int | None = None, strict: bool = True
) -> JsonObject:
    """What a run was trained on: digest of the file, size and digest of every picture by its name in the records.

    sample_limit: only the first records count. Raises DataError for a record or, when `strict`, a picture that cannot
    be read (its entry is None otherwise). Data URLs are part of the file's own digest.
    """
    with open_data(jsonl) as stream:
        digest, size = hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()
    records = RecordFile(jsonl)
    images: dict[str, JsonObject | None] = {}
    for index in range(len(records))[:sample_limit]:
        record = records[index]
        for image in own_images(record):
            if image not in images and not is_data_url(image):
                images[image] = _picture_digest(image, record, policy, strict)
    return {"file": str(jsonl), "bytes": size, "sha256": digest, "records": len(records), "images": images}


def _picture_digest(image: str, record: Record, policy: ImagePolicy, strict: bool) -> JsonObject | None:
    try:
        return _file_digest(Path(resolve_images([image], record, policy)[0]))
    except DataError:
        if strict:
            raise
        return None


def _file_digest(path: Path) -> JsonObject:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": digest}
