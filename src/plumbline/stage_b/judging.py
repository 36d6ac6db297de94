"""New tickets under the guidance and the certificate of a run: judged, compared with the calibration, shared out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plumbline.errors import ConfigError, Problem, UserError
from plumbline.infer.engine import Engine
from plumbline.infer.verbs import safe_name
from plumbline.stage_b.audit import AUTOMATIC, CHECK, JUDGED, PERSON
from plumbline.stage_b.certify import auto_score, passes_by_itself, read_certificate
from plumbline.stage_b.config import resolved_yaml
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.loop import MissionReport, run_epoch
from plumbline.stage_b.mission import MissionRun, plan_missions
from plumbline.stage_b.mission_store import RESOLVED
from plumbline.stage_b.new_tickets import NewTickets, read_new_tickets
from plumbline.stage_b.risk import Certificate
from plumbline.stage_b.shift import Shift, TicketFacts, find_shifts, write_shifts
from plumbline.stage_b.tickets import Tickets
from plumbline.storage.files import write_atomically, write_lines
from plumbline.storage.objects import JsonObject

AUDIT_SHARE = 0.05


@dataclass
class JudgeReport:
    """What became of new tickets.

    Attributes:
        mission: Whose they are.
        folder: Where they lie.
        outcomes: How many pass by themselves, pass but are checked, and wait for a person.
        bound: Most fails among the automatic passes, where a certificate holds.
        why: Why nothing passes by itself, where none does.
        shifts: In what the tickets are unlike those of the calibration.
        run: Of the rollouts.
    """

    mission: str
    folder: str
    outcomes: dict[str, int] = field(default_factory=dict)
    bound: float | None = None
    why: str = ""
    shifts: list[Shift] = field(default_factory=list)
    run: MissionReport = field(default_factory=lambda: MissionReport("", ""))


def plan_new(
    origin: MissionRun, files: Sequence[Path], name: str, audit_share: float = AUDIT_SHARE, seed: int = 0
) -> MissionRun:
    """New tickets of the mission of `origin`, in a folder next to it.

    Raises:
        ConfigError: The name is that of the run itself, or the share is none.
        DataError: A file is not Stage-A's.
        UserError: Another run's tickets, or none, lie there; no guidance has been written yet.
    """
    if not 0 <= audit_share <= 1:
        raise ConfigError(Problem("--audit", f"{audit_share:g} is no share", "from 0 to 1"))
    if safe_name(name) != name or "/" in name or name == origin.config.output.run:
        what = f"{name!r} cannot be the name of the folder next to {origin.config.output.run!r}"
        raise ConfigError(Problem("--name", what, "name another one"))
    config = origin.config
    config = replace(
        config,
        stage_a_paths=tuple(str(path.resolve()) for path in files),
        output=replace(config.output, root=str(origin.store.folder.resolve().parents[1]), run=name),
        runner=replace(config.runner, limit=None, epochs=1),
        reflection=replace(config.reflection, enabled=False),
    )
    certificate, _ = read_certificate(origin)
    digest = "" if certificate is None else certificate.digest
    new = NewTickets(origin.store.folder.resolve(), digest, audit_share, seed)
    (run,) = plan_missions(config, (origin.data.mission,), new)
    _check_folder(run, origin)
    return run


def _check_folder(run: MissionRun, origin: MissionRun) -> None:
    folder, guidance = run.store.folder, origin.store.guidance.read()
    if guidance is None:
        raise UserError(
            Problem(str(origin.store.folder), "has no guidance yet", "run it first (plumbline stage-b run)")
        )
    if not folder.exists():
        return
    earlier = read_new_tickets(folder)
    if earlier is None or earlier.origin != origin.store.folder.resolve():
        raise UserError(Problem(str(folder), "holds something else", "name another folder (--name)"))
    used = run.store.guidance.read()
    if used is not None and used.hash != guidance.hash:
        what = "its tickets were judged under an earlier guidance"
        raise UserError(Problem(str(folder), what, "name another folder (--name)"))


def judge_new(
    run: MissionRun,
    origin: MissionRun,
    engine: Callable[[], Engine],
    budget: Budget,
    progress: Callable[[int], None] = lambda count: None,
) -> JudgeReport:
    """Bring the folder to a verdict per ticket and say what becomes of each. Goes on where it was stopped."""
    folder = run.store.folder
    folder.mkdir(parents=True, exist_ok=True)
    assert run.new is not None
    run.new.write(folder)
    write_atomically(folder / RESOLVED, resolved_yaml(run.config, {}))
    guidance = origin.store.guidance.read()
    assert guidance is not None
    if run.store.guidance.read() is None:
        run.store.guidance.write(guidance)
    report = JudgeReport(run.data.mission, str(folder), run=MissionReport(run.data.mission, str(folder)))
    if not run_epoch(run, 1, engine, budget, report.run, progress):
        return report
    report.shifts = find_shifts(_facts(origin, origin.of_split("calibration")), _facts(run, run.data.tickets))
    write_shifts(folder, report.shifts)
    certificate, report.why = read_certificate(run)
    report.bound = None if certificate is None else certificate.bound
    rows = list(_outcomes(run, certificate))
    write_lines(folder / JUDGED, (json.dumps(row, ensure_ascii=False) for row in rows))
    counts = Counter(row["decision"] for row in rows)
    report.outcomes = {name: counts[name] for name in (AUTOMATIC, CHECK, PERSON)}
    return report


def _facts(run: MissionRun, tickets: Tickets) -> list[TicketFacts]:
    rows = run.store.latest_selections(tickets)
    return [TicketFacts.of(ticket, auto_score(rows[ticket.key])) for ticket in tickets if ticket.key in rows]


def _outcomes(run: MissionRun, certificate: Certificate | None) -> Iterator[JsonObject]:
    """A row per ticket, in the order of the input."""
    assert run.new is not None
    rows: Mapping[str, Mapping[str, Any]] = run.store.latest_selections(run.data.tickets)
    for head in run.data.tickets.heads():
        row = rows[head.key]
        decision = PERSON
        if passes_by_itself(row, certificate):
            decision = CHECK if run.new.is_audited(head.key) else AUTOMATIC
        yield {
            "key": head.key,
            "status": "ok",
            "group_id": head.group_id,
            "mission": head.mission,
            "decision": decision,
            "verdict": row["result"]["verdict"],
            "score": auto_score(row),
            "reason": row["result"]["reason"],
        }
