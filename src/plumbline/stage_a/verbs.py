"""What `plumbline stage-a` does on the command line. Returns the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache, partial

from plumbline.errors import EXIT_OK
from plumbline.infer.open_engine import open_engine
from plumbline.infer.runner import RunReport
from plumbline.infer.verbs import print_report, progress_bar
from plumbline.stage_a.config import StageASettings
from plumbline.stage_a.estimate import StageAEstimate, estimate
from plumbline.stage_a.summaries import SummaryPlan, plan_summaries, run_summaries
from plumbline.storage.text import next_command, printable

SHOWN_NOTES = 20


def stage_a(settings: StageASettings, *, as_json: bool, dry_run: bool) -> int:
    """Plan, print the plan, run each mission, print the results. Returns the exit code of the worst of them."""
    plans, notes = plan_summaries(settings)
    for note in notes[:SHOWN_NOTES]:
        print(f"note: {printable(note)}", file=sys.stderr)
    if len(notes) > SHOWN_NOTES:
        print(f"note: and {len(notes) - SHOWN_NOTES} more", file=sys.stderr)
    if dry_run:
        _print_plans(plans, as_json=as_json)
        return EXIT_OK
    here = cache(lambda: open_engine(plans[0]))  # one for all missions, and only where there is something to ask
    runner = None
    if settings.runner == "ray":
        from plumbline.infer.cluster import on_cluster

        runner = on_cluster(settings.workers, uses_gpu=not settings.servers)
    reports: list[RunReport] = []
    for plan in plans:
        with redirect_stdout(sys.stderr), progress_bar(printable(plan.mission) or "summaries", plan.todo) as advance:
            engine = here if runner is None else partial(open_engine, plan)
            reports.append(run_summaries(plan, engine, advance, runner))
        if not as_json:
            print_report(reports[-1], "pictures", as_json=False)
            print(f"gathered: {plan.gathered}" if settings.shard is None else "the command without --shard gathers")
        if reports[-1].interrupted or reports[-1].over_budget:
            break
    if as_json:
        print(json.dumps({"runs": [report.as_dict() for report in reports]}, ensure_ascii=False))
    elif len(reports) == len(plans) and settings.shard is None and any(plan.found.tickets for plan in plans):
        new = [plan.gathered for plan in plans if not all(ticket.label for ticket in plan.found.tickets)]
        judge = ("judge", *new[:1], "--run", "RUN")
        print(next_command("stage-b", *(judge if new else ("run", "configs/stage_b_training_free.yaml"))))
    return max(report.exit_code for report in reports)


def _print_plans(plans: Sequence[SummaryPlan], *, as_json: bool) -> None:
    rows = [plan.as_dict() | {"estimate": estimate(plan).as_dict()} for plan in plans]
    if as_json:
        print(json.dumps({"runs": rows}, ensure_ascii=False))
        return
    for plan, row in zip(plans, rows, strict=True):
        tickets = ", ".join(f"{count} {label}" for label, count in row["tickets"].items())
        print(f"{printable(plan.mission) or 'summaries'}: {row['images']} pictures, {row['todo']} to do", end="")
        print(f", tickets: {tickets}" if tickets else "")
        print(f"  {StageAEstimate(**row['estimate']).line()}\n  writes {plan.gathered}")
