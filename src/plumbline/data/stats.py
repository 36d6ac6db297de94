"""What a JSONL file holds: counts, kinds, classes, sizes. One pass, no picture opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plumbline.data.contract import geometry_of
from plumbline.data.findings import data_error
from plumbline.data.read import collect_findings, read_lines
from plumbline.storage.objects import JsonObject

_HISTOGRAM = ((0, 0), (1, 1), (2, 4), (5, 9), (10, 19), (20, 49), (50, 99), (100, None))


@dataclass
class Stats:
    """Counts over a file. negatives: records that say there is no object (`objects: []`). levels: how deep the
    descriptions are; classes: their first level or `类别=` value."""

    records: int = 0
    chats: int = 0
    summaries: int = 0
    negatives: int = 0
    objects: int = 0
    images: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    levels: Counter[int] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    objects_per_record: Counter[str] = field(default_factory=Counter)

    def add(self, raw: Mapping[str, Any]) -> None:
        """Count one record, given as the JSON of its line."""
        objects = raw.get("objects") or ()
        self.records += 1
        self.chats += raw.get("messages") is not None
        self.summaries += raw.get("summary") is not None
        self.negatives += raw.get("objects") == []
        self.objects += len(objects)
        self.images += len(raw.get("images") or ())
        self.objects_per_record[_bin(len(objects))] += 1
        if raw.get("width") is not None:
            self.sizes[f"{raw['width']}x{raw['height']}"] += 1
        for item in objects:
            levels = desc_levels(item["desc"])
            self.kinds[geometry_of(item)[0]] += 1
            self.levels[len(levels)] += 1
            self.classes[levels[0]] += 1

    def as_dict(self, top: int | None = None) -> JsonObject:
        """Plain values for JSON; only the `top` most frequent classes and sizes."""
        row = asdict(self)
        for name in ("kinds", "classes", "sizes"):
            row[name] = dict(getattr(self, name).most_common(top))
        row["levels"] = {str(level): self.levels[level] for level in sorted(self.levels)}
        row["objects_per_record"] = {name: self.objects_per_record[name] for name in map(_name, _HISTOGRAM)}
        row["summary_share"] = self.summaries / self.records if self.records else 0.0
        row["distinct"] = {"classes": len(self.classes), "sizes": len(self.sizes)}
        return row


def collect_stats(file: str | Path) -> Stats:
    """The counts of one file; DataError at the first line that breaks the contract, with all its problems."""
    stats = Stats()
    for line in read_lines(file):
        raw, found = collect_findings(line, str(file))
        if found:
            raise data_error(found)
        stats.add(raw)
    return stats


def desc_levels(desc: str) -> list[str]:
    """The levels of a description: `A/b/c` by slashes, or the values of `k1=A,k2=b`; the first is the class."""
    first = desc.split(",", 1)[0]
    if "=" in first and "/" not in first:
        return [pair.partition("=")[2].strip() or pair.strip() for pair in desc.split(",")]
    return [level.strip() for level in desc.split("/")]


def _name(span: tuple[int, int | None]) -> str:
    low, high = span
    return f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"


def _bin(count: int) -> str:
    return next(_name(span) for span in _HISTOGRAM if span[1] is None or count <= span[1])
