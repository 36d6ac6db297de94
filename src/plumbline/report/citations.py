"""What a reason cites: its sentences, cut where they name a photo or a rule."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from plumbline.storage.text import printable

_SENTENCE = re.compile(r"[^。；;！!？?\n]*[。；;！!？?\n]*")
_DIGITS = "一二三四五六七八九十"
_NUMBER = rf"(\d{{1,4}}|[{_DIGITS}])"
_CITATION = re.compile(
    rf"image[_ ]?(\d{{1,4}})|(?:图片|图像|照片|图)[ _]?{_NUMBER}|第[ ]?{_NUMBER}[ ]?(?:张|幅)(?:图片|照片|图)?"
    r"|[\[【](R\d{1,6})[\]】]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """A piece of a sentence. photo: number of the photo that it names, 0 for none; rule: id of the rule, or empty."""

    text: str
    photo: int = 0
    rule: str = ""


@dataclass(frozen=True)
class Sentence:
    """A sentence in its parts."""

    parts: tuple[Part, ...]

    @property
    def photos(self) -> tuple[int, ...]:
        """The photos that it cites, each once."""
        return tuple(dict.fromkeys(part.photo for part in self.parts if part.photo))

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.rule for part in self.parts if part.rule))


def cite(text: str, photos: int, rules: Collection[str] = ()) -> list[Sentence]:
    """The sentences of a reason about `photos` photos; only photos that exist and rules that are known are cited.

    Together the parts are the text, with what a reader could not see (control and bidi characters) spelt out.
    """
    shown = visible(text)
    return [Sentence(_parts(found, photos, rules)) for found in _SENTENCE.findall(shown) if found]


def visible(text: str) -> str:
    """The text with everything spelt out that would be invisible or turn the text around it; line ends stay."""
    return printable(text, keep="\n\u3000")


def _parts(sentence: str, photos: int, rules: Collection[str]) -> tuple[Part, ...]:
    parts, end = [], 0
    for match in _CITATION.finditer(sentence):
        photo, rule = _photo_of(match), (match[4] or "").upper()
        if not 1 <= photo <= photos and rule not in rules:
            continue
        parts += [Part(sentence[end : match.start()]), Part(match[0], photo, rule)]
        end = match.end()
    return tuple(part for part in (*parts, Part(sentence[end:])) if part.text)


def _photo_of(match: re.Match[str]) -> int:
    number = match[1] or match[2] or match[3] or "0"
    return _DIGITS.index(number) + 1 if number in _DIGITS else int(number)
