"""What each byte of an answer is part of: coordinates, descriptions, or the structure that holds them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

KINDS = ("structure", "coordinates", "descriptions")
STRUCTURE, COORDINATES, DESCRIPTIONS = range(len(KINDS))

_PARTS = re.compile(rb'"(?P<text>(?:[^"\\]|\\.)*)"|\[(?P<numbers>[-0-9., ]*)\]')


def byte_kinds(answer: bytes) -> bytearray:
    """A number of `KINDS` for each byte of an answer in UTF-8.

    In a dense answer numbers of lists are coordinates, the texts behind a colon descriptions, the rest structure. Any
    other answer is a description throughout.
    """
    if not answer.lstrip().startswith(b"{"):
        return bytearray([DESCRIPTIONS]) * len(answer)
    kinds = bytearray([STRUCTURE]) * len(answer)
    for part in _PARTS.finditer(answer):
        if part["numbers"] is not None:
            for number in range(*part.span("numbers")):
                if answer[number] not in b", ":
                    kinds[number] = COORDINATES
        elif answer[: part.start()].rstrip()[-1:] == b":":
            start, end = part.span("text")
            kinds[start:end] = bytearray([DESCRIPTIONS]) * (end - start)
    return kinds


def token_kinds(pieces: Sequence[bytes]) -> list[int]:
    """A number of `KINDS` for each token of one or several answers.

    pieces: the tokens' bytes, none for a mark that ends an answer (structure too). A token that covers several kinds
    counts as the first of them that is not structure.
    """
    found: list[int] = []
    for is_text, run in itertools.groupby(pieces, key=bool):
        answer = list(run)
        if not is_text:
            found += [STRUCTURE] * len(answer)
            continue
        kinds, start = byte_kinds(b"".join(answer)), 0
        for piece in answer:
            mine = kinds[start : start + len(piece)]
            found.append(next((kind for kind in mine if kind != STRUCTURE), STRUCTURE))
            start += len(piece)
    return found
