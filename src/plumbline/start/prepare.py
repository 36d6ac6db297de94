"""Photos and their annotations to checked files for training and validation, in one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.data.check import Check, CheckOptions
from plumbline.data.convert.picture import ConversionReport
from plumbline.data.convert.recognise import Recognised
from plumbline.data.convert.verbs import ConvertOptions, convert_to_records
from plumbline.data.images import ImagePolicy
from plumbline.data.merge import merge_files
from plumbline.data.read import read_records
from plumbline.data.split import FOLDER, SplitReport, SplitSettings, split_file
from plumbline.errors import DataError, Problem
from plumbline.storage.text import shown_path

VAL_SHARE = 0.1
_FOLDERS = 10
"""Folders from which on a folder of photos is taken to be a ticket or a site, whose photos stay together."""
_LARGEST_FOLDER = 0.2
"""Part of the records that the largest folder may hold; else folders are something else, such as years."""


@dataclass(frozen=True)
class PrepareSettings:
    """What is made of annotations.

    Attributes:
        photos: Folder of the pictures.
        folder: Where files are written.
        group: As `data split --group`; None lets the folders of the photos decide.
        keep_empty: Pictures without objects become records that say so.
        seed: Of the split.
    """

    photos: Path
    folder: Path
    group: str | None = None
    keep_empty: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Prepared:
    """What became of the annotations.

    Attributes:
        train, val: The files.
        has_objects: Whether records describe objects; otherwise they hold summaries alone.
        group: What holds records together, as `data split --group` has it; None: near-duplicates alone.
        split: What the split did.
        lost: What was not kept in the conversion; None for records that were read as they are.
        findings: Code -> count of what is wrong with the files.
    """

    train: Path
    val: Path
    has_objects: bool
    group: str | None
    split: SplitReport
    lost: ConversionReport | None = None
    findings: Mapping[str, int] = field(default_factory=Counter)


def prepare(
    labels: Recognised, settings: PrepareSettings, progress: Callable[[int], None] = lambda count: None
) -> Prepared:
    """Write `all.jsonl`, `train.jsonl` and `val.jsonl`, and check the two.

    progress: called with pictures read. Raises DataError for annotations that cannot be read or hold nothing.
    """
    photos, folder = settings.photos, settings.folder
    everything, lost = folder / "all.jsonl", None
    if labels.format is None:
        merge_files([labels.source], everything, [photos])
    else:
        options = ConvertOptions(None if _names_its_pictures(labels) else photos, keep_empty=settings.keep_empty)
        lost = convert_to_records(labels.source, labels.format, everything, options)
    records = list(read_records(everything))
    if len(records) < 2:
        what = f"gave {len(records)} records: too few to train and validate"
        raise DataError(Problem(shown_path(labels.source), what, _why(lost)))
    group = settings.group or _group([record.images[0] for record in records if record.images])
    policy = ImagePolicy(roots=(str(photos),))
    train, val = folder / "train.jsonl", folder / "val.jsonl"
    shares = {train: 1 - VAL_SHARE, val: VAL_SHARE}
    report = split_file(SplitSettings(everything, shares, group, policy=policy, seed=settings.seed), progress=progress)
    check = Check([train, val], CheckOptions(images=True, policy=policy))
    findings = Counter(finding.code for finding in check.findings())
    has_objects = any(record.objects for record in records)
    return Prepared(train, val, has_objects, group, report, lost, findings)


def _names_its_pictures(labels: Recognised) -> bool:
    """YOLO's data.yaml says where its pictures are."""
    return labels.source.suffix in (".yaml", ".yml")


def _why(lost: ConversionReport | None) -> str:
    if lost is None or not lost.lost:
        return "are these the annotations of these photos?"
    reason, count = lost.lost.most_common(1)[0]
    return f"not kept: {count} x {reason} ({lost.examples[reason][0]})"


def _group(images: list[str]) -> str | None:
    """`folder` where the photos lie in many small folders: those of a ticket or a site are alike."""
    sizes = Counter(str(Path(image).parent) for image in images)
    is_many = len(sizes) >= _FOLDERS and max(sizes.values()) <= _LARGEST_FOLDER * len(images)
    return FOLDER if is_many else None
