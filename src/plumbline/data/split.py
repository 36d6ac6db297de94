"""A JSONL shared out among training, validation and test: no picture, near-duplicate or group is in two of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbline.data.clusters import HashedItem, clusters_of, share_out
from plumbline.data.contract import build_record
from plumbline.data.images import ImagePolicy, is_data_url
from plumbline.data.messages import own_images
from plumbline.data.picture_hash import PictureHash, hash_picture
from plumbline.data.read import parse_line, read_lines
from plumbline.data.record import Record
from plumbline.errors import ConfigError, DataError, Problem
from plumbline.forked import cores, forked_map
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown_path

FOLDER = "folder"
"""As a group: the folder of a record's first picture."""
_CHUNK = 64


@dataclass(frozen=True)
class SplitSettings:
    """How a file is shared out.

    Attributes:
        file: JSONL of records, or of chats.
        shares: Path of each part -> its share of the records; together 1.
        group: `folder`, or a key of `metadata`: records that agree in it stay together. None: pictures alone decide.
        near: Whether pictures that nearly agree stay together; costs reading every picture.
        policy: Where pictures may lie.
        seed: Of the draw.
    """

    file: Path
    shares: Mapping[Path, float]
    group: str | None = None
    near: bool = True
    policy: ImagePolicy = field(default_factory=ImagePolicy)
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(share > 0 for share in self.shares.values()) or abs(sum(self.shares.values()) - 1) > 1e-6:
            what = f"the shares are {', '.join(f'{share:g}' for share in self.shares.values())}"
            raise ConfigError(Problem("data split", what, "each above 0, together 1"))
        for path in self.shares:
            check_next_to(self.file, path)


def check_next_to(file: Path, output: Path) -> None:
    """ConfigError unless lines of `file` can be copied into `output` as they are."""
    if output.resolve().parent != file.resolve().parent:
        what = "is in another folder than the records, whose pictures are named relative to it"
        raise ConfigError(Problem(shown_path(output), what, f"write into {shown_path(file.parent)}"))
    if output.resolve() == file.resolve():
        raise ConfigError(Problem(shown_path(output), "is the file that is read", "name another one"))


@dataclass(frozen=True)
class SplitReport:
    """What became of a file.

    Attributes:
        records: Of each part, by file name.
        clusters: How many sets of linked records there are.
        largest: Records of the largest of them.
        linked: Records that share a picture, a near-duplicate or a group with another one.
        classes: Class -> records of each part that hold it, for classes that a part lacks.
    """

    records: Mapping[str, int]
    clusters: int
    largest: int
    linked: int
    classes: Mapping[str, Mapping[str, int]]

    def as_dict(self) -> JsonObject:
        names = ("records", "clusters", "largest", "linked", "classes")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class _Line:
    """A record's line as it is, and what of it decides."""

    data: bytes
    number: int
    images: tuple[str, ...]
    group: str
    classes: frozenset[str]


def split_file(
    settings: SplitSettings, *, dry_run: bool = False, progress: Callable[[int], None] = lambda count: None
) -> SplitReport:
    """Write the parts, every line as it was and in its order; dry_run: only say what would become of it.

    Raises DataError for a line that is no record, a group that a record lacks, and with `near` a picture that cannot be
    read.
    """
    lines = list(_lines(settings))
    if len(lines) < len(settings.shares):
        what = f"holds {len(lines)} records, fewer than parts"
        raise DataError(Problem(shown_path(settings.file), what))
    items = list(_hashed(lines, settings, progress))
    clusters = clusters_of(items)
    labels = {item.key: item.label for item in items}
    named = {str(path): share for path, share in settings.shares.items()}
    part_of = share_out(clusters, labels, settings.seed, named)
    parts = {name: [line for line in lines if part_of[str(line.number)] == name] for name in named}
    if not dry_run:
        for name, own in parts.items():
            write_lines(Path(name), (line.data.decode("utf-8").rstrip("\r\n") for line in own))
    sizes = list(map(len, clusters))
    return SplitReport(
        {Path(name).name: len(own) for name, own in parts.items()},
        len(clusters),
        max(sizes),
        sum(size for size in sizes if size > 1),
        dict(_lacking(parts)),
    )


def _lines(settings: SplitSettings) -> Iterator[_Line]:
    file = str(settings.file)
    for line in read_lines(settings.file):
        raw, found = parse_line(line, file)
        if found:
            raise DataError([finding.problem() for finding in found])
        record = build_record(raw, file, line.number)
        assert line.data is not None
        classes = frozenset(item.desc.split("/")[0] for item in record.objects)
        yield _Line(line.data, line.number, tuple(own_images(record)), _group_of(record, settings), classes)


def _group_of(record: Record, settings: SplitSettings) -> str:
    """What holds a record together with others; its own place when nothing does."""
    if settings.group is None:
        return record.place
    if settings.group == FOLDER:
        images = own_images(record)
        return str(Path(images[0]).parent) if images and not is_data_url(images[0]) else record.place
    value: Any = record.metadata.get(settings.group)
    if value is None:
        raise DataError(
            Problem(record.place, f"metadata.{settings.group} is not there", "every record needs its group")
        )
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _hashed(lines: Sequence[_Line], settings: SplitSettings, progress: Callable[[int], None]) -> Iterator[HashedItem]:
    """The records with their pictures' hashes, and as label the class that is rarest in the whole file."""
    labels = rarest_classes([line.classes for line in lines])
    names = list(dict.fromkeys(image for line in lines for image in line.images))
    hashes = dict(zip(names, _hashes(names, settings, progress), strict=True))
    for line, label in zip(lines, labels, strict=True):
        yield HashedItem(str(line.number), line.group, tuple(hashes[image] for image in line.images), label)


def rarest_classes(classes: Sequence[frozenset[str]]) -> list[str]:
    """Of each record's classes the one that the fewest records have; empty for a record without any."""
    counts = Counter(name for own in classes for name in own)
    return [min(own, key=lambda name: (counts[name], name), default="") for own in classes]


def _hashes(names: Sequence[str], settings: SplitSettings, progress: Callable[[int], None]) -> Iterator[PictureHash]:
    folder = settings.file.parent
    if not settings.near:
        yield from (PictureHash(_digest(name, folder), None) for name in names)
        return
    chunks = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
    for found in forked_map(_Hasher(folder, settings.policy), iter(chunks), cores()):
        progress(len(found))
        yield from found


@dataclass(frozen=True)
class _Hasher:
    """Hashes pictures by name, in any process."""

    folder: Path
    policy: ImagePolicy

    def __call__(self, names: Sequence[str]) -> list[PictureHash]:
        return [self._one(name) for name in names]

    def _one(self, name: str) -> PictureHash:
        if is_data_url(name):
            return PictureHash(_digest(name, self.folder), None)
        try:
            return hash_picture(self.policy.reference(name, self.folder))
        except OSError as error:
            raise DataError(
                Problem(name, f"cannot be read: {error.strerror}", "or leave near-duplicates out")
            ) from error


def _digest(name: str, folder: Path) -> str:
    """Of a picture's name, for pictures that are not opened."""
    text = name if is_data_url(name) else str((folder / name).resolve())
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _lacking(parts: Mapping[str, Sequence[_Line]]) -> Iterator[tuple[str, dict[str, int]]]:
    """Classes that a part does not hold, with the records that hold them elsewhere."""
    counts = {name: Counter(each for line in own for each in line.classes) for name, own in parts.items()}
    for name in sorted({each for own in counts.values() for each in own}):
        mine = {Path(part).name: own[name] for part, own in counts.items()}
        if not all(mine.values()):
            yield name, mine
