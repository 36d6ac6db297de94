"""Recorded rollouts scored and selected again, with other weights or another policy: no model is called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import Problem, UserError
from plumbline.infer.runner import ERROR
from plumbline.stage_b.judge import Evidence, Judge
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.mission_store import SELECTIONS
from plumbline.stage_b.rollout import judge_of, scores_of, selections
from plumbline.stage_b.tickets import Ticket
from plumbline.stage_b.verdict import read_verdict
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_rows

REJUDGED = "selections.rejudged.jsonl"


@dataclass(frozen=True)
class Rejudged:
    """changed: keys of selections whose verdict is another one now, or whose need of a review is."""

    output: Path
    tickets: int
    changed: tuple[str, ...]


def rejudge(run: MissionRun) -> Rejudged:
    """Score every recorded trajectory with the configuration as it is now, and select; the old selections are kept.

    Each row is scored under the guidance that it was made with. Raises UserError where that snapshot is not kept.
    """
    if not run.store.trajectories.exists():
        raise UserError(
            Problem(str(run.store.trajectories), "there are no rollouts", "run it first (plumbline stage-b run)")
        )
    path = run.store.folder / SELECTIONS
    before = {row["key"]: _said(row) for row in (read_rows(path) if path.exists() else ())}
    changed: list[str] = []

    def lines() -> Iterator[str]:
        for row in selections(_scored(run), run.config):
            if before.get(row["key"], _said(row)) != _said(row):
                changed.append(row["key"])
            yield json.dumps(row, ensure_ascii=False)

    output = run.store.folder / REJUDGED
    return Rejudged(output, write_lines(output, lines()), tuple(changed))


def _said(row: Mapping[str, Any]) -> tuple[str | None, str]:
    return row["result"]["verdict"], row["result"]["summary_confidence"]


def _scored(run: MissionRun) -> Iterator[JsonObject]:
    """The trajectories with the scores of today's judge."""
    places = {head.key: place for place, head in enumerate(run.data.tickets.heads())}
    judges = _judges(run)
    read: tuple[Ticket, str, Evidence] | None = None
    for row in read_rows(run.store.trajectories):
        key, guidance_hash = row["key"].rpartition("/e")[0], row["guidance_hash"]
        if read is None or (read[0].key, read[1]) != (key, guidance_hash):
            ticket, judge = _ticket_of(key, places, run), _judge_of(row, judges, run)
            read = ticket, guidance_hash, judge.evidence(ticket)
        result = row["result"]
        said = read_verdict("" if row["status"].startswith(ERROR) else result["text"])
        scores = scores_of(said, read[0].label, judges[guidance_hash], read[2]) if result["format_ok"] else None
        yield row | {"result": result | {"scores": scores}}


def _ticket_of(key: str, places: Mapping[str, int], run: MissionRun) -> Ticket:
    if key not in places:
        what = f"the ticket {key} of its rows is not among those of stage_a_paths"
        raise UserError(Problem(str(run.store.trajectories), what, "name the files that the run was made with"))
    return run.data.tickets[places[key]]


def _judge_of(row: Mapping[str, Any], judges: Mapping[str, Judge], run: MissionRun) -> Judge:
    if row["guidance_hash"] not in judges:
        what = f"the guidance {row['guidance_hash']} of {row['key']} is not kept"
        raise UserError(Problem(str(run.store.folder / "snapshots"), what, "raise guidance.retention before a run"))
    return judges[row["guidance_hash"]]


def _judges(run: MissionRun) -> dict[str, Judge]:
    store = run.store.guidance
    kept = [store.snapshot(step) for step in store.steps()]
    return {guidance.hash: judge_of(guidance, run.config.judge.weights, run.data.items) for guidance in kept}
