"""Recorded rollouts scored and selected anew, with other weights or another policy: nothing is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.data.read import write_lines
from plumbline.errors import Problem, UserError
from plumbline.infer.rows import read_rows
from plumbline.infer.work import ERROR
from plumbline.stage_b.judge import Evidence, Judge
from plumbline.stage_b.mission import SELECTIONS, MissionRun
from plumbline.stage_b.rollout import judge_of, scores_of, selections
from plumbline.stage_b.tickets import Ticket
from plumbline.stage_b.verdict import read_verdict

REJUDGED = "selections.rejudged.jsonl"


@dataclass(frozen=True)
class Rejudged:
    """changed: keys of selections whose verdict is another one now, or whose need of a review is."""

    output: Path
    tickets: int
    changed: tuple[str, ...]


def rejudge(run: MissionRun) -> Rejudged:
    """Score every recorded trajectory with the configuration as it is now, and select; beside the old selections.

    Each row is judged under the guidance that it was made with. Raises UserError where that snapshot is not kept.
    """
    if not run.trajectories.exists():
        raise UserError(Problem(str(run.trajectories), "there are no rollouts", "run it first (plumbline stage-b run)"))
    before = {row["key"]: row for row in read_rows(run.folder / SELECTIONS)}
    rows = list(selections(_scored(run), run.config))
    output = run.folder / REJUDGED
    write_lines(output, (json.dumps(row, ensure_ascii=False) for row in rows))
    changed = tuple(row["key"] for row in rows if _said(row) != _said(before.get(row["key"])))
    return Rejudged(output, len(rows), changed)


def _said(row: Mapping[str, Any] | None) -> Any:
    return None if row is None else (row["result"]["verdict"], row["result"]["summary_confidence"])


def _scored(run: MissionRun) -> Iterator[dict[str, Any]]:
    """The trajectories with the scores of today's judge."""
    tickets = {ticket.key: ticket for ticket in run.tickets}
    judges = _judges(run)
    evidence: tuple[str, str, Evidence] | None = None
    for row in read_rows(run.trajectories):
        ticket = _ticket_of(row, tickets, run)
        judge = judges.get(row["guidance_hash"])
        if judge is None:
            what = f"the guidance {row['guidance_hash']} of {row['key']} is not kept"
            raise UserError(Problem(str(run.folder / "snapshots"), what, "raise guidance.retention before a run"))
        if evidence is None or evidence[:2] != (ticket.key, row["guidance_hash"]):
            evidence = (ticket.key, row["guidance_hash"], judge.evidence(ticket))
        result = row["result"]
        said = read_verdict("" if row["status"].startswith(ERROR) else result["text"])
        scores = scores_of(said, ticket.label, judge, evidence[2]) if result["format_ok"] else None
        yield row | {"result": result | {"scores": scores}}


def _ticket_of(row: Mapping[str, Any], tickets: Mapping[str, Ticket], run: MissionRun) -> Ticket:
    key = row["key"].rpartition("/e")[0]
    if key not in tickets:
        what = f"the ticket {key} of its rows is not among those of stage_a_paths"
        raise UserError(Problem(str(run.trajectories), what, "name the files that the run was made with"))
    return tickets[key]


def _judges(run: MissionRun) -> dict[str, Judge]:
    store = run.store
    kept = [store.snapshot(step) for step in store.steps()]
    return {guidance.hash: judge_of(guidance, run.config.judge.weights) for guidance in kept}
