"""What the review page and the report know of a run: verdicts, queues, candidates, guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from plumbline.errors import Problem, UserError
from plumbline.stage_b.certify import auto_score, passes_by_itself, read_certificate
from plumbline.stage_b.decisions import DECISIONS, DecisionsInForce, corrected_labels, read_decisions, relabelled
from plumbline.stage_b.guidance import Guidance
from plumbline.stage_b.judge import OK
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.mission_store import CERTIFICATE, SELECTIONS, SPLITS
from plumbline.stage_b.risk import Certificate
from plumbline.stage_b.shift import SHIFT
from plumbline.stage_b.splits import SEALED
from plumbline.stage_b.suspects import Suspect, Voted, find_suspects
from plumbline.stage_b.tickets import Ticket
from plumbline.stage_b.verdict import PASS
from plumbline.storage.objects import JsonObject

CHECKED = "it passes by itself, and was drawn to be checked by a person"
_Stamp = tuple[tuple[int, int, int] | None, ...]


class _DeskHead(msgspec.Struct):
    key: str
    image: str = ""


class RowIndex:
    """Rows of a large JSONL by a name, without keeping them: where each begins. Looks again when the file changes."""

    def __init__(self, path: Path, name_of: Callable[[_DeskHead], str]):
        self._path, self._name_of = path, name_of
        self._stamp: _Stamp = ()
        self._starts: dict[str, list[int]] = {}

    def rows(self, name: str) -> list[JsonObject]:
        """The rows of that name, in the order of the file; DamagedFileError as in `read_rows`."""
        stamp = _stamp_of([self._path])
        if stamp != self._stamp:
            self._starts, self._stamp = self._find(), stamp
        found = []
        for start in self._starts.get(name, ()):
            with self._path.open("rb") as stream:
                stream.seek(start)
                found.append(msgspec.json.decode(stream.readline()))
        return found

    def _find(self) -> dict[str, list[int]]:
        starts: dict[str, list[int]] = {}
        heads, place = msgspec.json.Decoder(_DeskHead), 0
        if not self._path.exists():
            return starts
        with self._path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.endswith(b"\n"):  # a last line without its end is being written
                    try:
                        starts.setdefault(self._name_of(heads.decode(line)), []).append(place)
                    except msgspec.MsgspecError as error:
                        raise UserError(Problem(f"{self._path}:{number}", f"is not a row: {error}")) from error
                place += len(line)
        return starts


def _stamp_of(paths: Sequence[Path]) -> _Stamp:
    """Changes when one of the files does."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            state = path.stat()
            found.append((state.st_ino, state.st_size, state.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return tuple(found)


@dataclass(frozen=True)
class DeskEntry:
    """A ticket that a person should look at. number: its place among all tickets, from 1. why: reasons, in words."""

    number: int
    ticket: Ticket
    row: Mapping[str, Any]
    why: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The run as it is now.

    queue: what does not pass by itself, doubtful ones first. automatic: tickets that pass by themselves. unjudged:
    those without a verdict yet. certificate, or why there is none.
    """

    selections: Mapping[str, Mapping[str, Any]]
    splits: Mapping[str, str]
    certificate: Certificate | None
    why_uncertified: str
    queue: tuple[DeskEntry, ...]
    automatic: int
    unjudged: int


@dataclass
class Desk:
    """One run under review. Everything is read again when its files change."""

    run: MissionRun
    _stamp: tuple[_Stamp, Mapping[str, str]] = ((), MappingProxyType({}))
    _found: Found | None = None
    _decided: tuple[_Stamp, Mapping[str, DecisionsInForce]] = ((), MappingProxyType({}))
    _guidance: dict[str, Guidance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._candidates = RowIndex(self.run.store.trajectories, lambda head: head.key.rpartition("/c")[0])
        self.keys = [head.key for head in self.run.data.tickets.heads()]
        self.numbers = {key: number for number, key in enumerate(self.keys, 1)}

    def found(self) -> Found:
        """Raises UserError for a run that has no verdicts yet."""
        folder, decisions = self.run.store.folder, self.decisions()
        names = (SELECTIONS, SPLITS, CERTIFICATE, SHIFT, "guidance.json")
        files = [folder / name for name in names]
        if self.run.new is not None:  # what people check here may void the certificate that lies there
            files += [folder / DECISIONS, self.run.new.origin / CERTIFICATE, self.run.new.origin / "guidance.json"]
        stamp = _stamp_of(files), corrected_labels(decisions)
        if self._found is None or stamp != self._stamp:
            if not (folder / SELECTIONS).exists():
                fix = "run it first (plumbline stage-b run)"
                raise UserError(Problem(str(folder), "has no verdicts yet", fix))
            self._found, self._stamp = find(self.run, decisions), stamp
        return self._found

    def decisions(self) -> Mapping[str, DecisionsInForce]:
        """Decisions in force; the ticket decided last comes last."""
        stamp = _stamp_of([self.run.store.folder / DECISIONS])
        if stamp != self._decided[0]:
            self._decided = stamp, read_decisions(self.run)
        return self._decided[1]

    def candidates(self, row: Mapping[str, Any]) -> list[JsonObject]:
        """The trajectories that a selection was made of, by their index."""
        return sorted(self._candidates.rows(row["key"]), key=lambda each: each["result"]["candidate_index"])

    def guidance(self, digest: str) -> Guidance | None:
        """The guidance of that hash; None where no snapshot of it is kept."""
        if digest not in self._guidance:
            store = self.run.store.guidance
            kept = [store.snapshot(step) for step in store.steps()]
            self._guidance |= {each.hash: each for each in kept}
        return self._guidance.get(digest)

    def suspects(self) -> list[Suspect]:
        return suspects_of(self.run, self.found(), self.decisions())


def find(run: MissionRun, decisions: Mapping[str, DecisionsInForce]) -> Found:
    """Read the run folder. The tickets keep the labels of the input; a certificate depends on those as corrected."""
    selections = run.store.latest_selections(run.data.tickets)
    certificate, why = read_certificate(relabelled(run, decisions))
    entries, automatic = [], 0
    for number, ticket in enumerate(run.data.tickets, 1):
        row = selections.get(ticket.key)
        if row is None:
            continue
        if not passes_by_itself(row, certificate):
            entries.append(DeskEntry(number, ticket, row, reasons_for_review(row, certificate, why)))
        elif run.new is not None and run.new.is_audited(ticket.key):
            entries.append(DeskEntry(number, ticket, row, (CHECKED,)))
        else:
            automatic += 1
    queue = tuple(sorted(entries, key=_urgency))
    unjudged = len(run.data.tickets) - len(entries) - automatic
    has_splits = run.new is None and (run.store.folder / SPLITS).exists()
    splits = run.split_store.read() if has_splits else {}
    return Found(selections, splits, certificate, why, queue, automatic, unjudged)


def reasons_for_review(row: Mapping[str, Any], certificate: Certificate | None, why_none: str) -> tuple[str, ...]:
    """Why a selection does not pass by itself."""
    result = row["result"]
    reasons = list(result["doubts"])
    if result["summary_confidence"] != OK and not reasons:
        reasons.append("the verdict needs a review")
    if result["verdict"] is None:
        reasons.append("there is no verdict: a person must decide")
    elif result["verdict"] != PASS:
        reasons.append(f"the verdict is {result['verdict']}: only a pass needs no person")
    elif certificate is None:
        reasons.append(why_none)
    elif auto_score(row) < certificate.threshold and result["summary_confidence"] == OK:
        reasons.append(f"its score {auto_score(row):.3f} is below the certified threshold {certificate.threshold:.3f}")
    return tuple(reasons)


def _urgency(entry: DeskEntry) -> tuple[int, float, int]:
    """Doubtful tickets first, then passes, then fails; close votes before clear ones."""
    result = entry.row["result"]
    rank = 0 if result["summary_confidence"] != OK else 1 if result["verdict"] == PASS else 2
    return rank, result["margin"], entry.number


def suspects_of(run: MissionRun, found: Found, decisions: Mapping[str, DecisionsInForce]) -> list[Suspect]:
    """Labels that look wrong, as corrected so far; the sealed test's are not looked at. New tickets have none."""
    if run.new is not None:
        return []
    voted = []
    for head in relabelled(run, decisions).data.tickets.heads():
        row = found.selections.get(head.key)
        share = None if row is None else row["result"]["pass_share"]
        if share is not None and found.splits.get(head.key) != SEALED:
            voted.append(Voted(head.key, head.label, share))
    return find_suspects(voted)


def captions_by_image(path: Path) -> RowIndex:
    """Dense captions by the name of their picture. Raises UserError for a file that is not there."""
    if not path.is_file():
        raise UserError(Problem(str(path), "no such file", "name the JSONL that plumbline infer wrote"))
    return RowIndex(path, lambda head: head.image or head.key)


def is_sealed(found: Found, ticket: Ticket) -> bool:
    """Whether the ticket's label must stay unseen."""
    return found.splits.get(ticket.key) == SEALED
