"""Are new tickets like those that a certificate was measured on? A bound speaks for tickets that are drawn alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import fisher_exact, ks_2samp

from plumbline.data.summary_items import count_items
from plumbline.errors import DamagedFileError, Problem
from plumbline.evaluate.figures import holm
from plumbline.stage_b.tickets import Ticket
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import read_json_object
from plumbline.storage.text import shown

SHIFT = "shift.json"
LEVEL = 0.01
"""Chance that anything is called shifted where nothing is."""
LEAST = 0.05
"""A smaller difference of shares, or of distributions, is no shift, however many tickets show it."""
MOST_ITEMS = 40


@dataclass(frozen=True)
class TicketFacts:
    """What of a ticket is compared. items: things that its summaries name; score: for an automatic pass."""

    items: frozenset[str]
    photos: int
    failed: bool
    score: float

    @classmethod
    def of(cls, ticket: Ticket, score: float) -> TicketFacts:
        names = {name.split("/")[0] for text in ticket.summaries.values() for name in count_items(text)}
        return cls(frozenset(names), len(ticket.images), bool(ticket.failed), score)


@dataclass(frozen=True)
class Shift:
    """One thing in which new tickets differ from those of the calibration.

    Attributes:
        what: In words.
        calibration: Share of the calibration tickets, or their mean.
        new: The same of the new tickets.
        p: Of no difference, adjusted over everything that was compared (Holm).
    """

    what: str
    calibration: float
    new: float
    p: float

    def __str__(self) -> str:
        return f"{self.what} {self.calibration:.2g} in the calibration, {self.new:.2g} now (p = {self.p:.1g})"


def find_shifts(calibration: Sequence[TicketFacts], new: Sequence[TicketFacts]) -> list[Shift]:
    """What differs: the share of tickets that name a thing, photos per ticket, failed photos, the scores.

    Shares by Fisher's exact test, distributions by Kolmogorov and Smirnov's, all adjusted together; clearest first.
    """
    if not calibration or not new:
        return []
    found = [*_shares(calibration, new), *_distributions(calibration, new)]
    adjusted = holm([p for _, _, p in found])
    shifts = [
        Shift(shift.what, shift.calibration, shift.new, p)
        for (shift, size, _), p in zip(found, adjusted, strict=True)
        if p < LEVEL and size >= LEAST
    ]
    return sorted(shifts, key=lambda shift: shift.p)


Compared = tuple[Shift, float, float]
"""(what is compared, size of the difference, p)."""


def _shares(calibration: Sequence[TicketFacts], new: Sequence[TicketFacts]) -> Iterator[Compared]:
    counts = [Counter(name for facts in side for name in facts.items) for side in (calibration, new)]
    names = [name for name, _ in (counts[0] + counts[1]).most_common(MOST_ITEMS)]
    amounts = [(f"tickets that name {shown(name)}:", counts[0][name], counts[1][name]) for name in names]
    failed = [sum(facts.failed for facts in side) for side in (calibration, new)]
    amounts.append(("tickets with a photo without a summary:", failed[0], failed[1]))
    for what, before, now in amounts:
        table = [[before, len(calibration) - before], [now, len(new) - now]]
        p = float(fisher_exact(table).pvalue)
        shares = before / len(calibration), now / len(new)
        yield Shift(what, *shares, p), abs(shares[0] - shares[1]), p


def _distributions(calibration: Sequence[TicketFacts], new: Sequence[TicketFacts]) -> Iterator[Compared]:
    photos, scores = (
        [np.array([getattr(facts, name) for facts in side], np.float64) for side in (calibration, new)]
        for name in ("photos", "score")
    )
    for what, (before, now) in (("mean photos of a ticket:", photos), ("mean score:", scores)):
        test = ks_2samp(before, now, method="asymp")
        yield Shift(what, float(before.mean()), float(now.mean()), 0.0), float(test.statistic), float(test.pvalue)


def write_shifts(folder: Path, shifts: Sequence[Shift]) -> None:
    """Keep what was found, also when it is nothing."""
    content = {"shifts": [asdict(shift) for shift in shifts]}
    write_atomically(folder / SHIFT, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_shifts(folder: Path) -> list[Shift]:
    """What was found; DamagedFileError where nothing was compared yet, or the file is not ours."""
    try:
        return [Shift(**each) for each in read_json_object(folder / SHIFT)["shifts"]]
    except (KeyError, TypeError, OSError) as error:
        raise DamagedFileError(Problem(str(folder / SHIFT), f"cannot be read: {error}", "judge again")) from error
