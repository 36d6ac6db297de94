"""What a run will meet, found out before any weight is loaded: its pictures, its lengths, its disk.

`plumbline train` and `--dry-run` look at the same things and refuse in the same words.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from plumbline.batch.lengths import PixelLimits
from plumbline.batch.packing import LengthMeter
from plumbline.batch.schedule import SampleKey
from plumbline.batch.tokens import TokenCounter
from plumbline.data.dataset import RecordFile, resolve_images
from plumbline.data.epoch import EpochDataset, Source
from plumbline.data.images import image_size, is_data_url
from plumbline.data.messages import own_images
from plumbline.data.record import Record
from plumbline.errors import ConfigError, DamagedFileError, DataError, Problem
from plumbline.forked import cores, forked_map
from plumbline.model.checkpoints import checkpoint_folders
from plumbline.train.config import TrainRun
from plumbline.train.predicted import trained_parameters, weights_saved
from plumbline.train.preflight import existing_parent
from plumbline.train.progress import phase

logger = logging.getLogger(__name__)

LISTED = 10
"""Problems, and longest records, that are listed by name."""
_OVERLAP_FIX = "take it out of one of the two sets: validation shows something only on data of its own"
_SIZE_FIX = "width and height are those after EXIF orientation: correct the record"
_CHUNK = 200
_LEAST_PER_PROCESS = 500


class Pictured(NamedTuple):
    """A picture of a record. key: its real path, or the digest of one inside the JSONL; size: bytes of its file;
    source: name of the source that it is in."""

    place: str
    key: str
    size: int
    source: str


class Long(NamedTuple):
    """A sample's length, and the place of its record."""

    tokens: int
    place: str


def check_pictures(
    train: EpochDataset, val: EpochDataset | None, *, strict: bool, anchors: Collection[str] = ()
) -> None:
    """Read the header of every picture in use; compare the pictures of both sets.

    anchors: names of sources that hold the base's own answers. Those of the validation may be about training pictures,
    since they ask something else, but not about pictures of the anchors that are trained on.
    strict: raise DataError for a picture that cannot be read, and for one that is in both sets; else warn.
    """
    if val is not None and (common := list(_same_files(train, val))):
        _refuse(common, "training and validation share a file", strict=strict)
        return
    mine, problems = _pictures(train, "reading the headers of the training pictures")
    theirs, more = _pictures(val, "reading the headers of the validation pictures") if val is not None else ([], [])
    problems += more
    if problems:
        _refuse(problems, f"{len(problems)} pictures cannot be read", strict=strict)
    common = list(_in_both(mine, [picture for picture in theirs if picture.source not in anchors]))
    anchored = [[picture for picture in side if picture.source in anchors] for side in (mine, theirs)]
    common += _in_both(*anchored)
    if common:
        _refuse(common, f"{len(common)} validation pictures are training pictures too", strict=strict)


def _same_files(train: EpochDataset, val: EpochDataset) -> Iterator[Problem]:
    """A problem for each validation file that is a training file too, under its own name or another."""
    files = {_digest(path): path for path in _files_of(train)}
    for path in _files_of(val):
        if (twin := files.get(_digest(path))) is not None:
            yield Problem(str(path), f"holds the records of {twin}, which the run trains on", _OVERLAP_FIX)


def _files_of(samples: EpochDataset) -> list[Path]:
    return [source.records.path for source in samples.sources if isinstance(source.records, RecordFile)]


def _digest(path: str | Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def _refuse(problems: Sequence[Problem], what: str, *, strict: bool) -> None:
    """Raise the first problems, with how many there are; without `strict` warn of them."""
    rest = len(problems) - 2 * LISTED
    listed = [*problems[: 2 * LISTED], *([Problem("...", f"{what}; {rest} more are not listed")] if rest > 0 else [])]
    if strict:
        raise DataError(listed)
    logger.warning("%s (custom.strict: false):\n%s", what, "\n".join(map(str, listed)))


def _pictures(samples: EpochDataset, name: str) -> tuple[list[Pictured], list[Problem]]:
    """The pictures of all records in use, and what is wrong with those that cannot be read."""
    parts = [(source, start) for source in samples.sources for start in range(0, source.share.records, _CHUNK)]
    total = sum(source.share.records for source in samples.sources)
    found: list[Pictured] = []
    problems: list[Problem] = []
    processes = min(cores(), total // _LEAST_PER_PROCESS)
    with phase(name, total) as advance:
        # The parts are there when the processes are forked: their numbers are all that has to travel.
        for number, (good, bad) in enumerate(
            forked_map(lambda part: _part(*parts[part]), range(len(parts)), processes)
        ):
            found += good
            problems += bad
            advance((number + 1) * _CHUNK)
    return found, problems


def _part(source: Source, start: int) -> tuple[list[Pictured], list[Problem]]:
    """The pictures of a stretch of a source's records."""
    found: list[Pictured] = []
    problems: list[Problem] = []
    for index in range(start, min(start + _CHUNK, source.share.records)):
        try:
            record = source.records[index]
            for image in own_images(record):
                found += _pictured(image, record, source)
        except DataError as error:
            problems += error.problems
    return found, problems


def _pictured(image: str, record: Record, source: Source) -> Iterator[Pictured]:
    place = record.place
    if image[:8].lower().startswith(("http://", "https://")):
        return  # fetched, and checked, when it is used
    if is_data_url(image):
        yield Pictured(place, hashlib.blake2b(image.encode(), digest_size=16).hexdigest(), -1, source.name)
        return
    (path,) = resolve_images([image], record, source.settings.policy)
    try:
        width, height = image_size(path, source.settings.policy.max_pixels)
    except DataError as error:
        raise DataError(Problem(f"{place}: {p.where}", p.what, p.fix) for p in error.problems) from error
    stated = (record.width, record.height)
    if len(record.images) == 1 and None not in stated and stated != (width, height):
        what = f"the picture is {width} x {height}, the record says {stated[0]} x {stated[1]}"
        raise DataError(Problem(f"{place}: {path}", what, _SIZE_FIX))
    yield Pictured(place, path, Path(path).stat().st_size, source.name)


def _in_both(mine: Iterable[Pictured], theirs: Sequence[Pictured]) -> Iterator[Problem]:
    """A problem for each picture of the second set that is in the first, under its own name or another.

    Only files of equal size are read: pictures of other sizes differ.
    """
    by_key = {picture.key: picture for picture in mine}
    by_size: dict[int, list[Pictured]] = defaultdict(list)
    for picture in by_key.values():
        by_size[picture.size].append(picture)
    digest = cache(_digest)
    for picture in {picture.key: picture for picture in theirs}.values():
        twin = by_key.get(picture.key)
        if twin is None and picture.size >= 0:
            twin = next((other for other in by_size[picture.size] if digest(other.key) == digest(picture.key)), None)
        if twin is not None:
            yield Problem(picture.place, f"its picture is also that of {twin.place}", _OVERLAP_FIX)


def check_lengths(run: TrainRun, samples: EpochDataset, name: str) -> tuple[Long, ...]:
    """The longest samples of the first epoch, measured without their pixels.

    Raises DataError, in a strict run, when some are over `global_max_length` or cannot be measured.
    """
    meter = LengthMeter(samples, *_model_side(run))
    keys = [SampleKey(position, 0, 0) for position in range(len(samples))]
    with phase(name, len(keys)) as advance:
        found = meter.many(keys, advance)
    limit = int(run.upstream["max_length"])
    problems = [item for item in found if isinstance(item, Problem)]
    over = sum(isinstance(item, int) and item > limit for item in found)
    longest = longest_of(samples, [item if isinstance(item, int) else 0 for item in found])
    fix = "raise global_max_length, or lower template.max_pixels"
    problems += [Problem(item.place, f"{item.tokens:,} tokens, the limit is {limit:,}", fix) for item in longest[:over]]
    if over > LISTED:
        what = f"{over} samples are longer than {limit:,} tokens; the longest {LISTED} are listed"
        problems.append(Problem("global_max_length", what))
    if problems:
        _refuse(problems, f"{len(problems)} samples are too long or cannot be measured", strict=run.custom.strict)
    return longest


def longest_of(samples: EpochDataset, tokens: Sequence[int]) -> tuple[Long, ...]:
    """The longest samples of the first epoch; tokens: by position."""
    order = sorted(range(len(tokens)), key=lambda position: -tokens[position])[:LISTED]
    return tuple(Long(tokens[position], samples.draw(position).fitted[0].record.place) for position in order)


def _model_side(run: TrainRun) -> tuple[TokenCounter, PixelLimits]:
    """What counts a sample's tokens. Raises ConfigError where the model's files are damaged."""
    model = str(run.upstream["model"])
    try:
        return TokenCounter(model), PixelLimits.of_folder(model, run.upstream.get("max_pixels"))
    except DamagedFileError as error:
        fix = "it is cut short or damaged: download the checkpoint again"
        raise ConfigError(
            problem if problem.fix else replace(problem, fix=fix) for problem in error.problems
        ) from error


# ----------------------------------------------------------------------------------------------------------------- disk
def checkpoint_bytes(run: TrainRun) -> int:
    """About the size of one checkpoint: what is saved, and two moments of what trains unless `save_only_model`."""
    state = 0 if run.upstream.get("save_only_model") else 2 * 4 * trained_parameters(run)
    return weights_saved(run) + state


def copies_kept(run: TrainRun, steps: int) -> int:
    """The most checkpoints that lie in the run folder at one time."""
    upstream = run.upstream
    strategy = str(upstream.get("save_strategy", "steps"))
    if strategy == "no":
        return 1
    every = upstream.get("save_steps", 500)
    every = max(1, int(every)) if every >= 1 else max(1, math.ceil(every * steps))
    epochs = math.ceil(float(upstream.get("num_train_epochs", 3.0)))
    saves = epochs if strategy == "epoch" else math.ceil(steps / every)
    limit = upstream.get("save_total_limit")
    # Within a limit the best and the one being written are kept besides.
    return max(1, saves) if limit is None else min(max(1, saves), int(limit) + 2)


def check_disk(run: TrainRun, steps: int) -> tuple[int, int]:
    """(bytes of one checkpoint, most of them at a time); raises ConfigError when they do not fit on the disk."""
    folder = Path(run.upstream["output_dir"])
    each, copies = checkpoint_bytes(run), copies_kept(run, steps)
    there = len(list(checkpoint_folders(folder))) if folder.is_dir() else 0
    needed, free = each * max(1, copies - there), shutil.disk_usage(existing_parent(folder)).free
    if needed > free:
        what = f"{copies} checkpoints of about {_gb(each)} need {_gb(needed)}, and {_gb(free)} are free"
        fix = "set training.save_total_limit, save_only_model: true, or name a place on another disk"
        raise ConfigError(Problem("training.output_dir", what, fix))
    return each, copies


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
