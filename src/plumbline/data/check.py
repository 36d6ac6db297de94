"""Everything that is wrong with JSONL files: the contract's breaches and what is merely suspicious.

Only the JSONL files are read unless pictures are requested. Findings come as they are met, and a bad line
never hides the next one.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from plumbline.data.content import check_content
from plumbline.data.contract import image_of
from plumbline.data.findings import Finding, Findings
from plumbline.data.images import NO_SUCH_FILE, ImagePolicy, is_data_url, load_image
from plumbline.data.read import Line, collect_findings, open_data, read_lines
from plumbline.errors import DataError
from plumbline.forked import cores, forked_map
from plumbline.storage.text import shown, shown_path

_WINDOW = 64
"""Lines whose pictures may be waiting for their decoding while further lines are read."""


_CHUNK = 256
"""Lines that are handed to a process at once."""
_BYTES_PER_PROCESS = 500_000
"""Checking a smaller file takes less time than starting a process."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """images: also decode every picture. limit: the first N records of each file, None for all."""

    images: bool = False
    limit: int | None = None
    policy: ImagePolicy = field(default_factory=ImagePolicy)


class _Picture(NamedTuple):
    """One named picture and the size its record claims (None: no claim, or several pictures)."""

    where: str
    image: str
    size: tuple[int, int] | None


class _Examined(NamedTuple):
    """One line by itself. digest: hash of its bytes, None when it is no JSON object; objects: how many it lists, None
    where it lists none at all."""

    number: int
    found: list[Finding]
    pictures: list[_Picture]
    digest: int | None
    objects: int | None = None


def _examine(file: str, lines: Sequence[Line]) -> list[_Examined]:
    return [_examine_line(file, line) for line in lines]


def _examine_line(file: str, line: Line) -> _Examined:
    raw, found = collect_findings(line, file)
    if not isinstance(raw, dict):
        return _Examined(line.number, list(found), [], None)
    pictures = list(_named_pictures(raw, found))
    check_content(raw, found)
    objects = raw.get("objects")
    return _Examined(
        line.number, list(found), pictures, hash(line.data), len(objects) if isinstance(objects, list) else None
    )


class Check:
    """One pass over `files`: iterate `findings()` once; `records` counts the records seen so far.

    Raises DataError at once when a file cannot be opened.
    """

    def __init__(self, files: Sequence[str | Path], options: CheckOptions | None = None):
        for file in files:
            open_data(file).close()
        self.files = [str(file) for file in files]
        self.options = options or CheckOptions()
        self.records = 0
        self._pictures: dict[str, tuple[str, int]] = {}  # by absolute name: where each was met first
        self._tellers: Counter[tuple[str, bool]] = (
            Counter()
        )  # by file and whether a record lists objects, or an empty list
        self._contents: dict[tuple[str, int], int] = {}  # by file and hash of the line: the line number

    def findings(self) -> Iterator[Finding]:
        """Every finding, in the order of files and lines."""
        if not self.options.images:
            for found, _ in self._lines():
                yield from found
            return
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            waiting: deque[tuple[Findings, list[Future[Findings]]]] = deque()
            for found, pictures in self._lines():
                tasks = [pool.submit(_open_picture, item, found, self.options.policy) for item in pictures]
                waiting.append((found, tasks))
                if len(waiting) > _WINDOW:
                    yield from _joined(*waiting.popleft())
            for found, tasks in waiting:
                yield from _joined(found, tasks)

    def notes(self) -> list[str]:
        """What is worth knowing of whole files, and no finding; complete behind the last of `findings()`."""
        fix = 'a picture without any has "objects": []'
        return [
            f"{shown_path(file)}: every record has objects: nothing teaches a model to say that there is none ({fix})"
            for file in self.files
            if self._tellers[file, True] and not self._tellers[file, False]
        ]

    def _lines(self) -> Iterator[tuple[Findings, list[_Picture]]]:
        for file in self.files:
            folder = str(Path(file).parent.absolute())
            count = 0
            for examined in self._examined(file):
                count += 1
                self.records += 1
                found = Findings(file, examined.number)
                found += examined.found
                if examined.objects is not None:
                    self._tellers[file, examined.objects > 0] += 1
                self._check_repeats(examined, folder, found)
                yield found, examined.pictures
            if not count and self.options.limit != 0:
                found = Findings(file, 0)
                found.add("empty-file", "", "holds no record")
                yield found, []

    def _examined(self, file: str) -> Iterator[_Examined]:
        """The lines of a file, each checked by itself: in every core, unless there are few or threads at work."""
        size = Path(file).stat().st_size if Path(file).is_file() else 0
        processes = 1 if self.options.images else min(cores(), size // _BYTES_PER_PROCESS)
        lines = islice(read_lines(file), self.options.limit)
        for part in forked_map(partial(_examine, file), iter(lambda: list(islice(lines, _CHUNK)), []), processes):
            yield from part

    def _check_repeats(self, examined: _Examined, folder: str, found: Findings) -> None:
        """What only shows in comparison with other lines."""
        if examined.digest is None:
            return
        first = self._contents.setdefault((found.file, examined.digest), found.line)
        if first != found.line:
            found.add("duplicate-record", "", f"the same as line {first}", "remove one")
        elif examined.pictures:
            self._check_names(examined.pictures, folder, found)

    def _check_names(self, pictures: Sequence[_Picture], folder: str, found: Findings) -> None:
        names: set[str] = set()
        for picture in pictures:
            image = picture.image
            if not self.options.images and not is_data_url(image):
                _check_name(picture, folder, self.options.policy, found)
            name = _absolute(image, folder)
            file, line = self._pictures.setdefault(name, (found.file, found.line))
            if name in names:
                found.add("duplicate-image", picture.where, f"{shown(image)} twice in this record", "name it once")
            elif file != found.file:
                what = f"{shown(image)} is also in {shown_path(file)}:{line}"
                found.add("image-in-two-files", picture.where, what, "keep training and validation pictures apart")
            elif line != found.line and not picture.where.startswith("messages"):  # a picture may have many chats
                found.add("duplicate-image", picture.where, f"{shown(image)} is also in line {line}", "merge them")
            names.add(name)


def _joined(found: Findings, tasks: Iterable[Future[Findings]]) -> Iterator[Finding]:
    yield from found
    for task in tasks:
        yield from task.result()


def _named_pictures(raw: Mapping[str, Any], found: Findings) -> Iterator[_Picture]:
    """The pictures a record names, where the naming itself is sound."""
    broken = {finding.where for finding in found}
    images = raw.get("images")
    size = None
    if isinstance(images, list) and len(images) == 1 and raw.get("width") and not broken & {"width", "height"}:
        size = (raw["width"], raw["height"])
    named = [(f"images[{index}]", image) for index, image in enumerate(images if isinstance(images, list) else ())]
    if isinstance(raw.get("messages"), list) and not any(where.startswith("messages") for where in broken):
        named += _chat_pictures(raw["messages"])
    for where, image in named:
        if where not in broken and isinstance(image, str):
            yield _Picture(where, image, size)
        elif where not in broken and isinstance(image["bytes"], str):
            yield _Picture(where, f"data:image/png;base64,{image['bytes']}", size)


def _chat_pictures(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    return [
        (f"messages[{turn}].content[{index}]", image_of(item))
        for turn, message in enumerate(messages)
        if isinstance(message["content"], list)
        for index, item in enumerate(message["content"])
        if item["type"] != "text"
    ]


def _absolute(image: str, folder: str) -> str:
    """A name by which two mentions of one picture meet; no file is touched."""
    if is_data_url(image):
        return image
    if ".." in image or "./" in image or "//" in image or image.startswith("/"):
        return os.path.normpath(os.path.join(folder, image))  # noqa: PTH118 - Path would keep the ..
    return f"{folder}/{image}"


def _check_name(picture: _Picture, folder: str, policy: ImagePolicy, found: Findings) -> None:
    try:
        policy.check_name(picture.image, folder)
    except DataError as error:
        for problem in error.problems:
            found.add("image-refused", picture.where, f"{problem.where} {problem.what}", problem.fix)


def _open_picture(picture: _Picture, line: Findings, policy: ImagePolicy) -> Findings:
    """Resolve and decode one picture, compare its size with the record's."""
    found = Findings(line.file, line.line)
    code = "image-refused"
    try:
        reference = policy.reference(picture.image, Path(line.file).parent)
        code = "image-unreadable"
        size = load_image(reference, policy.max_pixels).size
    except DataError as error:
        for problem in error.problems:
            kind = "image-missing" if problem.what == NO_SUCH_FILE else code
            found.add(kind, picture.where, f"{problem.where}: {problem.what}", problem.fix)
        return found
    if picture.size is not None and size != picture.size:
        what = f"the record says {picture.size[0]} x {picture.size[1]}, the picture has {size[0]} x {size[1]}"
        fix = (
            "width and height are those after EXIF orientation" if size == picture.size[::-1] else "correct the record"
        )
        found.add("size-mismatch", picture.where, what, fix)
    return found
