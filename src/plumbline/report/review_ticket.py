"""One ticket as the review page shows it: photos, verdict, reasons, candidates, rules; texts ready to be escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from plumbline.report.citations import Sentence, cite, visible
from plumbline.report.review_desk import Desk, Found, is_sealed, reasons_for_review
from plumbline.report.review_photos import Photos
from plumbline.stage_b.decisions import DecisionsInForce
from plumbline.stage_b.guidance import Guidance
from plumbline.stage_b.tickets import Ticket

RAW_SHOWN = 1000
"""Characters of a reply that could not be read."""


@dataclass(frozen=True)
class ReviewPhoto:
    """objects: descriptions in the order of their numbers; note: why none is drawn. failed: why there is no summary.

    is_shown: there is a folder that it may lie in.
    """

    number: int
    name: str
    summary: str
    failed: str
    flags: tuple[str, ...]
    objects: tuple[str, ...]
    note: str
    is_shown: bool


@dataclass(frozen=True)
class CandidateView:
    """verdict: None for a reply that could not be read; raw: that reply."""

    index: int
    verdict: str | None
    reason: tuple[Sentence, ...]
    raw: str
    weight: float | None
    decoding: str
    is_selected: bool


@dataclass(frozen=True)
class RuleView:
    """cited: candidates whose reason cites it."""

    id: str
    text: str
    cited: int


@dataclass(frozen=True)
class TicketView:
    """label: empty where it must stay unseen. verdict: None where no reply could be read. guidance_kept: whether the
    rules of this verdict are still on record."""

    number: int
    group_id: str
    label: str
    corrected: str
    split: str
    is_sealed: bool
    epoch: int
    verdict: str | None
    votes: Mapping[str, int]
    confidence: float
    why: tuple[str, ...]
    reason: tuple[Sentence, ...]
    photos: tuple[ReviewPhoto, ...]
    candidates: tuple[CandidateView, ...]
    rules: tuple[RuleView, ...]
    guidance_kept: bool
    standing: DecisionsInForce | None
    notes: tuple[str, ...]


def view_ticket(desk: Desk, found: Found, number: int, photos: Photos) -> TicketView | None:
    """The ticket of that number; None where it has no verdict."""
    ticket = desk.run.data.tickets[number - 1]
    row = found.selections.get(ticket.key)
    if row is None:
        return None
    guidance = desk.guidance(row["guidance_hash"])
    rules = () if guidance is None else tuple(rule.id for rule in guidance.rules)
    result, count = row["result"], len(ticket.images)
    chosen = result["selected_candidate"]
    candidates = tuple(_candidate(each, count, rules, chosen) for each in desk.candidates(row))
    standing, sealed = desk.decisions().get(ticket.key), is_sealed(found, ticket)
    return TicketView(
        number,
        visible(ticket.group_id),
        "" if sealed else ticket.label,
        "" if standing is None else standing.label,
        found.splits.get(ticket.key, "none"),
        sealed,
        result["epoch"],
        result["verdict"],
        result["votes"],
        result["confidence"],
        reasons_for_review(row, found.certificate, found.why_uncertified),
        tuple(cite(result["reason"], count, rules)),
        tuple(view_photos(ticket, photos)),
        candidates,
        tuple(_rules(guidance, candidates)),
        guidance is not None,
        standing,
        () if standing is None else tuple(map(visible, standing.notes)),
    )


def view_photos(ticket: Ticket, photos: Photos) -> list[ReviewPhoto]:
    """The photos in their order. Of a path only the name is shown: folders may be named after the label."""
    found = []
    for number, image in enumerate(ticket.images, 1):
        key, seen = f"image_{number}", photos.seen(image)
        flags = tuple(flag.removeprefix(f"{key}: ") for flag in ticket.flags if flag.startswith(f"{key}: "))
        name = visible(PurePosixPath(image.replace("\\", "/")).name or image)
        summary, failed = visible(ticket.summaries.get(key, "")), visible(ticket.failed.get(key, ""))
        objects = tuple(visible(item.desc) for item in seen.objects)
        found.append(
            ReviewPhoto(number, name, summary, failed, flags, objects, visible(seen.note), photos.root is not None)
        )
    return found


def _candidate(row: Mapping[str, Any], photos: int, rules: Sequence[str], chosen: int | None) -> CandidateView:
    result = row["result"]
    verdict, scores = result["verdict"], result["scores"]
    return CandidateView(
        result["candidate_index"],
        verdict,
        tuple(cite(result["reason"], photos, rules)),
        "" if verdict is not None else visible(result["text"][:RAW_SHOWN]),
        None if scores is None else scores["semantic_advantage"],
        f"temperature {result['temperature']:g}, top_p {result['top_p']:g}, seed {result['seed']}",
        result["candidate_index"] == chosen,
    )


def _rules(guidance: Guidance | None, candidates: Sequence[CandidateView]) -> list[RuleView]:
    """The rules that the verdict was made with, those that reasons cite first."""
    if guidance is None:
        return []
    cited = [{rule for sentence in each.reason for rule in sentence.rules} for each in candidates]
    found = [RuleView(rule.id, visible(rule.text), sum(rule.id in mine for mine in cited)) for rule in guidance.rules]
    return sorted(found, key=lambda rule: -rule.cited)
