"""Checks of automatic passes by a person, and the test that voids a certificate which they speak against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plumbline.stage_b.decisions import decisions_in
from plumbline.stage_b.new_tickets import read_new_tickets
from plumbline.stage_b.tickets import LABELS
from plumbline.storage.rows import read_rows

JUDGED = "judged.jsonl"
AUTOMATIC, CHECK, PERSON = "automatic_pass", "check", "person"
_RATES = 64
"""Error rates that the test bets on."""


@dataclass(frozen=True)
class Audits:
    """What people found when they checked automatic passes.

    Attributes:
        checked: Tickets with a decision.
        errors: Those of them that are fails.
        e_value: The largest evidence so far that more than the bound are fails.
    """

    checked: int
    errors: int
    e_value: float


def e_value(errors: Sequence[bool], bound: float) -> float:
    """The evidence against "each is an error with a chance of at most `bound`", the largest along the way.

    The mean over rates p in (bound, 1) of the likelihood ratio of p to `bound`. Under the claim each factor has a mean
    of at most 1, since q p / bound + (1 - q)(1 - p) / (1 - bound) <= 1 for q <= bound <= p: the product is a
    supermartingale from 1 on, and by Ville's inequality it ever reaches 1 / a with a chance of at most a, however often
    one looks (Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference").

    Args:
        errors: In the order in which they became known.
        bound: In (0, 1).

    Returns:
        At least 1.
    """
    if not len(errors):
        return 1.0
    rates = bound + (1 - bound) * (np.arange(_RATES) + 0.5)[:, None] ** 2 / _RATES**2
    seen = np.asarray(errors, dtype=bool)
    steps = np.where(seen, np.log(rates / bound), np.log((1 - rates) / (1 - bound)))
    along = np.cumsum(steps, axis=1)
    top = along.max(axis=0)
    means = top + np.log(np.exp(along - top).mean(axis=0))
    return float(np.exp(min(max(0.0, means.max()), 700.0)))


def read_audits(origin: Path, certificate: str, bound: float) -> Audits:
    """All checks of tickets that passed by themselves under a certificate, over every folder of new tickets.

    origin: folder of the run that the certificate belongs to; new tickets lie in folders next to it.
    """
    found = sorted(_decided(origin, certificate))
    errors = [is_fail for _, is_fail in found]
    return Audits(len(errors), sum(errors), e_value(errors, bound))


def _decided(origin: Path, certificate: str) -> Iterator[tuple[str, bool]]:
    """(when, whether it is a fail) of each check with a decision."""
    at = origin.resolve()
    for folder in at.parent.iterdir() if at.parent.is_dir() else ():
        new = read_new_tickets(folder) if folder.is_dir() else None
        if new is None or new.origin != at or new.certificate != certificate:
            continue
        decisions, judged = decisions_in(folder), folder / JUDGED
        for row in read_rows(judged) if judged.exists() else ():
            standing = decisions.get(row["key"]) if row["decision"] == CHECK else None
            if standing is not None and standing.outcome in LABELS:
                yield standing.newest.at, standing.outcome == "fail"
