"""What `plumbline data convert` does: a source in another tool's format to the contract, or the contract to COCO."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from plumbline.data.contract import find_breaches
from plumbline.data.convert.picture import AnnotatedPicture, ConversionReport
from plumbline.data.findings import Findings
from plumbline.data.images import image_size
from plumbline.data.record import SCHEMA
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, DataError, Problem
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import next_command, shown_path

EMPTY = "picture without objects"
FORMATS = ("coco", "lvis", "labelme", "label-studio", "cvat", "yolo", "yolo-obb", "captions")


@dataclass(frozen=True)
class ConvertOptions:
    """images: the folder of the pictures. classes: names for YOLO. boxes: outlines become upright boxes.

    overwrite: an output that is there already is replaced. keep_empty: a picture without objects becomes a record with
    `objects: []`.
    """

    images: Path | None = None
    classes: Path | None = None
    boxes: bool = False
    overwrite: bool = False
    keep_empty: bool = False


def convert(
    source: Path, source_format: str | None, target_format: str, output: Path, options: ConvertOptions, *, as_json: bool
) -> int:
    """Convert and print the report: 0, or 3 where something could not be kept.

    Raises DataError or DamagedFileError before anything is written.
    """
    if (target_format == "coco") != (source_format is None):
        fix = "to the contract: --from FORMAT; from the contract to COCO: --to coco without --from"
        raise DataError(Problem("--from", "names one way, --to the other", fix))
    if not source.exists():
        raise DataError(Problem(shown_path(source), "no such file or folder"))
    if output.exists() and output.samefile(source):
        raise DataError(Problem(shown_path(output), "is the source", "give another --output"))
    if output.exists() and not options.overwrite:
        raise DataError(Problem(shown_path(output), "exists already", "give another --output, or --overwrite"))
    if not output.absolute().parent.is_dir():
        raise DataError(Problem(shown_path(output.parent), "no such folder", "make it first"))
    if source_format is None:
        from plumbline.data.convert.coco_writer import write_coco

        report = ConversionReport()
        write_coco(source, output, report)
    else:
        report = convert_to_records(source, source_format, output, options)
    _print(report, source, output, as_json)
    return EXIT_FINDINGS if report.lost else EXIT_OK


def convert_to_records(source: Path, source_format: str, output: Path, options: ConvertOptions) -> ConversionReport:
    """Write the records of a source in another tool's format, and return what was kept and lost.

    Raises DataError or DamagedFileError, and then writes nothing.
    """
    report = ConversionReport()
    pictures, images = _open(source, source_format, options, report)
    write_lines(output, _lines(_with_progress(pictures, report), images, output, options, report))
    return report


def _open(
    source: Path, source_format: str, options: ConvertOptions, report: ConversionReport
) -> tuple[Iterator[AnnotatedPicture], Path | None]:
    """The pictures of the source and the folder that their names are relative to, None when it was not given."""
    is_folder_format = source_format in ("yolo", "yolo-obb")
    if source.is_dir() and not is_folder_format and source_format != "labelme":
        raise DataError(Problem(shown_path(source), "is a folder", f"{source_format} is one file"))
    if is_folder_format:
        from plumbline.data.convert.yolo import pictures_folder, read_yolo, read_yolo_splits, splits_folder

        is_turned = source_format == "yolo-obb"
        if source.suffix in (".yaml", ".yml") and source.is_file():
            if options.images is not None:
                raise DataError(Problem("--images", "data.yaml names its pictures itself", "leave it out"))
            return read_yolo_splits(source, report, classes=options.classes, is_turned=is_turned), splits_folder(source)
        images = options.images or pictures_folder(source)
        return read_yolo(source, images, report, classes=options.classes, is_turned=is_turned), images
    if options.images is not None and not options.images.is_dir():
        raise DataError(Problem(shown_path(options.images), "no such folder", "give the folder of the pictures"))
    if options.classes is not None:
        raise DataError(Problem("--classes", f"{source_format} carries its own names", "leave it out"))
    return _reader(source_format, options.images)(source, report), options.images


def _reader(source_format: str, images: Path | None) -> Callable[[Path, ConversionReport], Iterator[AnnotatedPicture]]:
    from plumbline.data.convert.captions import read_captions
    from plumbline.data.convert.coco import read_coco
    from plumbline.data.convert.cvat import read_cvat
    from plumbline.data.convert.label_studio import read_label_studio
    from plumbline.data.convert.labelme import read_labelme

    readers: dict[str, Callable[[Path, ConversionReport], Iterator[AnnotatedPicture]]] = {
        "coco": read_coco,
        "lvis": partial(read_coco, is_lvis=True),
        "labelme": read_labelme,
        "label-studio": read_label_studio,
        "cvat": partial(read_cvat, images=images),
        "captions": read_captions,
    }
    return readers[source_format]


def _lines(
    pictures: Iterator[AnnotatedPicture],
    images: Path | None,
    output: Path,
    options: ConvertOptions,
    report: ConversionReport,
) -> Iterator[str]:
    """The records as JSON; what the contract refuses is counted and left out."""
    folder = output.absolute().parent
    for picture, is_whole in _with_losses(pictures, report):
        report.pictures += 1
        if not picture.name:
            report.lose("picture without a file name", picture.place)
            continue
        file = None if images is None or "://" in picture.name else images / picture.name
        if file is not None and not _is_there(file):
            report.lose("picture that is not in the folder of pictures", f"{picture.place}: {file}")
            continue
        if file is not None and picture.width is None and (picture.objects or options.keep_empty):
            try:
                picture.width, picture.height = image_size(file)
            except DataError as error:
                report.lose("picture that cannot be read", str(error.problems[0]))
                continue
        is_negative = options.keep_empty and not picture.objects and is_whole
        if not picture.objects and picture.summary is None and not is_negative:
            report.lose(EMPTY, picture.place)
            continue
        report.negatives += is_negative
        if options.boxes:
            picture.objects = [_as_box(item, picture.place, report) for item in picture.objects]
        name = picture.name if file is None else Path(os.path.relpath(file.absolute(), folder)).as_posix()
        row = _row(picture, name, is_negative=is_negative)
        found = Findings(picture.place, 0)
        find_breaches(row, found)
        if found:
            report.lose(f"picture whose record breaks the contract ({found[0].code})", str(found[0].problem()))
            continue
        report.records += 1
        report.objects += len(picture.objects)
        yield json.dumps(row, ensure_ascii=False)


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # such as a name that is too long
        return False


def _with_losses(
    pictures: Iterator[AnnotatedPicture], report: ConversionReport
) -> Iterator[tuple[AnnotatedPicture, bool]]:
    """Each picture, and whether it was read without a loss: one that lost an object is no picture without objects."""
    before = report.lost.total()
    for picture in pictures:
        yield picture, report.lost.total() == before
        before = report.lost.total()


def _row(picture: AnnotatedPicture, image: str, *, is_negative: bool) -> JsonObject:
    row: JsonObject = {"schema": SCHEMA, "images": [image]}
    if picture.width is not None and picture.height is not None:
        row |= {"width": picture.width, "height": picture.height}
    if picture.objects or is_negative:
        row["objects"] = picture.objects
    if picture.summary is not None:
        row["summary"] = picture.summary
    return row | ({"metadata": picture.metadata} if picture.metadata else {})


def _as_box(item: JsonObject, place: str, report: ConversionReport) -> JsonObject:
    kind = next((kind for kind in ("quad", "poly") if kind in item), None)
    if kind is None:
        return item
    report.change("outline, written as its box", place)
    xs, ys = item[kind][::2], item[kind][1::2]
    return {"bbox_2d": [min(xs), min(ys), max(xs), max(ys)], "desc": item["desc"]}


def _with_progress(pictures: Iterator[AnnotatedPicture], report: ConversionReport) -> Iterator[AnnotatedPicture]:
    """The same pictures; on a terminal a line on stderr shows the progress."""
    if not sys.stderr.isatty():
        yield from pictures
        return
    from rich.console import Console

    with Console(stderr=True).status("converting") as status:
        for picture in pictures:
            if report.pictures % 100 == 0:
                status.update(f"converting: {report.pictures:,} pictures, {report.objects:,} objects")
            yield picture


def _print(report: ConversionReport, source: Path, output: Path, as_json: bool) -> None:
    if as_json:
        row = {"source": str(source), "output": str(output)} | report.as_dict()
        print(json.dumps(row, ensure_ascii=True))
        return
    print_losses(report)
    without = f" ({report.negatives:,} without objects)" if report.negatives else ""
    print(
        f"{report.pictures:,} pictures -> {report.records:,} records{without}, "
        f"{report.objects:,} objects: {shown_path(output)}"
    )
    if output.suffix == ".jsonl":
        print(next_command("data", "check", output, "--images"))


def print_losses(report: ConversionReport) -> None:
    """Print what was not kept or took another form, with examples."""
    for title, counts in (("Not kept", report.lost), ("Kept in another form", report.changed)):
        if counts:
            print(f"{title}:")
        for reason, count in counts.most_common():
            print(f"  {count:>8,}  {reason}")
            for place in report.examples[reason]:
                print(f"            {place}")
    if report.lost[EMPTY]:
        print("  --keep-empty keeps pictures without objects: what was lost aside, they say that nothing is there")
