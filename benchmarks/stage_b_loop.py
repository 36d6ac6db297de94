"""What the Stage-B loop costs besides the model: 10,000 tickets x 8 candidates on recorded replies.

    python benchmarks/stage_b_loop.py --json

"overhead" is the whole epoch divided by its candidates: tickets read, questions made, replies read, judged and written,
selections made. Memory is the peak of fresh processes at two sizes; "resume" opens the finished run folder and finds
nothing to do. Before anything is told, the verdicts are compared with those that judging ticket by ticket gives.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
import yaml
from harness.memory import resident_mb

from plumbline.infer.engine import Reply, Request
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.mission import plan_missions
from plumbline.stage_b.rollout import judge_of
from plumbline.stage_b.selection import Candidate, select
from plumbline.stage_b.simulation import simulate_tickets
from plumbline.stage_b.verdict import read_verdict
from plumbline.storage.rows import read_rows

CANDIDATES = 8
CHECKED = 200
PASSES = "通过\n理由: image_1 机柜处接地螺丝和地排处接地螺丝符合要求，电线捆扎整齐"
FAILS = "不通过\n理由: image_2 地排处接地螺丝不符合要求,露铜"


class Recorded:
    """Answers at once; every third candidate of a ticket fails it."""

    identity = "recorded"

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        for request in requests:
            yield Reply(request.key, said(request.key), 24)


def said(key: str) -> str:
    return FAILS if int(key.rpartition("/c")[2]) % 3 == 0 else PASSES


def prepare(folder: Path, count: int) -> Path:
    """Tickets and a configuration; returns the latter."""
    lines = []
    for made in simulate_tickets(count, 0):
        ticket = made.ticket
        row = {"group_id": ticket.group_id, "mission": ticket.mission, "label": ticket.label}
        row |= {"images": list(ticket.images), "per_image": dict(ticket.summaries), "failed": {}}
        lines.append(json.dumps(row, ensure_ascii=False))
    (folder / "tickets.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "replies.jsonl").write_text("")
    config = {
        "stage_a_paths": [str(folder / "tickets.jsonl")],
        "missions_file": str(Path(__file__).parents[1] / "configs" / "missions.yaml"),
        "engine": {"kind": "replay", "replies": str(folder / "replies.jsonl")},
        "sampler": {"grid": [{"temperature": 0.7}], "samples_per_decode": CANDIDATES},
        "output": {"root": str(folder / "out")},
    }
    path = folder / "stage_b.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return path


def go(config: Path) -> dict[str, float]:
    """One process' run: seconds, peak memory."""
    began = time.perf_counter()
    (run,) = plan_missions(load_stage_b(config).run)
    report = run_mission(run, Recorded, Budget())
    seconds = time.perf_counter() - began
    assert report.exit_code == 0
    return {"seconds": seconds, "peak_mb": resident_mb("VmHWM"), "calls": report.calls}


def check(config: Path) -> None:
    """The selections are those that judging a ticket by itself gives."""
    (run,) = plan_missions(load_stage_b(config).run)
    guidance = run.store.guidance.read()
    assert guidance is not None
    judge = judge_of(guidance, run.config.judge.weights)
    chosen = {row["key"]: row["result"] for row in read_rows(run.store.folder / "selections.jsonl")}
    assert len(chosen) == len(run.data.tickets)
    for ticket in run.data.tickets[:CHECKED]:
        evidence = judge.evidence(ticket)
        candidates = []
        for index in range(CANDIDATES):
            verdict = read_verdict(said(f"x/c{index}"))
            candidates.append(Candidate(index, verdict.verdict, verdict.reason, judge.score(verdict, evidence)))
        wanted = select(candidates, run.config.selection.policy)
        found = chosen[f"{ticket.key}/e1"]
        assert (found["verdict"], found["selected_candidate"]) == (wanted.verdict, wanted.selected_candidate)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--tickets", type=int, default=10_000)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        print(json.dumps(go(options.run)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch) / "small", Path(scratch) / "large"
        found = []
        for folder, count in ((small, options.tickets // 10), (large, options.tickets)):
            folder.mkdir()
            found.append(harness.fresh_process(__file__, "--run", prepare(folder, count)))
        check(large / "stage_b.yaml")
        again = harness.fresh_process(__file__, "--run", large / "stage_b.yaml")
    assert again["calls"] == 0
    candidates = options.tickets * CANDIDATES
    figures = {
        "candidates": candidates,
        "overhead_ms_per_candidate": round(1000 * found[1]["seconds"] / candidates, 4),
        "peak_mb_tenth": round(found[0]["peak_mb"], 1),
        "peak_mb": round(found[1]["peak_mb"], 1),
        "peak_mb_resumed": round(again["peak_mb"], 1),
        "resume_s": round(again["seconds"], 2),
    }
    harness.show(figures, options)


if __name__ == "__main__":
    main()
