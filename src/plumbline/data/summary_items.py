"""A summary read item by item: one description of one thing, which a mission asks about or does not.

Three forms are in use: descriptions with their counts (`光纤/有保护措施×2，电线/捆扎整齐×1`), a JSON object of
statistics (`{"统计": [{"类别": ..., "属性": {value: count}}], "备注": [...]}`), and free text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from plumbline.storage.objects import JsonObject
from plumbline.storage.text import normalised

CATEGORY, GENERIC = "类别", "属性"
STATISTICS = frozenset({"统计", "备注", "分组统计"})
"""Keys of a JSON summary, of which it has one at least and no others."""
MAX_DEPTH = 8
MOST_DIGITS = 4
"""Of a count; a longer number is none."""
_COUNTED = re.compile(r"(?P<text>[^×]+?)\s*[×xX*]\s*(?P<count>\d+)\s*(?:[，,、；;。]\s*|$)")
_STRUCTURE, _LEVEL = re.compile(r"[/=]"), re.compile(r"[/,，=:：]")
_CLAUSE = re.compile(r"[，,、；;。！!\n]+")


@dataclass(frozen=True)
class SummaryItem:
    """One thing that a summary says. context: what else names the thing that it is about; the text itself mostly."""

    text: str
    context: str

    def is_about(self, kinds: Iterable[str]) -> bool:
        """Whether it belongs to one of the kinds of things, e.g. BBU安装螺丝.

        In a description a kind of two characters is a level of its own: 光纤 is no 光纤插头, nor a label that names
        one.
        """
        if not _STRUCTURE.search(self.text):
            return any(kind in self.context for kind in kinds)
        levels = [level.strip() for level in _LEVEL.split(self.text)]
        return any(kind == level or (len(kind) > 2 and kind in level) for kind in kinds for level in levels)


def items_of(summary: str) -> list[SummaryItem]:
    """The items of a summary, in its order; of free text each clause is one, about what the whole text is about."""
    statistics = read_statistics(summary)
    if statistics is not None:
        return [SummaryItem(text, text) for text, _ in _flat(statistics, "", 0)]
    counted, rest = _counted(summary)
    free = [clause.strip() for clause in _CLAUSE.split(rest) if clause.strip()]
    return [SummaryItem(text, text) for text in counted] + [SummaryItem(clause, rest) for clause in free]


def count_items(summary: str) -> Counter[str]:
    """How many of each thing a summary says there are: `A×2，B` counts two of A and one of B.

    Marks of full and half width are the same; of JSON statistics a leaf that is a number counts so many.
    """
    statistics = read_statistics(summary)
    found: Counter[str] = Counter()
    if statistics is not None:
        for text, value in _flat(statistics, "", 0):
            is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**MOST_DIGITS
            found[normalised(text)] += value if is_count else 1
        return found
    end = 0
    for match in _COUNTED.finditer(summary):
        if match.start() != end:
            break
        digits = match["count"]
        found[normalised(match["text"])] += int(digits) if len(digits) <= MOST_DIGITS else 1
        end = match.end()
    for clause in _CLAUSE.split(summary[end:]):
        if clause.strip():
            found[normalised(clause)] += 1
    return found


def read_statistics(summary: str) -> JsonObject | None:
    """The object of a JSON summary; None for any other text."""
    if not summary.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(summary)
    except (ValueError, RecursionError):
        return None
    is_summary = isinstance(content, dict) and content and content.keys() <= STATISTICS
    return content if is_summary else None


def _counted(summary: str) -> tuple[list[str], str]:
    """(descriptions that have a count, the text behind them)."""
    found, end = [], 0
    for match in _COUNTED.finditer(summary):
        if match.start() != end:
            break
        found.append(match["text"].strip())
        end = match.end()
    return [text for text in found if text], summary[end:].strip()


def _flat(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """(text, leaf) per leaf, the names above it in front; the category of an entry comes before its attributes."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        category = value.get(CATEGORY)
        path = _joined(path, category) if isinstance(category, str) else path
        rest = {key: inner for key, inner in value.items() if key != CATEGORY}
        if not rest and isinstance(category, str):
            yield path, None
        for key, inner in rest.items():
            is_silent = key == GENERIC or (depth == 0 and key in STATISTICS)
            yield from _flat(inner, path if is_silent else _joined(path, key), depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, path, depth + 1)
    elif isinstance(value, str):
        if value.strip():
            yield _joined(path, value.strip()), value
    elif path and value is not None:
        yield path, value


def _joined(path: str, name: str) -> str:
    """A name below a path; a name that repeats the path's head is kept alone."""
    return name if not path or name.startswith(path) else f"{path}/{name}"
