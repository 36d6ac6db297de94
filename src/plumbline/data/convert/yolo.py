"""YOLO's text files, one per picture: boxes, outlines (segmentation) or turned boxes (OBB), in fractions.

The source is a folder of labels, a folder that holds `images` and `labels`, or a `data.yaml` that names its splits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from plumbline.data.convert.picture import AnnotatedPicture, ConversionReport, mapping, text_number
from plumbline.data.images import image_size
from plumbline.data.read import wide_encoding
from plumbline.errors import DataError, Problem
from plumbline.storage.text import printable, shown, shown_path

_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
_SPLITS = ("train", "val", "test")
_MAX_BYTES = 16 * 1024 * 1024


def pictures_folder(labels: Path) -> Path:
    """Where YOLO keeps the pictures of a folder of labels: the same path with `images` for `labels`, or the folder."""
    parts = list(labels.absolute().parts)
    for index in range(len(parts) - 1, 0, -1):
        if parts[index] == "labels":
            parts[index] = "images"
            return Path(*parts)
    return labels


def read_yolo(
    source: Path, images: Path, report: ConversionReport, *, classes: Path | None = None, is_turned: bool = False
) -> Iterator[AnnotatedPicture]:
    """The pictures below `images` in the order of names, with the labels of the same relative name below `source`.

    classes: `data.yaml` or a text file with a name per line; by default looked for in `source` and the two folders
    above. is_turned: eight numbers are the corners of a turned box. Raises DataError when a folder or the names are
    missing.
    """
    for folder, what in ((source, "labels"), (images, "pictures")):
        if not folder.is_dir():
            fix = f"give the folder of {what}" + (" with --images" if what == "pictures" else "")
            raise DataError(Problem(shown_path(folder), f"is no folder of {what}", fix))
    names = _class_names(classes or _find_classes(source))
    used: set[Path] = set()
    for file in _pictures_below(images):
        below = file.relative_to(images)
        labels = (source / below).with_suffix(".txt")
        if not labels.is_file():
            labels = _swapped(file, "images", "labels").with_suffix(".txt")
        used.add(labels.absolute())
        if (picture := _read_picture(below.as_posix(), file, labels, names, is_turned, report)) is not None:
            yield picture
    for labels in sorted(source.rglob("*.txt")):
        is_list = labels.name in _CLASS_FILES or labels.with_suffix("").name in _SPLITS
        if not is_list and labels.absolute() not in used and not _has_picture(labels):
            report.lose("labels without a picture", str(labels))


def read_yolo_splits(
    file: Path, report: ConversionReport, *, classes: Path | None = None, is_turned: bool = False
) -> Iterator[AnnotatedPicture]:
    """The pictures of the splits that a `data.yaml` names, with their names relative to `splits_folder`.

    A split is a folder of pictures, a text file with one picture per line, or a list of these. The split is kept as
    metadata. Raises DataError for a file that names none, or one that is not there.
    """
    names, base = _class_names(classes or file), splits_folder(file)
    seen: set[Path] = set()
    for split, places in _splits(file).items():
        for place in places:
            for picture_file in _pictures_of(place, file, base):
                path = Path(os.path.normpath(picture_file.absolute()))
                if path in seen:
                    report.lose("picture in several splits", f"{path}: {split}")
                    continue
                seen.add(path)
                labels = _swapped(path, "images", "labels").with_suffix(".txt")
                name = Path(os.path.relpath(path, base.absolute())).as_posix()
                picture = _read_picture(name, path, labels, names, is_turned, report)
                if picture is not None:
                    picture.metadata["split"] = split
                    yield picture


def splits_folder(file: Path) -> Path:
    """The folder that a `data.yaml` counts from: its `path`, relative to the file; else the file's own folder."""
    path = mapping(_yaml(file)).get("path")
    if isinstance(path, str) and (file.parent / path).is_dir():
        return file.parent / path
    return file.parent


def _splits(file: Path) -> dict[str, list[str]]:
    raw = mapping(_yaml(file))
    found = {}
    for split in _SPLITS:
        places = raw.get(split)
        texts = [text for text in (places if isinstance(places, list) else [places]) if isinstance(text, str) and text]
        if texts:
            found[split] = texts
    if not found:
        raise DataError(Problem(shown_path(file), f"names none of {', '.join(_SPLITS)}", "train: images/train"))
    return found


def _pictures_of(place: str, file: Path, base: Path) -> list[Path]:
    """The pictures of one entry of a split."""
    entry = next((folder / place for folder in (base, file.parent) if (folder / place).exists()), base / place)
    if entry.is_dir():
        return _pictures_below(entry)
    if not entry.is_file():
        raise DataError(Problem(shown_path(file), f"{shown(place)} is not there, looked for at {entry}", "correct it"))
    return [entry.parent / line.strip() for line in _text(entry).splitlines() if line.strip()]


def _pictures_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)


def _swapped(file: Path, part: str, other: str) -> Path:
    """The same path with its last folder called `part` called `other`; the path itself where there is none."""
    parts = list(file.absolute().parts)
    places = [index for index, name in enumerate(parts[:-1]) if name == part]
    if places:
        parts[places[-1]] = other
    return Path(*parts)


def _has_picture(labels: Path) -> bool:
    """Whether the picture of labels lies where the convention has it, outside of the folder that is read."""
    picture = _swapped(labels, "labels", "images")
    return any(picture.with_suffix(suffix).is_file() for suffix in _SUFFIXES) if picture != labels.absolute() else False


def _read_picture(
    name: str, file: Path, labels: Path, names: dict[int, str], is_turned: bool, report: ConversionReport
) -> AnnotatedPicture | None:
    """A picture with its labels; None for one that cannot be opened."""
    picture = AnnotatedPicture(name, str(labels if labels.is_file() else file))
    try:
        picture.width, picture.height = image_size(file)
    except DataError as error:
        report.lose("picture that cannot be read", str(error.problems[0]))
        return None
    if labels.is_file():
        _read(picture, labels, names, is_turned, report)
    return picture


_CLASS_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")


def _find_classes(source: Path) -> Path:
    for folder in (source, *list(source.absolute().parents)[:2]):
        for name in _CLASS_FILES:
            if (folder / name).is_file():
                return folder / name
    fix = "give --classes data.yaml, or a text file with one name per line"
    raise DataError(
        Problem(shown_path(source), f"no {' or '.join(_CLASS_FILES)} here or in the two folders above", fix)
    )


def _class_names(file: Path) -> dict[int, str]:
    if file.suffix not in (".yaml", ".yml"):
        return {index: line.strip() for index, line in enumerate(_text(file).splitlines())}
    names = mapping(_yaml(file)).get("names")
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    found = {int(key): str(name) for key, name in pairs if isinstance(key, int) or str(key).isdecimal()}
    if not found:
        raise DataError(Problem(shown_path(file), "has no `names`", "names: [first, second] or {0: first, 1: second}"))
    return found


def _yaml(file: Path) -> Any:
    text = _text(file)
    try:
        return yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise _unread(file, error) from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise _unread(file, error) from error


def _unread(file: Path, error: Exception) -> DataError:
    return DataError(Problem(shown_path(file), f"cannot be read: {printable(str(error))[:200]}"))


def _read(
    picture: AnnotatedPicture, labels: Path, names: dict[int, str], is_turned: bool, report: ConversionReport
) -> None:
    try:
        if labels.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        data = labels.read_bytes()
        if encoding := wide_encoding(data[:4]):
            raise ValueError(f"this file is {encoding}, not UTF-8: iconv -f {encoding} -t UTF-8")
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        report.lose("labels that cannot be read", f"{labels}: {printable(str(error))[:100]}")
        return
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"line {number}"
        place = f"{labels}: {where}"
        index = text_number(fields[0])
        desc = names.get(int(index)) if index.is_integer() else None
        if desc is None:
            report.lose("label of an unknown class", f"{place}: {shown(fields[0])}")
            continue
        form = _form(len(fields) - 1, is_turned)
        if form is None:
            report.lose("line with a count of numbers that is none of the format's", f"{place}: {shown(line)}")
            continue
        if len(fields) == 6 and not is_turned:
            report.lose("confidence of a detection", place)
            fields = fields[:5]
        kind, numbers = form, _pixels(fields[1:], picture, form)
        picture.add(kind, numbers, desc, where, report)


def _form(count: int, is_turned: bool) -> str | None:
    if is_turned:
        return "quad" if count == 8 else None
    if count in (4, 5):
        return "bbox_2d"
    return "poly" if count >= 6 and count % 2 == 0 else None


def _pixels(fields: list[str], picture: AnnotatedPicture, form: str) -> list[float]:
    width, height = picture.width or 0, picture.height or 0
    values = [text_number(text) * (height if index % 2 else width) for index, text in enumerate(fields)]
    if form != "bbox_2d":
        return values
    x, y, w, h = values
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
