"""A smaller JSONL that looks like the whole one: each class has its share of the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline.data.keyed import keyed_generator
from plumbline.data.read import parse_record, read_lines
from plumbline.data.split import check_next_to, rarest_classes
from plumbline.errors import DataError, Problem
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import shown_path


@dataclass(frozen=True)
class SampleReport:
    """records: of the whole file; sampled: of the sample; classes: class -> records of (the sample, the file)."""

    records: int
    sampled: int
    classes: Mapping[str, tuple[int, int]]

    def as_dict(self) -> JsonObject:
        return {"records": self.records, "sampled": self.sampled, "classes": dict(self.classes)}


def sample_file(file: Path, count: int, output: Path, seed: int = 0) -> SampleReport:
    """Write `count` lines of `file` as they are and in their order; the same seed chooses the same lines.

    Records are sorted by the class that is rarest in the file, shuffled within, and taken at equal steps: no class is
    more than one record away from its share.

    Raises:
        ConfigError: The output is in another folder, or is the file.
        DataError: A line that is no record, or fewer records than `count`.
    """
    check_next_to(file, output)
    lines: list[str] = []
    classes: list[frozenset[str]] = []
    for line in read_lines(file):
        record = parse_record(line, str(file))
        assert line.data is not None
        lines.append(line.data.decode("utf-8"))
        classes.append(frozenset(item.desc.split("/")[0] for item in record.objects))
    if not 1 <= count <= len(lines):
        what = f"holds {len(lines)} records, and {count} are wanted"
        raise DataError(Problem(shown_path(file), what, "give --count a number from 1 to that"))
    chosen = _drawn(rarest_classes(classes), count, seed)
    write_lines(output, (lines[index] for index in chosen))
    whole = Counter(name for own in classes for name in own)
    mine = Counter(name for index in chosen for name in classes[index])
    return SampleReport(len(lines), count, {name: (mine[name], total) for name, total in whole.most_common()})


def _drawn(labels: list[str], count: int, seed: int) -> list[int]:
    draw = keyed_generator(seed, 0, 0, "data sample")
    places = draw.random(len(labels))
    order = sorted(range(len(labels)), key=lambda index: (labels[index], places[index]))
    start = float(draw.random())
    return sorted(order[int((number + start) * len(labels) / count)] for number in range(count))
