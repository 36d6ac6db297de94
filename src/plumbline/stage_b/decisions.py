"""What people decided about tickets: rows appended to the run folder, never changed; an undo is a row of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plumbline.errors import DamagedFileError, Problem, UserError
from plumbline.stage_b.guidance import now
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.tickets import LABELS, Ticket
from plumbline.storage.locks import waiting_for
from plumbline.storage.rows import RowFile, read_rows, set_torn_line_aside

DECISIONS = "decisions.jsonl"
RELABEL, NOTE, UNDO = "relabel", "note", "undo"
KINDS = (*LABELS, RELABEL, NOTE, UNDO)
MAX_NOTE = 2000
"""Characters of a note."""


@dataclass(frozen=True)
class Decision:
    """One thing that a person did.

    ticket: its key. decision: one of KINDS. label: the corrected one of a relabel, else empty. guidance_hash, verdict:
    of the selection that the person saw. at: when, in UTC.
    """

    ticket: str
    decision: str
    label: str = ""
    note: str = ""
    who: str = ""
    at: str = ""
    guidance_hash: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class DecisionsInForce:
    """The decisions in force for one ticket: those that nobody took back, oldest first, at least one."""

    decisions: tuple[Decision, ...]

    @property
    def newest(self) -> Decision:
        return self.decisions[-1]

    @property
    def outcome(self) -> str:
        """`pass` or `fail` as decided last, by a verdict or a corrected label; empty where there are only notes."""
        said = [each.label or each.decision for each in self.decisions if each.decision != NOTE]
        return said[-1] if said else ""

    @property
    def label(self) -> str:
        """The label as corrected last; empty where nobody corrected it."""
        labels = [each.label for each in self.decisions if each.decision == RELABEL]
        return labels[-1] if labels else ""

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(each.note for each in self.decisions if each.note)


def keep_decision(run: MissionRun, decision: Decision) -> None:
    """Append a decision, with the time; on the disk when this returns. Several people may write at once.

    Raises UserError for one that says nothing, and for an undo of nothing.
    """
    if why := _why_not(decision):
        raise UserError(Problem(decision.decision, why))
    path = run.store.folder / DECISIONS
    with _alone(path):
        rows = list(read_rows(path))
        if decision.decision == UNDO and decision.ticket not in _standing(rows, path):
            raise UserError(Problem(decision.ticket, "has no decision that could be taken back"))
        number = 1 + sum(row["ticket"] == decision.ticket for row in rows)
        with RowFile(path) as file:
            file.append({"key": f"{decision.ticket}/d{number}", "status": "ok", **vars(replace(decision, at=now()))})


def _why_not(decision: Decision) -> str:
    if decision.decision not in KINDS:
        return f"is none of {', '.join(KINDS)}"
    if (decision.label in LABELS) != (decision.decision == RELABEL):
        return "a relabel, and nothing else, names a label"
    if decision.decision == NOTE and not decision.note.strip():
        return "the note is empty"
    return f"the note is longer than {MAX_NOTE} characters" if len(decision.note) > MAX_NOTE else ""


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until nobody else writes; a line that a killed process left unfinished is set aside first."""
    with waiting_for(path):
        path.touch()
        set_torn_line_aside(path)
        yield


def read_decisions(run: MissionRun) -> dict[str, DecisionsInForce]:
    """Ticket -> its decisions in force; the ticket that was decided last comes last."""
    return decisions_in(run.store.folder)


def decisions_in(folder: Path) -> dict[str, DecisionsInForce]:
    """The same, of a run folder."""
    path = folder / DECISIONS
    return _standing(list(read_rows(path)), path) if path.exists() else {}


def _standing(rows: Sequence[Mapping[str, Any]], path: Path) -> dict[str, DecisionsInForce]:
    found: dict[str, list[tuple[int, Decision]]] = {}
    for place, row in enumerate(rows):
        decision = _decision(row, path)
        mine = found.setdefault(decision.ticket, [])
        if decision.decision != UNDO:
            mine.append((place, decision))
        elif mine:
            mine.pop()
    last = sorted((mine[-1][0], ticket) for ticket, mine in found.items() if mine)
    return {ticket: DecisionsInForce(tuple(decision for _, decision in found[ticket])) for _, ticket in last}


def _decision(row: Mapping[str, Any], path: Path) -> Decision:
    fields = {name: row.get(name, "") for name in Decision.__dataclass_fields__}
    is_sound = all(isinstance(value, str) for value in fields.values()) and fields["decision"] in KINDS
    if not is_sound or (fields["label"] in LABELS) != (fields["decision"] == RELABEL):
        raise DamagedFileError(Problem(str(path), f"the row {row['key']!r} is no decision", "mend the line"))
    return Decision(**fields)


def corrected_labels(decisions: Mapping[str, DecisionsInForce]) -> dict[str, str]:
    """Ticket -> the label that a person gave it."""
    return {key: standing.label for key, standing in decisions.items() if standing.label}


def relabelled(run: MissionRun, decisions: Mapping[str, DecisionsInForce]) -> MissionRun:
    """The run with the labels that people corrected; each ticket keeps its key, and so its split and its rollouts.

    New tickets have no label that could be wrong.
    """
    if run.new is not None:
        return run
    label_of, tickets = corrected_labels(decisions), run.data.tickets
    changed = [place for place, head in enumerate(tickets.heads()) if label_of.get(head.key, head.label) != head.label]
    if not changed:
        return run
    corrected = tickets.replaced({place: _corrected(tickets[place], label_of) for place in changed})
    return replace(run, data=replace(run.data, tickets=corrected))


def _corrected(ticket: Ticket, label_of: Mapping[str, str]) -> Ticket:
    return replace(ticket, label=label_of[ticket.key], filed=ticket.filed or ticket.label)


def with_corrected_labels(run: MissionRun) -> MissionRun:
    """The run with the labels as they are after the review."""
    return relabelled(run, read_decisions(run))
