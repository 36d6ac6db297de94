"""What `plumbline review` and `plumbline stage-b report` do."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from plumbline.errors import EXIT_OK, ConfigError, Problem
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.mission import MissionRun, open_mission, plan_missions


def review(config: Path, mission: str | None, image_root: Path | None, captions: Path | None, port: int) -> int:
    """Serve the review page of one mission until interrupted.

    config: a configuration, or the folder of a run.
    image_root: folder that the tickets' image names start at; `splits.image_root` of the configuration without it.
    Without both the page shows the summaries alone.
    """
    from plumbline.report.review import serve_review

    run, _ = open_mission(config, mission)
    root = _image_root(run, image_root)
    if root is None:
        print("note: no photos are shown: give their folder with --image-root", file=sys.stderr)
    try:
        serve_review(run, image_root=root, captions=captions, reviewer=_user(), port=port)
    except KeyboardInterrupt:
        print("decisions are in", run.store.folder / "decisions.jsonl")
    return EXIT_OK


def report(config: Path, mission: str | None, output: Path | None) -> int:
    """Write the report of every mission, or of one; `output` only for one."""
    from plumbline.report.stage_b import REPORT_FILE, write_stage_b_report

    if config.is_dir() or mission is not None:
        runs = [open_mission(config, mission)[0]]
    else:
        runs = plan_missions(load_stage_b(config).run)
    if output is not None and len(runs) > 1:
        raise ConfigError(Problem("--output", f"is one file, and there are {len(runs)} missions", "choose --mission"))
    for run in runs:
        print(write_stage_b_report(run, output or run.store.folder / REPORT_FILE, image_root=_image_root(run, None)))
    return EXIT_OK


def _image_root(run: MissionRun, given: Path | None) -> Path | None:
    """The folder of the photos, as given or as configured."""
    set_root = run.config.splits.image_root
    root = given if given is not None else None if set_root is None else Path(set_root)
    if root is not None and not root.is_dir():
        raise ConfigError(Problem(str(root), "is no folder", "name the folder that stage-a read"))
    return root


def _user() -> str:
    """Who decides: the name of the account; its number where it has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"
