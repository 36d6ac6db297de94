"""Tickets on disk: root/mission/{审核通过|审核不通过}/group/*.jpg, new ones root/mission/group/*.jpg, other inputs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbline.data.images import ImagePolicy
from plumbline.data.keyed import keyed_generator
from plumbline.infer.inputs import CaptionItem, is_picture, read_items

LABELS = {"审核通过": "pass", "审核不通过": "fail"}
"""Folder of a verdict -> the verdict."""
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class PhotoTicket:
    """A group of photos with its label (`pass`, `fail`; empty for a new one). images: names from the input's root, in
    natural order."""

    mission: str
    label: str
    group_id: str
    images: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its identity: one group id may occur under both labels."""
        return "/".join(filter(None, (self.mission, self.label, self.group_id)))


@dataclass(frozen=True)
class Photo:
    """One picture to summarise. mission: whose prompt is used; empty without one; ticket: None outside of tickets."""

    item: CaptionItem
    mission: str
    ticket: PhotoTicket | None = None

    @property
    def key(self) -> str:
        return self.item.key


@dataclass(frozen=True)
class Input:
    """What an input holds. tickets: empty where it has no ticket layout; notes: what was left out, and why."""

    photos: tuple[Photo, ...]
    tickets: tuple[PhotoTicket, ...]
    notes: tuple[str, ...] = ()


def read_input(
    source: Path,
    missions: Sequence[str],
    image_roots: tuple[str, ...] = (),
    url_allow: tuple[str, ...] = (),
    known: Collection[str] = (),
) -> Input:
    """The photos of an input, ticket by ticket where it is laid out so.

    Args:
        source: Folder, picture or JSONL.
        missions: Only these; empty means all.
        image_roots: As `custom.image_roots`.
        url_allow: Hosts that pictures may be fetched from.
        known: Missions that there are. A folder of that name without folders of verdicts holds new tickets.

    Raises UserError where there is nothing, DataError for a JSONL that breaks the contract.
    """
    folders = mission_folders(source, {*known, *missions}) if source.is_dir() else []
    if not folders:
        items = read_items(source, image_roots, url_allow)
        mission = missions[0] if missions else ""
        return Input(tuple(Photo(item, mission) for item in items), ())
    root = source.parent if folders == [source] else source
    policy = ImagePolicy(roots=(str(root),), extra_root=None)
    tickets: list[PhotoTicket] = []
    notes: list[str] = []
    for folder in folders:
        if not missions or folder.name in missions:
            found, left_out = _tickets_of(folder, root)
            tickets += found
            notes += left_out
    photos = [
        Photo(CaptionItem(image, image, root, policy), ticket.mission, ticket)
        for ticket in tickets
        for image in ticket.images
    ]
    return Input(tuple(photos), tuple(tickets), tuple(notes))


def mission_folders(source: Path, known: Collection[str] = ()) -> list[Path]:
    """The folders of missions: `source` itself, or those in it; none where it is not laid out so.

    Such a folder holds folders of verdicts, or has the name of a known mission and holds groups of photos.
    """

    def is_mission(folder: Path) -> bool:
        return _has_labels(folder) or (folder.name in known and _has_groups(folder))

    if is_mission(source):
        return [source]
    return [folder for folder in natural(source.iterdir()) if folder.is_dir() and is_mission(folder)]


def sample_tickets(found: Input, groups: int | None, seed: int) -> Input:
    """At most `groups` tickets of each mission, drawn by `seed`, in their order."""
    if groups is None or not found.tickets:
        return found
    chosen: set[str] = set()
    for mission in {ticket.mission for ticket in found.tickets}:
        keys = [ticket.key for ticket in found.tickets if ticket.mission == mission]
        order = keyed_generator(seed, 0, 0, f"groups/{mission}").permutation(len(keys))
        chosen |= {keys[place] for place in order[:groups]}
    photos = tuple(photo for photo in found.photos if photo.ticket is not None and photo.ticket.key in chosen)
    return Input(photos, tuple(ticket for ticket in found.tickets if ticket.key in chosen), found.notes)


def of_mission(found: Input, mission: str) -> Input:
    """What belongs to one mission."""
    photos = tuple(photo for photo in found.photos if photo.mission == mission)
    return Input(photos, tuple(ticket for ticket in found.tickets if ticket.mission == mission))


def natural(paths: Iterator[Path]) -> list[Path]:
    """By name, numbers in it by their value: photo2 before photo10."""
    return sorted(paths, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """A key to sort names by; digits count as numbers and come before text."""
    parts = _NUMBER.split(name)
    return [(0, int(part)) if number % 2 else (1, part) for number, part in enumerate(parts) if part or number % 2]


def _has_labels(folder: Path) -> bool:
    return any((folder / label).is_dir() for label in LABELS)


def _has_groups(folder: Path) -> bool:
    return any(is_picture(path) for path in folder.glob("*/*"))


def _tickets_of(mission: Path, root: Path) -> tuple[list[PhotoTicket], list[str]]:
    tickets: list[PhotoTicket] = []
    notes: list[str] = []
    folders = {mission / name: label for name, label in LABELS.items()} if _has_labels(mission) else {mission: ""}
    for folder, label in folders.items():
        if not folder.is_dir():
            continue
        entries = natural(folder.iterdir())
        if loose := sum(is_picture(entry) for entry in entries):
            notes.append(f"{folder}: {loose} pictures lie outside of any group and are left out")
        for group in (entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")):
            pictures = [path for path in natural(group.iterdir()) if is_picture(path)]
            if deeper := sum(is_picture(path) for path in group.glob("*/**/*")):
                notes.append(f"{group}: {deeper} pictures in folders of their own are left out")
            if not pictures:
                notes.append(f"{group}: a group without a picture is left out")
                continue
            names = tuple(path.relative_to(root).as_posix() for path in pictures)
            tickets.append(PhotoTicket(mission.name, label, group.name, names))
    return tickets, notes
