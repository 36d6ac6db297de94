"""Which tool wrote a file or folder of annotations, from what is in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from plumbline.errors import DataError, Problem
from plumbline.storage.text import shown_path

_HEAD = 65_536
"""Characters of a file that are looked at: an export of gigabytes says early what it is."""
_LOOKED_AT = 200
"""Files of a folder that are looked at."""
_YOLO_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")


@dataclass(frozen=True)
class Recognised:
    """What annotations are.

    Attributes:
        source: File or folder to read.
        format: As `plumbline data convert --from` has it; None for records of the contract.
        why: What it was recognised by.
    """

    source: Path
    format: str | None
    why: str


def recognise(path: Path) -> Recognised:
    """The format of a file or folder of annotations. Raises DataError for one that is none that is read here."""
    found = _folder(path) if path.is_dir() else _file(path)
    if found is None:
        what = "is in no format that is recognised"
        fix = "COCO, LVIS, LabelMe, Label Studio (JSON), CVAT (XML for images 1.1), YOLO, or records of the contract"
        raise DataError(Problem(shown_path(path), what, fix))
    return found


def labels_among(photos: Path) -> Recognised | None:
    """Annotations that lie with their pictures (LabelMe, YOLO); None for pictures alone."""
    return _folder(photos)


def _folder(path: Path) -> Recognised | None:
    for name in _YOLO_NAMES[:3]:
        if (path / name).is_file() and _names_splits(path / name):
            return Recognised(path / name, _yolo(path), f"{name} names its splits")
    labels = path / "labels" if (path / "labels").is_dir() else path
    texts = [file for file in islice(labels.rglob("*.txt"), _LOOKED_AT) if file.name not in _YOLO_NAMES]
    if any(_numbers(file) for file in texts):
        return Recognised(labels, _yolo(labels), "text files with a class and numbers a line")
    for file in islice(path.rglob("*.json"), _LOOKED_AT):
        if '"shapes"' in _head(file):
            return Recognised(path, "labelme", f"{file.name} has shapes")
    return None


def _file(path: Path) -> Recognised | None:
    head = _head(path)
    if path.suffix in (".yaml", ".yml"):
        return Recognised(path, _yolo(path.parent), "data.yaml") if _names_splits(path) else None
    if path.suffix == ".xml":
        return Recognised(path, "cvat", "<annotations>") if "<annotations" in head else None
    if path.suffix == ".jsonl":
        return _record(path, head)
    return _json(path, head)


def _record(path: Path, head: str) -> Recognised | None:
    """Records of the contract, or rows that `plumbline infer` wrote."""
    try:
        row: Any = json.loads(head.partition("\n")[0])
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    if "status" in row and "image" in row:
        return Recognised(path, "captions", "rows that `plumbline infer` wrote")
    is_record = "images" in row or "messages" in row
    return Recognised(path, None, "records with pictures") if is_record else None


def _json(path: Path, head: str) -> Recognised | None:
    text = head.lstrip("\ufeff \t\r\n")
    if text.startswith("[") and ('"annotations"' in text or '"data"' in text):
        return Recognised(path, "label-studio", "a list of tasks")
    if '"shapes"' in text and '"imagePath"' in _both_ends(path):
        return Recognised(path, "labelme", "shapes of one picture")
    if text.startswith("{") and _has_keys(path, '"images"', '"annotations"'):
        is_lvis = '"neg_category_ids"' in _both_ends(path)
        return Recognised(path, "lvis" if is_lvis else "coco", "images and annotations")
    return None


def _has_keys(path: Path, *keys: str) -> bool:
    """Whether all keys are in a JSON file; read as a stream, since a key may come after gigabytes."""
    missing = set(keys)
    with path.open(encoding="utf-8", errors="replace") as stream:
        tail = ""
        while missing and (chunk := stream.read(1 << 20)):
            missing = {key for key in missing if key not in tail + chunk}
            tail = chunk[-64:]
    return not missing


def _both_ends(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(_HEAD)
        stream.seek(max(0, size - _HEAD))
        return (first + stream.read(_HEAD)).decode("utf-8", "replace")


def _head(path: Path) -> str:
    """The first characters of a file. Raises DataError for one that cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(_HEAD)
    except OSError as error:
        raise DataError(Problem(shown_path(path), f"cannot be read: {error.strerror}")) from error


def _names_splits(path: Path) -> bool:
    lines = _head(path).splitlines()
    return any(line.startswith("names:") for line in lines) and any(
        line.startswith(("train:", "val:", "test:")) for line in lines
    )


def _yolo(folder: Path) -> str:
    """`yolo-obb` where every label has eight numbers (an outline of four corners in all of them is a turned box)."""
    files = [file for file in islice(folder.rglob("*.txt"), _LOOKED_AT) if file.name not in _YOLO_NAMES]
    counts = {count for file in files for count in _numbers(file)}
    return "yolo-obb" if counts == {8} else "yolo"


def _numbers(file: Path) -> set[int]:
    """How many numbers follow the class in the lines of a YOLO file; empty for a text that is none."""
    counts = set()
    for line in _head(file).splitlines()[:_LOOKED_AT]:
        words = line.split()
        if not words:
            continue
        if not words[0].isdecimal() or not all(_is_number(word) for word in words[1:]) or len(words) < 5:
            return set()
        counts.add(len(words) - 1)
    return counts


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
