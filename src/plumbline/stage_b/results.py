"""The file of verdicts: made from the trajectories, and rewritten when these or the way of selecting change."""

from __future__ import annotations

import json
from dataclasses import asdict

from plumbline.errors import Problem, UserError
from plumbline.infer.runner import check_identity
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.mission_store import SELECTIONS
from plumbline.stage_b.rollout import selections
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_rows

SELECTED = "selected"
"""What the state of a run keeps of the file: the last whole epoch in it, and how it was selected."""


def write_selections(run: MissionRun, epoch: int, *, is_changed: bool) -> None:
    """The verdicts of all whole epochs, of which `epoch` is one; nothing where they are written already.

    is_changed: rows of this epoch have been written since.
    """
    before = run.store.read_state().get(SELECTED, {"epoch": 0})
    now = {"epoch": max(epoch, before["epoch"]), "selection": _way(run)}
    if before == now and not is_changed and (run.store.folder / SELECTIONS).exists():
        return
    whole = (row for row in read_rows(run.store.trajectories) if row["epoch"] <= now["epoch"])
    rows = selections(whole, run.config)
    write_lines(run.store.folder / SELECTIONS, (json.dumps(row, ensure_ascii=False) for row in rows))
    run.store.write_state(run.store.read_state() | {SELECTED: now})


def check_verdicts(run: MissionRun) -> None:
    """Raise UserError for verdicts that the configuration of today would not have made."""
    check_identity(run.store.trajectories, run.identity)
    if run.store.read_state().get(SELECTED, {}).get("selection") != _way(run):
        fix = "plumbline stage-b run selects again, without calling the model"
        raise UserError(Problem(str(run.store.folder), "its verdicts were selected in another way", fix))


def _way(run: MissionRun) -> JsonObject:
    """How verdicts are selected. unreadable: what a ticket without a readable reply gets; it was 不通过 once."""
    return asdict(run.config.selection) | {"format_filter": run.config.sampler.format_filter, "unreadable": None}
