"""The file of verdicts: made from the trajectories, and made anew when these or the way of selecting have changed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from plumbline.data.read import write_lines
from plumbline.errors import Problem, UserError
from plumbline.infer.rows import read_rows
from plumbline.infer.work import check_identity
from plumbline.stage_b.mission import SELECTIONS, MissionRun
from plumbline.stage_b.rollout import selections

SELECTED = "selected"
"""What the state of a run keeps of the file, so that one that a crash left behind its trajectories is known."""


def write_selections(run: MissionRun) -> None:
    """The verdicts of every ticket whose candidates are all there; nothing where they are written already."""
    made_of = _made_of(run)
    if (run.folder / SELECTIONS).exists() and run.read_state().get(SELECTED) == made_of:
        return
    rows = selections(read_rows(run.trajectories), run.config)
    write_lines(run.folder / SELECTIONS, (json.dumps(row, ensure_ascii=False) for row in rows))
    run.write_state(run.read_state() | {SELECTED: made_of})


def check_verdicts(run: MissionRun) -> None:
    """Raise UserError for verdicts that the configuration of today would not have made."""
    check_identity(run.trajectories, run.identity)
    if run.read_state().get(SELECTED) != _made_of(run):
        what = "its verdicts are not those of its rollouts, or were selected in another way"
        raise UserError(Problem(str(run.folder), what, "plumbline stage-b run selects anew, and asks nothing for that"))


def _made_of(run: MissionRun) -> dict[str, Any]:
    size = run.trajectories.stat().st_size if run.trajectories.exists() else 0
    selection = asdict(run.config.selection) | {"format_filter": run.config.sampler.format_filter}
    return {"trajectories": size, "selection": selection}
