"""YOLO's text files, one per picture: boxes, outlines (segmentation) or turned boxes (OBB), in fractions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from plumbline.data.convert.picture import Picture, Report, text_number
from plumbline.data.findings import printable, shown
from plumbline.data.images import image_size
from plumbline.data.read import shown_path
from plumbline.errors import DataError, Problem

_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
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
    source: Path, images: Path, report: Report, *, classes: Path | None = None, is_turned: bool = False
) -> Iterator[Picture]:
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
    pictures = sorted(file for file in images.rglob("*") if file.suffix.lower() in _SUFFIXES)
    used = set()
    for file in pictures:
        below = file.relative_to(images)
        labels = (source / below).with_suffix(".txt")
        picture = Picture(below.as_posix(), str(labels if labels.is_file() else file))
        try:
            picture.width, picture.height = image_size(file)
        except DataError as error:
            report.lose("picture that cannot be read", str(error.problems[0]))
            used.add(labels)
            continue
        if labels.is_file():
            used.add(labels)
            _read(picture, labels, names, is_turned, report)
        yield picture
    for labels in sorted(set(source.rglob("*.txt")) - used):
        if labels.name not in _CLASS_FILES:
            report.lose("labels without a picture", str(labels))


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
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix not in (".yaml", ".yml"):
            return {index: line.strip() for index, line in enumerate(text.splitlines())}
        raw: Any = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(Problem(shown_path(file), f"cannot be read: {printable(str(error))[:200]}")) from error
    names = raw.get("names") if isinstance(raw, dict) else None
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    found = {key: str(name) for key, name in pairs if isinstance(key, int)}
    if not found:
        raise DataError(Problem(shown_path(file), "has no `names`", "names: [first, second] or {0: first, 1: second}"))
    return found


def _read(picture: Picture, labels: Path, names: dict[int, str], is_turned: bool, report: Report) -> None:
    try:
        if labels.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
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


def _pixels(fields: list[str], picture: Picture, form: str) -> list[float]:
    width, height = picture.width or 0, picture.height or 0
    values = [text_number(text) * (height if index % 2 else width) for index, text in enumerate(fields)]
    if form != "bbox_2d":
        return values
    x, y, w, h = values
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
