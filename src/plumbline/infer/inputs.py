"""The pictures of an input, each with a key that stays the same from run to run."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbline.data.images import ImagePolicy, is_data_url
from plumbline.data.read import read_records
from plumbline.errors import DataError, Problem, UserError
from plumbline.storage.text import shown_path

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


@dataclass(frozen=True)
class CaptionItem:
    """One picture to describe.

    key: its identity within the input: the name as the input has it, with `#2`, `#3` for later occurrences.
    image: the name as the input has it. folder: what the name is relative to. policy: which files may be opened.
    """

    key: str
    image: str
    folder: Path
    policy: ImagePolicy

    def path(self) -> str:
        """What `load_image` takes. Raises DataError for a name that may not be opened or is not there."""
        return self.policy.reference(self.image, self.folder)


def read_items(source: Path, image_roots: tuple[str, ...] = (), url_allow: tuple[str, ...] = ()) -> list[CaptionItem]:
    """The pictures of a JSONL of records, of a folder (recursively, in order of name), or the one picture.

    image_roots, url_allow: where the pictures of a JSONL may come from, besides its own folder.
    Raises UserError when there is nothing to describe, DataError for a JSONL that breaks the contract.
    """
    if source.is_dir():
        names = (path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if is_picture(path))
        items = keyed(names, source, ImagePolicy(roots=(str(source),), extra_root=None))
    elif source.suffix.lower() in SUFFIXES:
        items = keyed([source.name], source.parent, ImagePolicy(roots=(str(source.parent),), extra_root=None))
    elif source.is_file():
        items = keyed(images_of_jsonl(source), source.parent, policy_of(source, image_roots, url_allow))
    else:
        raise UserError(Problem(shown_path(source), "no such file or folder", "name a JSONL, a folder or a picture"))
    if not items:
        raise UserError(
            Problem(shown_path(source), "there is no picture in it", f"looked for {', '.join(sorted(SUFFIXES))}")
        )
    return items


def policy_of(jsonl: Path, image_roots: Sequence[str] = (), url_allow: tuple[str, ...] = ()) -> ImagePolicy:
    """Where the pictures of a JSONL may come from: its own folder, and what is named in addition."""
    return ImagePolicy((str(jsonl.parent), *image_roots) if image_roots else (), url_allow)


def is_picture(path: Path) -> bool:
    """By suffix; hidden files are left out."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def images_of_jsonl(path: Path) -> Iterator[str]:
    """Every image of every record; a record of several images gives several rows."""
    for record in read_records(path):
        if not record.images:
            raise DataError(
                Problem(record.place, "the record has no picture to describe", "take chats out of the input")
            )
        yield from record.images


def keyed(names: Iterator[str] | list[str], folder: Path, policy: ImagePolicy) -> list[CaptionItem]:
    """Items with unique keys, in the order of the names."""
    key_of = picture_keys()
    return [CaptionItem(key_of(name), name, folder, policy) for name in names]


def picture_keys() -> Callable[[str], str]:
    """Gives the key of each name of an input, called once per picture and in its order."""
    seen: Counter[str] = Counter()

    def key_of(name: str) -> str:
        seen[name] += 1
        key = name if seen[name] == 1 else f"{name}#{seen[name]}"
        return f"data:{digest(key)}" if is_data_url(name) else key

    return key_of


def digest(text: str) -> str:
    """A short name for a long text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
