"""Labels that look wrong: tickets that the model judges confidently against their label, the most confident first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from plumbline.stage_b.tickets import LABELS


@dataclass(frozen=True)
class Voted:
    """A ticket's label and what its candidates say. pass_share: a selection's; without it, no say."""

    key: str
    label: str
    pass_share: float

    def confidence(self, label: str) -> float:
        """Share of the votes that say `label`."""
        return self.pass_share if label == "pass" else 1 - self.pass_share


@dataclass(frozen=True)
class Suspect:
    """A label to look at. suggested: what the votes say, with that confidence."""

    key: str
    label: str
    suggested: str
    confidence: float


def find_suspects(tickets: Sequence[Voted]) -> list[Suspect]:
    """Tickets whose votes speak for the other label, clearly for this model.

    Each label has its threshold: half-way between no opinion (one half) and the mean confidence in it over the tickets
    that carry it. Confident learning (Northcutt et al. 2021) takes that mean itself; a person looks at every suspect
    here, so that a flipped label missed costs more than a right one looked at. Ranked by confidence over the threshold.
    """
    threshold = {label: _threshold(tickets, label) for label in LABELS}
    found = []
    for ticket in tickets:
        other = "fail" if ticket.label == "pass" else "pass"
        confidence = ticket.confidence(other)
        if confidence > threshold[other]:
            found.append(Suspect(ticket.key, ticket.label, other, confidence))
    return sorted(found, key=lambda suspect: (threshold[suspect.suggested] - suspect.confidence, suspect.key))


def _threshold(tickets: Sequence[Voted], label: str) -> float:
    mine = [ticket.confidence(label) for ticket in tickets if ticket.label == label]
    return (0.5 + max(0.5, fmean(mine))) / 2 if mine else 0.5
