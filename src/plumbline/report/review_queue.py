"""The queues of the review page: what is in them, in which order, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plumbline.report.citations import visible
from plumbline.report.review_desk import Desk, DeskEntry
from plumbline.stage_b.decisions import DecisionsInForce, relabelled
from plumbline.stage_b.loop import summarize
from plumbline.stage_b.mission import MissionRun
from plumbline.storage.objects import JsonObject

QUEUES = ("review", "suspects")
PER_PAGE = 100


@dataclass(frozen=True)
class Around:
    """A ticket's place in its queue. place: from 1, 0 when it is not in it. previous, next, next_open: numbers of
    tickets, 0 for none; next_open: the nearest that nobody has decided, from here on and then from the start.

    undo: number and name of the ticket whose newest decision an undo takes back, and what it is."""

    place: int
    count: int
    decided: int
    previous: int
    next: int
    next_open: int
    undo: tuple[int, str, str] | None


def queue_numbers(desk: Desk, queue: str) -> list[int]:
    """The tickets of a queue, by number, in its order."""
    if queue == "suspects":
        return [desk.numbers[suspect.key] for suspect in desk.suspects()]
    return [entry.number for entry in desk.found().queue]


def neighbours(desk: Desk, queue: str, number: int) -> Around:
    """Where to go from a ticket."""
    numbers, decisions = queue_numbers(desk, queue), desk.decisions()
    keys = [desk.keys[each - 1] for each in numbers]
    is_open = [key not in decisions or not decisions[key].outcome for key in keys]
    here = numbers.index(number) if number in numbers else -1
    onward = [*range(here + 1, len(numbers)), *range(max(here, 0))]
    return Around(
        here + 1,
        len(numbers),
        is_open.count(False),
        numbers[here - 1] if here > 0 else 0,
        numbers[here + 1] if here + 1 < len(numbers) else 0,
        next((numbers[place] for place in onward if is_open[place]), 0),
        _undo(desk, number, decisions),
    )


def _undo(desk: Desk, number: int, decisions: Mapping[str, DecisionsInForce]) -> tuple[int, str, str] | None:
    """This ticket's newest decision; where it has none, the newest of all."""
    key = desk.keys[number - 1]
    newest = decisions.get(key) or next(
        (decisions[each] for each in reversed(list(decisions)) if each in desk.numbers), None
    )
    if newest is None:
        return None
    at = desk.numbers[newest.newest.ticket]
    return at, visible(desk.run.data.tickets[at - 1].group_id), newest.newest.decision


def overview(desk: Desk, start: int) -> JsonObject:
    """The first page: counts, and the tickets of the queue from place `start`."""
    found, decisions = desk.found(), desk.decisions()
    begin = max(0, min(start - 1, len(found.queue) - 1)) if found.queue else 0
    lines = [queue_line(entry, decisions) for entry in found.queue[begin : begin + PER_PAGE]]
    decided = sum(_outcome(decisions, entry.ticket.key) != "" for entry in found.queue)
    open_ones = (entry.number for entry in found.queue if not _outcome(decisions, entry.ticket.key))
    return {
        "lines": lines,
        "begin": begin,
        "per_page": PER_PAGE,
        "count": len(found.queue),
        "decided": decided,
        "first_open": next(open_ones, 0),
        "automatic": found.automatic,
        "no_verdict": sum(entry.row["result"]["verdict"] is None for entry in found.queue),
        "unjudged": found.unjudged,
        "certificate": found.certificate,
        "why_uncertified": found.why_uncertified,
        "splits": split_lines(desk.run, found.splits, decisions),
    }


def queue_line(entry: DeskEntry, decisions: Mapping[str, DecisionsInForce]) -> JsonObject:
    """One ticket of the queue, without its label."""
    result = entry.row["result"]
    return {
        "number": entry.number,
        "group_id": visible(entry.ticket.group_id),
        "verdict": result["verdict"],
        "votes": result["votes"],
        "needs_review": result["summary_confidence"] != "ok",
        "why": [visible(reason) for reason in entry.why],
        "reason": visible(result["reason"]),
        "outcome": _outcome(decisions, entry.ticket.key),
    }


def _outcome(decisions: Mapping[str, DecisionsInForce], key: str) -> str:
    return decisions[key].outcome if key in decisions else ""


def suspect_lines(desk: Desk) -> list[JsonObject]:
    """Labels that look wrong, the clearest first."""
    decisions = desk.decisions()
    return [
        {
            "number": desk.numbers[suspect.key],
            "group_id": visible(desk.run.data.tickets[desk.numbers[suspect.key] - 1].group_id),
            "label": suspect.label,
            "suggested": suspect.suggested,
            "confidence": suspect.confidence,
            "outcome": _outcome(decisions, suspect.key),
        }
        for suspect in desk.suspects()
    ]


def split_lines(
    run: MissionRun, splits: Mapping[str, str], decisions: Mapping[str, DecisionsInForce]
) -> list[JsonObject]:
    """Figures by split, with labels as corrected; of the sealed test its size alone. New tickets have no splits."""
    if run.new is not None:
        return []
    figures = summarize(relabelled(run, decisions))
    names: Sequence[str] = list(dict.fromkeys([*splits.values(), *figures]))
    sizes = [sum(each == name for each in splits.values()) for name in names]
    return [{"name": name, "size": size, "figures": figures.get(name)} for name, size in zip(names, sizes, strict=True)]
