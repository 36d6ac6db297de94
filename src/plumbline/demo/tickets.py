"""Tickets for the last stages: groups of rendered scenes for Stage-A, simulated summaries for Stage-B.

The small model writes summaries, but it cannot judge. Verdicts on them come from a reader of fault words; those on
simulated tickets, of which the gate and the bound need hundreds, from a simulated model that errs now and then. The
gate, the bound and every file are those of a real run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from plumbline.demo.recipes import FOCUS, Places
from plumbline.demo.scenes import plan_scene, render_scene
from plumbline.infer.engine import Reply, Request
from plumbline.stage_b.certify import calibrate
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.edit_trial import Budget, try_edit
from plumbline.stage_b.guidance import Edit
from plumbline.stage_b.loop import run_mission, summarize
from plumbline.stage_b.mission import plan_missions
from plumbline.stage_b.risk import Certificate
from plumbline.stage_b.rollout import SUMMARIES
from plumbline.stage_b.simulation import FOCUS as SIMULATED_FOCUS
from plumbline.stage_b.simulation import MISSION, RULE, SimulatedModel, simulate_tickets
from plumbline.stage_b.verdict import FAIL, PASS
from plumbline.stage_b.wording import Wording
from plumbline.storage.objects import JsonObject

SHIELDS = "挡风板安装检查"
PHOTOS = 2
MAX_FALSE_PASS = 0.1
CANDIDATES = 8
REPLIES = "replies.jsonl"


def write_photo_tickets(folder: Path, count: int, seed: int) -> None:
    """`count` tickets of rendered scenes, laid out as Stage-A reads them; a scene with a fault makes a fail."""
    wording = Wording()
    for number in range(count):
        scenes = [plan_scene(seed, number * PHOTOS + place) for place in range(PHOTOS)]
        is_fail = any(wording.names_fault(part.desc) for scene in scenes for part in scene.parts)
        group = folder / SHIELDS / ("审核不通过" if is_fail else "审核通过") / f"QC-DEMO-{number:04d}"
        group.mkdir(parents=True, exist_ok=True)
        for place, scene in enumerate(scenes, 1):
            Image.fromarray(render_scene(scene)).save(group / f"p{place}.png")


def write_prompts(folder: Path) -> Path:
    """The folder of mission prompts: the one that the tiny model was trained with."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{SHIELDS}.txt").write_text(FOCUS + "\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class WordReader:
    """An engine that fails a ticket when a summary names a fault: what a judge could at best make of the summaries."""

    wording: Wording = field(default_factory=Wording)

    @property
    def identity(self) -> str:
        return "reader of fault words"

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """In the order of the requests."""
        return (Reply(request.key, self._answer(request.user), 24) for request in requests)

    def _answer(self, user: str) -> str:
        summaries = json.loads(user)[SUMMARIES]
        items = [(name, item) for name, text in summaries.items() for item in text.split("，")]
        faults = [f"{name} {item.rsplit('×', 1)[0]}" for name, item in items if self.wording.names_fault(item)]
        return f"{FAIL}\n理由: {faults[0]}" if faults else f"{PASS}\n理由: 所有照片未见问题"


def judge_photo_tickets(places: Places) -> float:
    """A Stage-B run over what Stage-A wrote; the share of tickets whose verdict is their label."""
    folder = places.stage_b / "photos"
    (gathered,) = [path for path in places.stage_a.glob("*.jsonl") if not path.name.endswith(".rows.jsonl")]
    config = _write_config(folder, SHIELDS, FOCUS, gathered, epochs=1)
    (run,) = plan_missions(load_stage_b(config).run)
    summary = run_mission(run, WordReader, Budget()).summary
    shutil.copyfile(run.store.trajectories, folder / REPLIES)
    tickets = sum(figures["tickets"] for figures in summary.values())
    return sum(figures["right"] for figures in summary.values()) / tickets if tickets else 0.0


def judge_simulated_tickets(
    folder: Path, count: int, epochs: int, progress: Callable[[int], None] = lambda rows: None
) -> JsonObject:
    """A whole Stage-B run over simulated tickets: rollouts, an edit before the gate, calibration. The facts of it."""
    gathered = _write_tickets(folder, count)
    (run,) = plan_missions(load_stage_b(_write_config(folder, MISSION, SIMULATED_FOCUS, gathered, epochs)).run)
    engine = SimulatedModel()
    first = run_mission(run, lambda: engine, Budget(), progress=progress)
    useless, good = (
        try_edit(run, Edit("add", text), lambda: engine, Budget(), source="demo", progress=progress).decision
        for text in ("照片应当清晰", RULE)
    )
    (again,) = plan_missions(load_stage_b(_write_config(folder, MISSION, SIMULATED_FOCUS, gathered, epochs + 1)).run)
    run_mission(again, lambda: engine, Budget(), progress=progress)
    shutil.copyfile(again.store.trajectories, folder / REPLIES)  # so that the configuration can be run again by hand
    found = calibrate(again, MAX_FALSE_PASS, 0.95)
    certificate = (
        {"threshold": found.threshold, "bound": found.bound, "coverage": found.coverage}
        if isinstance(found, Certificate)
        else {"why": found.why}
    )
    return {
        "tickets": count,
        "candidates": CANDIDATES,
        "before": first.summary,
        "after": summarize(again),
        "edits": [_edit_row(edit) for edit in (useless, good) if edit is not None],
        "certificate": certificate,
        "max_false_pass": MAX_FALSE_PASS,
        "folder": str(run.store.folder),
    }


def _edit_row(decision: Mapping[str, Any]) -> JsonObject:
    return {"text": decision["edit"]["text"], "outcome": decision["outcome"], "why": decision["why"]}


def _write_tickets(folder: Path, count: int) -> Path:
    """The simulated tickets as Stage-A would have gathered them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for made in simulate_tickets(count, 0):
        ticket = made.ticket
        row = {"group_id": ticket.group_id, "mission": ticket.mission, "label": ticket.label}
        summaries = {"images": list(ticket.images), "per_image": dict(ticket.summaries), "failed": {}}
        lines.append(json.dumps(row | summaries, ensure_ascii=False))
    path = folder / f"{MISSION}_stage_a.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _write_config(folder: Path, mission: str, focus: str, gathered: Path, epochs: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "missions.yaml").write_text(yaml.safe_dump({mission: focus}, allow_unicode=True), encoding="utf-8")
    config = {
        "stage_a_paths": [str(gathered)],
        "missions_file": str(folder / "missions.yaml"),
        "engine": {"kind": "replay", "replies": str(folder / REPLIES)},
        "sampler": {"grid": [{"temperature": 0.7}], "samples_per_decode": CANDIDATES},
        "splits": {"shares": {"propose": 0.2, "gate": 0.4, "calibration": 0.3, "test": 0.1}},
        "runner": {"epochs": epochs},
        "output": {"root": str(folder / "runs"), "run": "demo"},
    }
    path = folder / "stage_b.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path
