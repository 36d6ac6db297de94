"""Run folders of Stage-B for tests: simulated tickets on disk, and an inspector that answers at once."""

import json
from pathlib import Path

import yaml

from plumbline.infer.engine import Reply
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.mission import plan_missions
from plumbline.stage_b.simulation import RULE, simulate_tickets

MISSIONS = Path(__file__).parents[1] / "configs" / "missions.yaml"


class Inspector:
    """Fails a ticket whose summaries tell a fault; takes a missing old label for one until a rule says otherwise.

    VerdictItem to reflect, it proposes that rule.
    """

    identity = "inspector"

    def __init__(self):
        self.asked = []

    def stream(self, requests):
        for request in requests:
            self.asked.append(request)
            if "/reflection/" in request.key:
                case = json.loads(request.user)["不一致的工单"][0]["工单"]
                evidence = [f"{case}/image_2", "QC-NONE"]
                proposal = [{"kind": "add", "text": RULE, "targets": [], "evidence": evidence}]
                yield Reply(request.key, f"好的：\n{json.dumps(proposal, ensure_ascii=False)}")
                continue
            words = ("不符合", "散乱", "略偏", *(() if RULE in request.system else ("缺失",)))
            fault = next((word for word in words if word in request.user), None)
            said = "通过\n理由: 机柜处接地螺丝、地排处接地螺丝符合要求，电线捆扎整齐"
            yield Reply(request.key, said if fault is None else f"不通过\n理由: image_1 {fault}，接地螺丝不符合要求")


def ticket_rows(count, seed=3):
    rows = []
    for made in simulate_tickets(count, seed, hard=0.2):
        ticket = made.ticket
        row = {"group_id": ticket.group_id, "mission": ticket.mission, "label": ticket.label}
        rows.append(row | {"images": list(ticket.images), "per_image": dict(ticket.summaries), "failed": {}})
    return rows


def write_tickets(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_config(folder, tickets, **sections):
    base = {
        "stage_a_paths": [str(tickets)],
        "missions_file": str(MISSIONS),
        "engine": {"model": "unused"},
        "sampler": {"grid": [{"temperature": 0.7}], "samples_per_decode": 4},
        "output": {"root": str(folder / "out")},
    }
    path = folder / "stage_b.yaml"
    path.write_text(yaml.safe_dump(base | sections, allow_unicode=True), encoding="utf-8")
    return path


def run_over(folder, rows, **sections):
    """The run of a configuration over these rows."""
    config = write_config(folder, write_tickets(folder / "tickets.jsonl", rows), **sections)
    (run,) = plan_missions(load_stage_b(config).run)
    return run
