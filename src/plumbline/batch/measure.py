"""What `plumbline data lengths` prints: the token lengths of a file's samples for a model, without opening pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from plumbline.batch.lengths import PixelLimits, exact_length
from plumbline.batch.tokens import TokenCounter
from plumbline.data.dataset import DatasetSettings, RecordDataset, RecordFile
from plumbline.data.images import ImagePolicy
from plumbline.data.prompts import default_prompts
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, DataError, Problem
from plumbline.storage.text import printable

_PERCENTILES = (50, 90, 95, 99)
_BINS = 12
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Lengths:
    """tokens: int64 [N] of the samples that could be measured, in order; problems: why the others could not."""

    tokens: np.ndarray
    problems: tuple[Problem, ...] = field(default=())

    def as_dict(self, max_length: int) -> dict[str, Any]:
        """Plain values for JSON."""
        tokens = self.tokens
        row: dict[str, Any] = {"measured": len(tokens), "failed": len(self.problems), "max_length": max_length}
        row["over_limit"] = int((tokens > max_length).sum())
        if len(tokens):
            row["tokens"] = {
                "total": int(tokens.sum()),
                "mean": float(tokens.mean()),
                "min": int(tokens.min()),
                **{f"p{p}": float(np.percentile(tokens, p)) for p in _PERCENTILES},
                "max": int(tokens.max()),
            }
            row["histogram"] = [{"from": a, "to": b, "count": n} for a, b, n in _histogram(tokens)]
        return row


def settings_of(mode: str, emit_norm: str, image_roots: Sequence[Path], limit: int | None) -> DatasetSettings:
    """Dataset settings from the command line's words, with the prompts that ship."""
    policy = ImagePolicy(roots=tuple(map(str, image_roots)))
    return DatasetSettings(mode, default_prompts(emit_norm), emit_norm, sample_limit=limit, policy=policy)


def measure(dataset: RecordDataset, model: str | Path, max_pixels: int | None = None) -> Lengths:
    """The length of every sample of `dataset` for the checkpoint folder `model`; only picture headers are read.

    max_pixels: as `template.max_pixels`. A record that cannot become a sample is reported, not raised.
    """
    limits, counter = PixelLimits.of_folder(model, max_pixels), TokenCounter(model)
    tokens: list[int] = []
    problems: list[Problem] = []
    for index in range(len(dataset)):
        try:
            sample = dataset.item(index)
            tokens.append(exact_length(sample, counter, limits))
        except DataError as error:
            problems += error.problems[:1]
    return Lengths(np.array(tokens, dtype=np.int64), tuple(problems))


def lengths(
    file: Path,
    model: Path,
    settings: DatasetSettings,
    *,
    max_length: int = 4096,
    max_pixels: int | None = None,
    as_json: bool = False,
) -> int:
    """Print the lengths; 0, or 3 when a sample is too long or cannot be measured."""
    found = measure(RecordDataset(RecordFile(file), settings), model, max_pixels)
    row = found.as_dict(max_length)
    if as_json:
        shown = {"problems": [str(problem) for problem in found.problems[:_SHOWN]]}
        print(json.dumps({"file": str(file), "model": str(model), **row, **shown}, ensure_ascii=True))
    else:
        _print(row, found.problems)
    return EXIT_FINDINGS if found.problems or row["over_limit"] else EXIT_OK


def _print(row: dict[str, Any], problems: Sequence[Problem]) -> None:
    for problem in problems[:_SHOWN]:
        print(printable(str(problem), keep="\n"))
    print(f"{row['measured']:,} samples measured, {row['failed']:,} could not be")
    if "tokens" in row:
        print("tokens: " + ", ".join(f"{name} {value:,.0f}" for name, value in row["tokens"].items()))
        table = Table("tokens", "samples", "")
        most = max(item["count"] for item in row["histogram"])
        for item in row["histogram"]:
            bar = "█" * round(30 * item["count"] / most)
            table.add_row(f"{item['from']:,}-{item['to']:,}", f"{item['count']:,}", bar)
        Console(highlight=False).print(table)
    print(f"{row['over_limit']:,} samples are longer than {row['max_length']:,} tokens (--max-length)")


def _histogram(tokens: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(from, to, count) with both ends included, over at most 12 bins of equal width."""
    low, high = int(tokens.min()), int(tokens.max())
    width = (high - low) // _BINS + 1
    counts = np.bincount((tokens - low) // width)
    for index, count in enumerate(counts.tolist()):
        yield low + index * width, min(high, low + (index + 1) * width - 1), count
