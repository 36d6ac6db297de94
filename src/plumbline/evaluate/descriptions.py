"""What of a description is right: its levels from the left, its attributes, each key of `key=value` parts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from plumbline.data.stats import desc_levels
from plumbline.storage.text import normalised

MAX_LEVELS = 4
"""Levels that are measured apart; deeper ones count as attributes only."""
_PARTS = re.compile(r"[/,、;]")
_KEY = re.compile(r"^([^:=]{1,20})[:=](.+)$")


@lru_cache(65536)
def class_of(desc: str) -> str:
    """The first level, as it is compared and shown."""
    return normalised(desc_levels(unicodedata.normalize("NFKC", desc))[0])


@dataclass(frozen=True)
class DescriptionCounts:
    """Of one matched pair.

    Attributes:
        levels: (levels of the truth, of these right): a level is right when it and all before it are.
        attributes: (right, annotated, described) attributes: every part behind the class.
        keys: (key, whether right) of the annotated `key=value` and `key:value` parts.
        is_exact: The whole description is right.
    """

    levels: tuple[tuple[int, int], ...]
    attributes: tuple[int, int, int]
    keys: tuple[tuple[str, bool], ...]
    is_exact: bool


@lru_cache(65536)
def compare_descriptions(truth: str, found: str) -> DescriptionCounts:
    """Compare what was described with what is annotated."""
    mine, theirs = (unicodedata.normalize("NFKC", text) for text in (truth, found))
    levels_t, levels_f = ([normalised(level) for level in desc_levels(text)][:MAX_LEVELS] for text in (mine, theirs))
    levels = tuple((1, int(levels_f[: depth + 1] == levels_t[: depth + 1])) for depth in range(len(levels_t)))
    parts_t, parts_f = (Counter(_parts(text)) for text in (mine, theirs))
    right = sum((parts_t & parts_f).values())
    keys = tuple((normalised(match[1]), part in parts_f) for part in parts_t if (match := _KEY.match(part)) is not None)
    attributes = (right, parts_t.total(), parts_f.total())
    return DescriptionCounts(levels, attributes, keys, normalised(mine) == normalised(theirs))


def _parts(desc: str) -> list[str]:
    """Everything behind the class, part by part."""
    return [part for part in map(normalised, _PARTS.split(desc)[1:]) if part]
