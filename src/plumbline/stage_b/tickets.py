"""Stage-A's files read as tickets; a row that is not one ends the reading, with file and line."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import msgspec

from plumbline.data.contract import is_encodable
from plumbline.data.read import Line, parse_line, read_lines
from plumbline.errors import DataError, Problem
from plumbline.stage_b.summary_text import clean_summary
from plumbline.storage.text import shown

LABELS = ("pass", "fail")
MOST_TOLD = 20
"""Problems that are listed; the rest is counted."""
LEARNT = 32
DICTIONARY_BYTES = 4096
"""What all are compressed against, of the first LEARNT tickets: more is slower, and no smaller."""


@dataclass(frozen=True)
class Ticket:
    """A group of photos, what Stage-A said of each, and what a person decided.

    label: empty for a new ticket that nobody has decided. images: paths, the n-th of them is `image_n`. summaries:
    `image_n` -> cleaned text. failed: `image_n` -> why it has none. flags: `image_n: reason` for each summary that
    looks suspicious. filed: the label it had before a person corrected it, empty where nobody did.
    """

    group_id: str
    mission: str
    label: str
    images: tuple[str, ...]
    summaries: Mapping[str, str]
    failed: Mapping[str, str]
    flags: tuple[str, ...] = ()
    filed: str = ""

    @property
    def key(self) -> str:
        return _key(self)


class TicketHead(msgspec.Struct, frozen=True, array_like=True):
    """What a ticket is called and labelled; fields as in Ticket. content: digest of the rest."""

    group_id: str
    mission: str
    label: str
    filed: str
    content: bytes

    @property
    def key(self) -> str:
        return _key(self)


def _key(ticket: Ticket | TicketHead) -> str:
    """Its identity, as in Stage-A: one group id may occur under both labels. Corrections leave it."""
    return "/".join(filter(None, (ticket.mission, ticket.filed or ticket.label, ticket.group_id)))


class _Packed(TicketHead, frozen=True, array_like=True):
    """body: images, summaries, failed and flags, compressed."""

    body: bytes


_HEAD = msgspec.msgpack.Decoder(TicketHead)
_WHOLE = msgspec.msgpack.Decoder(_Packed)


class Tickets(Sequence[Ticket]):
    """Tickets held packed; every access makes a new ticket.

    Eleven thousand tickets of sixteen photos would take 90 MB as objects. Texts of one mission are much alike, so that
    each is compressed against the first ones and takes a sixth of that.
    """

    def __init__(self, packed: Sequence[bytes], dictionary: bytes):
        self._packed, self._dictionary = packed, dictionary

    @classmethod
    def of(cls, tickets: Iterable[Ticket]) -> Tickets:
        """Pack tickets as they come."""
        remaining = iter(tickets)
        first = list(islice(remaining, LEARNT))
        dictionary = b"".join(map(_body, first))[-DICTIONARY_BYTES:]
        return cls([_pack(ticket, dictionary) for ticket in chain(first, remaining)], dictionary)

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, place: int) -> Ticket: ...

    @overload
    def __getitem__(self, place: slice) -> Tickets: ...

    def __getitem__(self, place: int | slice) -> Ticket | Tickets:
        if isinstance(place, slice):
            return Tickets(self._packed[place], self._dictionary)
        return _unpack(self._packed[place], self._dictionary)

    def heads(self) -> Iterator[TicketHead]:
        """Of each ticket, at a fifth of the price of the whole one or less."""
        return map(_HEAD.decode, self._packed)

    def digest(self) -> str:
        """Of what they are called and labelled; 16 hex digits."""
        content = [[head.key, head.label] for head in self.heads()]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]

    def at(self, places: Iterable[int]) -> Tickets:
        """Some of them, in the order of the places."""
        return Tickets([self._packed[place] for place in places], self._dictionary)

    def replaced(self, others: Mapping[int, Ticket]) -> Tickets:
        """With another ticket at some places."""
        packed = list(self._packed)
        for place, ticket in others.items():
            packed[place] = _pack(ticket, self._dictionary)
        return Tickets(packed, self._dictionary)


def _pack(ticket: Ticket, dictionary: bytes) -> bytes:
    body = _body(ticket)
    packer = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS, zdict=dictionary)
    packed = packer.compress(body) + packer.flush()
    names = ticket.group_id, ticket.mission, ticket.label, ticket.filed
    return msgspec.msgpack.encode(_Packed(*names, hashlib.blake2b(body, digest_size=8).digest(), packed))


def _body(ticket: Ticket) -> bytes:
    return msgspec.msgpack.encode([ticket.images, dict(ticket.summaries), dict(ticket.failed), ticket.flags])


def _unpack(data: bytes, dictionary: bytes) -> Ticket:
    packed = _WHOLE.decode(data)
    body = zlib.decompressobj(-zlib.MAX_WBITS, zdict=dictionary).decompress(packed.body)
    images, summaries, failed, flags = msgspec.msgpack.decode(body)
    maps = MappingProxyType(summaries), MappingProxyType(failed)
    return Ticket(packed.group_id, packed.mission, packed.label, tuple(images), *maps, tuple(flags), packed.filed)


def read_tickets(paths: Iterable[str | Path], *, labelled: bool = True) -> Tickets:
    """The tickets of Stage-A files (JSONL), in their order.

    labelled: whether each must have a label; otherwise none has, and one that a file names stays unread.

    Raises DataError with every row that is not a ticket or repeats one, and for a file that is not there.
    """
    problems: list[Problem] = []
    tickets = Tickets.of(_tickets(paths, labelled, problems))
    if problems:
        raise DataError(_at_most(problems))
    return tickets


def _tickets(paths: Iterable[str | Path], labelled: bool, problems: list[Problem]) -> Iterator[Ticket]:
    """The tickets; what is wrong is added to `problems`."""
    first: dict[str, str] = {}
    for path in paths:
        for line in read_lines(path):
            where = f"{path}:{line.number}"
            try:
                ticket = _ticket(line, str(path), labelled)
            except DataError as error:
                problems += error.problems
                continue
            if ticket.key in first:
                what = f"the ticket {shown(ticket.key)} is there already, at {first[ticket.key]}"
                problems.append(Problem(where, what, "keep one row per ticket"))
            first.setdefault(ticket.key, where)
            yield ticket


def _at_most(problems: list[Problem]) -> list[Problem]:
    left = len(problems) - MOST_TOLD
    rest = [Problem("and", f"{left} more like these")] if left > 0 else []
    return problems[:MOST_TOLD] + rest


def _ticket(line: Line, file: str, labelled: bool) -> Ticket:
    row, found = parse_line(line, file)
    if found:
        raise DataError([finding.problem() for finding in found])
    if faults := list(_faults(row, labelled)):
        raise DataError([Problem(f"{file}:{line.number}", fault, "run stage-a again, or mend it") for fault in faults])
    cleaned = {name: clean_summary(text) for name, text in row["per_image"].items()}
    names = sorted(cleaned, key=_number)
    return Ticket(
        row["group_id"],
        row["mission"],
        row["label"] if labelled else "",
        tuple(row["images"]),
        MappingProxyType({name: cleaned[name][0] for name in names}),
        MappingProxyType({name: row["failed"][name] for name in sorted(row.get("failed", {}), key=_number)}),
        tuple(f"{name}: {reason}" for name in names for reason in cleaned[name][1]),
    )


def _faults(row: Any, labelled: bool) -> Iterator[str]:
    """What keeps a JSON value from being a ticket."""
    if not isinstance(row, dict):
        yield f"is {shown(row)}, not a ticket"
        return
    for name in ("group_id", "mission"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            yield f"{name} is {shown(row.get(name))}, not a name"
    if labelled and not row.get("label"):
        yield "has no label (plumbline stage-b judge takes such tickets)"
    elif labelled and row["label"] not in LABELS:
        yield f"label is {shown(row['label'])}, not pass or fail"
    images = row.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(image, str) and image for image in images):
        yield f"images is {shown(images)}, not a list of paths"
        return
    maps = {"per_image": row.get("per_image"), "failed": row.get("failed", {})}
    wrong = [name for name, texts in maps.items() if not _is_texts(texts)]
    yield from (f"{name} is {shown(maps[name])}, not a text per image" for name in wrong)
    if not wrong:
        yield from _image_faults(len(images), [*maps["per_image"], *maps["failed"]])
        names = [name for name in (row.get("group_id"), row.get("mission")) if isinstance(name, str)]
        names += [*images, *maps["failed"].values()]
        if not is_encodable("".join(names)):
            yield from (f"half a surrogate pair in {shown(name)}" for name in names if not is_encodable(name))


def _is_texts(texts: Any) -> bool:
    return isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())


def _image_faults(count: int, names: list[str]) -> Iterator[str]:
    """`image_1` to `image_<count>`, each in one of the two maps."""
    wanted = _wanted(count)
    if len(names) == count and wanted.issuperset(names) and wanted.issubset(names):
        return
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"{', '.join(twice)} has a summary and a failure"
    if missing := sorted(wanted - set(names), key=_number):
        yield f"{', '.join(missing)} has neither a summary nor a failure"
    if extra := sorted(set(names) - wanted):
        yield f"{shown(extra)} is not one of its {count} images"


@lru_cache(maxsize=64)
def _wanted(count: int) -> frozenset[str]:
    return frozenset(f"image_{number}" for number in range(1, count + 1))


def _number(name: str) -> int:
    return int(name.removeprefix("image_"))
