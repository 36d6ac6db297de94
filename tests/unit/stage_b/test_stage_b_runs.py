"""Whole Stage-B runs: the simulated model or recorded replies answer, everything else is real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plumbline.cli import app
from plumbline.errors import ConfigError, UserError
from plumbline.stage_b.certify import calibrate, read_certificate
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.edit_trial import Budget, try_edit
from plumbline.stage_b.effects import rule_effects
from plumbline.stage_b.estimate import prompt_tokens, spent
from plumbline.stage_b.guidance import Edit, apply_edit, prompt_of
from plumbline.stage_b.loop import MissionReport, run_mission
from plumbline.stage_b.mission import MissionRun, plan_missions
from plumbline.stage_b.reference import reference_page
from plumbline.stage_b.rejudge import rejudge
from plumbline.stage_b.risk import Certificate, Infeasible
from plumbline.stage_b.rollout import Items, VerdictItem, candidates_of
from plumbline.stage_b.simulation import MISSION, RULE
from plumbline.storage.rows import read_rows
from stage_b_folders import Inspector, run_over, ticket_rows, write_config, write_tickets

ROOT = Path(__file__).parents[3]


LARGE_GATE = {"shares": {"propose": 0.3, "gate": 0.6, "calibration": 0.05, "test": 0.05}}
"""The veto on false passes takes about 210 tickets without a new one, half of them fails."""


ELSEWHERE = {"kind": "replay", "replies": "recorded.jsonl"}
"""No folder of weights is there to ask for its tokenizer."""


def one_run(folder: Path, count: int = 60, **sections: Any) -> MissionRun:
    return run_over(folder, ticket_rows(count), **sections)


def test_the_items_of_an_epoch_are_every_ticket_with_every_way(tmp_path: Path) -> None:
    run = one_run(tmp_path, count=3)
    ways = candidates_of(run.config.sampler, seed=0, epoch=2)
    items, plain = (
        Items(run.data.tickets, ways, 2),
        [VerdictItem(t, 2, n, way) for t in run.data.tickets for n, way in enumerate(ways)],
    )
    assert list(items) == plain and len(items) == 12 and len({item.key for item in items}) == 12
    assert [items[place] for place in range(-12, 12)] == plain + plain
    assert items[1::5] == plain[1::5]
    with pytest.raises(IndexError):
        items[12]


def test_a_run_writes_what_the_documents_name(tmp_path: Path) -> None:
    run, engine = one_run(tmp_path, runner={"epochs": 2}), Inspector()
    report = run_mission(run, lambda: engine, Budget())
    assert (report.exit_code, report.epochs, report.calls, len(engine.asked)) == (0, 2, 480, 480)
    rows = list(read_rows(run.store.folder / "trajectories.jsonl"))
    assert len(rows) == len({row["key"] for row in rows}) == 480
    assert set(rows[0]) == {"key", "status", "guidance_hash", "group_id", "mission", "epoch", "result"}
    assert list(rows[0]["result"]) == [
        "candidate_index",
        "temperature",
        "top_p",
        "max_new_tokens",
        "seed",
        "text",
        "verdict",
        "reason",
        "format_ok",
        "created_at",
        "scores",
    ]
    assert set(rows[0]["result"]["scores"]) == {
        "label_match",
        "focus_consistency",
        "heuristic_score",
        "summary_confidence",
        "semantic_advantage",
        "label_contradiction",
        "needs_recheck",
        "rationale_quality",
    }
    assert {row["result"]["seed"] for row in rows if row["epoch"] == 1} == {0, 1, 2, 3}
    orders = [[row["group_id"] for row in rows if row["epoch"] == epoch] for epoch in (1, 2)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    chosen = list(read_rows(run.store.folder / "selections.jsonl"))
    assert len(chosen) == 120 and set(chosen[0]) == {"key", "status", "guidance_hash", "group_id", "mission", "result"}
    assert {"verdict", "reason", "summary_confidence", "selected_candidate"} <= set(chosen[0]["result"])
    guidance = json.loads((run.store.folder / "guidance.json").read_text(encoding="utf-8"))
    assert {"schema", "mission", "step", "updated_at", "focus", "rules", "preferences"} <= set(guidance)
    assert guidance["focus"] == run.data.focus and (run.store.folder / "snapshots" / "step-0000.json").exists()
    again = run_mission(run, lambda: pytest.fail("there is nothing to ask"), Budget())
    assert (again.calls, again.exit_code) == (0, 0)


def test_the_cap_on_questions_stops_within_a_window_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run, engine = one_run(tmp_path, count=30, runner={"epochs": 2}), Inspector()
    calls = []
    for _ in range(20):
        report = run_mission(run, lambda: engine, Budget(37))
        calls.append(report.calls)
        if report.exit_code == 0:
            break
        assert (report.exit_code, report.calls) == (5, 37)
    assert sum(calls) == len(engine.asked) == 240
    whole = one_run(tmp_path / "whole", count=30, runner={"epochs": 2})
    run_mission(whole, Inspector, Budget())
    assert _without_time(run) == _without_time(whole)


def _capped(run: MissionRun) -> MissionReport:
    return run_mission(run, Inspector, Budget.of(run.config.runner).reading(run))


@pytest.mark.parametrize("caps", [{"max_tokens": 9000}, {"max_price": 0.018, "price_per_million_tokens": 2.0}])
def test_the_caps_on_tokens_and_money_stop_a_run_and_the_same_command_goes_on(tmp_path: Path, caps: Any) -> None:
    run = one_run(tmp_path, count=30, runner=caps, engine=ELSEWHERE)
    report = _capped(run)
    tokens = sum(spent(run, report.calls, report.reply_tokens)[:1]) + report.reply_tokens
    one = prompt_tokens(run) + report.reply_tokens / report.calls
    assert report.exit_code == 5 and 0 < report.calls < 120
    assert 9000 <= tokens + 1 < 9000 + 2 * one, "nothing is asked after the cap is reached"
    calls = [report.calls]
    while _capped(run).exit_code == 5:
        calls.append(1)
        assert len(calls) < 20
    whole = one_run(tmp_path / "whole", count=30, engine=ELSEWHERE)
    run_mission(whole, Inspector, Budget())
    assert _without_time(run) == _without_time(whole)


def test_a_budget_that_the_last_question_uses_up_has_not_stopped_the_run(tmp_path: Path) -> None:
    run = one_run(tmp_path, count=10, engine=ELSEWHERE)
    report = run_mission(run, Inspector, Budget(tokens=40 * prompt_tokens(run), prompt_tokens=prompt_tokens(run)))
    assert (report.calls, report.exit_code) == (40, 0)


def test_after_its_hours_a_run_asks_nothing(tmp_path: Path) -> None:
    run = one_run(tmp_path, count=10, runner={"max_hours": 1e-9})
    report = run_mission(run, lambda: pytest.fail("there is no time"), Budget.of(run.config.runner))
    assert (report.calls, report.exit_code) == (0, 5)
    assert run_mission(run, Inspector, Budget.of(replace(run.config.runner, max_hours=1.0))).exit_code == 0


def test_a_cap_on_money_needs_a_price(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing has a price"):
        one_run(tmp_path, runner={"max_price": 1.0})


def _without_time(run: MissionRun) -> list[Any]:
    rows = sorted(read_rows(run.store.trajectories), key=lambda row: row["key"])
    for row in rows:
        del row["result"]["created_at"]
    return [rows, (run.store.folder / "selections.jsonl").read_text()]


def test_a_good_edit_passes_the_gate_and_a_useless_one_does_not(tmp_path: Path) -> None:
    run, engine = one_run(tmp_path, count=400, sampler={"grid": [{}]}, splits=LARGE_GATE), Inspector()
    run_mission(run, lambda: engine, Budget())
    useless = try_edit(run, Edit("add", "照片应当清晰"), lambda: engine, Budget(), source="by hand")
    assert useless.decision is not None and useless.decision["outcome"] == "reject"
    asked = len(engine.asked)
    again = try_edit(run, Edit("add", "照片应当清晰"), lambda: engine, Budget(), source="by hand")
    assert again.decision == useless.decision and len(engine.asked) == asked
    good = try_edit(run, Edit("add", RULE, evidence=("SIM-3-000001",)), lambda: engine, Budget(), source="by hand")
    assert good.decision is not None and good.decision["outcome"] == "accept", good.decision
    guidance = run.store.guidance.read()
    assert guidance is not None
    assert [(rule.id, rule.text, rule.evidence) for rule in guidance.rules] == [("R1", RULE, ("SIM-3-000001",))]
    assert [row["outcome"] for row in run.store.edits()] == ["reject", "accept"]


def test_reflection_proposes_from_wrong_tickets_and_the_next_epoch_is_better(tmp_path: Path) -> None:
    sections = {"runner": {"epochs": 2}, "reflection": {"enabled": True}, "sampler": {"grid": [{}]}}
    sections |= {"splits": LARGE_GATE}
    run, engine = one_run(tmp_path, count=400, **sections), Inspector()
    report = run_mission(run, lambda: engine, Budget())
    assert [decision["outcome"] for decision in report.decisions] == ["accept"]
    rows = list(read_rows(run.store.trajectories))
    right = [
        sum(row["result"]["scores"]["label_match"] for row in rows if row["epoch"] == epoch) / 400 for epoch in (1, 2)
    ]
    assert right[1] == 1.0 > right[0]
    assert len({row["guidance_hash"] for row in rows}) == 2
    assert report.summary["propose"]["right"] == report.summary["propose"]["tickets"]
    assert "test" not in report.summary


def test_the_effect_of_a_rule_is_what_changes_without_it(tmp_path: Path) -> None:
    run, engine = one_run(tmp_path, count=200, sampler={"grid": [{}]}, splits=LARGE_GATE), Inspector()
    with pytest.raises(UserError, match="no rule to leave out"):
        rule_effects(run, lambda: engine, Budget())
    guidance = run.first_guidance()
    for text in (RULE, "照片应当清晰"):
        guidance = apply_edit(guidance, Edit("add", text), 16)
    run.store.guidance.write(guidance)
    stopped, tried = rule_effects(run, lambda: engine, Budget(10))
    assert stopped is None and tried.reports[-1].exit_code == 5
    effects, _ = rule_effects(run, lambda: engine, Budget())
    assert effects is not None
    good, useless = effects
    wrong = sum("缺失" in str(ticket.summaries) and ticket.label == "pass" for ticket in run.of_split("propose"))
    assert (good.rule, good.gains, good.costs) == ("R1", wrong, 0) and wrong > 3
    assert good.effect == pytest.approx(wrong / good.tickets) and 0 < good.low <= good.effect <= good.high
    assert (useless.gains, useless.costs, useless.effect, useless.low, useless.high) == (0, 0, 0, 0, 0)
    asked = len(engine.asked)
    assert rule_effects(run, lambda: engine, Budget())[0] == effects and len(engine.asked) == asked


def test_an_edit_without_gate_tickets_is_unverified_and_costs_nothing(tmp_path: Path) -> None:
    shares = {"shares": {"propose": 1.0, "gate": 0.0, "calibration": 0.0, "test": 0.0}}
    run = one_run(tmp_path, count=10, splits=shares)
    run.store.guidance.write(run.first_guidance())
    tried = try_edit(run, Edit("add", RULE), lambda: pytest.fail("nothing to ask"), Budget(), source="by hand")
    assert tried.decision is not None and tried.decision["outcome"] == "unverified"
    assert not run.store.guidance.read().rules  # type: ignore[union-attr]


def test_going_back_brings_back_the_very_prompt(tmp_path: Path) -> None:
    run = one_run(tmp_path, count=5)
    store = run.store.guidance
    store.write(run.first_guidance())
    prompts = []
    for number in range(4):
        current = store.read()
        assert current is not None
        prompts.append(prompt_of(current))
        store.write(apply_edit(current, Edit("add", f"规则{number}"), 16))
    for step in (2, 0, 3):
        again = store.roll_back(step)
        assert prompt_of(again) == prompts[step] and again.hash == store.snapshot(step).hash
    newest = store.read()
    assert newest is not None
    added = apply_edit(newest, Edit("add", "又一条"), 16)
    assert added.rules[-1].id == "R5"  # no id is used twice, whatever was rolled back
    with pytest.raises(UserError, match="is not kept"):
        store.snapshot(99)


def test_rejudging_asks_nothing_and_follows_the_configuration(tmp_path: Path) -> None:
    run = one_run(tmp_path, count=20)
    run_mission(run, Inspector, Budget())
    same = rejudge(run)
    assert (same.tickets, same.changed) == (20, ())
    assert (run.store.folder / "selections.jsonl").read_bytes() == same.output.read_bytes()
    weights = {"focus_consistency": 0.0, "evidence_support": 0.0, "rationale_quality": 0.0, "heuristic_score": 1.0}
    (other,) = plan_missions(
        load_stage_b(write_config(tmp_path, tmp_path / "tickets.jsonl", judge={"weights": weights})).run
    )
    rejudge(other)
    assert (run.store.folder / "selections.jsonl").read_bytes() != same.output.read_bytes()


def test_a_certificate_is_void_when_the_guidance_changes(tmp_path: Path) -> None:
    shares = {"shares": {"propose": 0.0, "gate": 0.0, "calibration": 1.0, "test": 0.0}}
    run = one_run(tmp_path, count=500, splits=shares, sampler={"grid": [{}]})
    run_mission(run, Inspector, Budget())
    assert isinstance(calibrate(run, 0.001, 0.95), Infeasible)
    found = calibrate(run, 0.02, 0.95)
    assert isinstance(found, Certificate) and found.bound <= 0.02 and 0 < found.coverage < 1
    assert read_certificate(run) == (found, "")
    current = run.store.guidance.read()
    assert current is not None
    run.store.guidance.write(apply_edit(current, Edit("add", RULE), 16))
    certificate, why = read_certificate(run)
    assert certificate is None and "void" in why
    with pytest.raises(UserError, match="another guidance"):
        calibrate(run, 0.02, 0.95)
    run.store.guidance.roll_back(0)
    assert read_certificate(run)[0] == found  # the very same prompt again


def command(*words: object) -> int:
    return int(app([str(word) for word in words], result_action="return_value") or 0)


def test_recorded_replies_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = one_run(tmp_path / "first", count=12)
    run_mission(first, Inspector, Budget())
    config = write_config(
        tmp_path,
        tmp_path / "first" / "tickets.jsonl",
        engine={"kind": "replay", "replies": str(first.store.trajectories)},
        runner={"price_per_million_tokens": 2.0},
    )
    assert command("stage-b", "run", config, "--dry-run", "--json") == 0
    (plan,) = json.loads(capsys.readouterr().out)["runs"]
    assert (plan["tickets"], plan["candidates"], plan["calls"]) == (12, 4, 48)
    assert not (tmp_path / "out").exists()
    assert command("stage-b", "run", config, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert (told["calls"], told["statuses"]) == (48, {"ok": 48})
    assert told["prompt_tokens"] == plan["prompt_tokens"]
    assert told["price"] == pytest.approx((told["prompt_tokens"] + told["reply_tokens"]) * 2e-6)
    (run,) = plan_missions(load_stage_b(config).run)
    assert (run.store.folder / "selections.jsonl").read_text() == (first.store.folder / "selections.jsonl").read_text()
    assert (run.store.folder / "resolved.yaml").exists()
    assert command("stage-b", "calibrate", config, "--json") == 4
    told = json.loads(capsys.readouterr().out)
    assert (told["tickets_needed"], told["looked"]) == (299, 1)
    assert command("stage-b", "calibrate", config, "--max-false-pass", "0.5") == 4
    assert "calibrated 2 times" in capsys.readouterr().out
    assert command("stage-b", "test", config, "--json") == 0
    assert command("stage-b", "test", config, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["looked"] == 2
    assert command("stage-b", "rejudge", config) == 0
    assert "0 are others" in capsys.readouterr().out
    with pytest.raises(UserError, match="no active rule R9"):
        command("stage-b", "edit", config, "--retire", "--rule", "R9")
    assert command("stage-b", "rollback", config, 0) == 0


@pytest.mark.parametrize(
    ("sections", "where", "what"),
    [
        ({"engine": {}}, "engine", "engine.model is needed"),
        ({"engine": {"kind": "replay"}}, "engine.kind", "engine.replies is needed"),
        ({"sampler": {"grid": [{"temperature": 0.0}], "samples_per_decode": 2}}, "", "samples would be equal"),
        ({"sampler": {"grid": []}}, "", "grid"),
        ({"selection": {"policy": "majoritty"}}, "", "majoritty"),
        ({"output": {"run": "../x"}}, "", "not a folder's name"),
        ({"judge": {"weights": {"heuristic_score": 0.9}}}, "", "together 1"),
        ({"gates": {}}, "", "gates"),
        *(({"gate": {name: 0}}, "", name) for name in ("alpha", "margin", "veto_alpha", "power", "max_tests")),
        ({"splits": {"shares": {"gate": 0.9}}}, "", "together 1"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, sections: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_stage_b(write_config(tmp_path, tmp_path / "tickets.jsonl", **sections))


def test_a_mission_without_a_focus_is_refused(tmp_path: Path) -> None:
    tickets = write_tickets(tmp_path / "tickets.jsonl", ticket_rows(3))
    tickets.write_text(tickets.read_text(encoding="utf-8").replace(MISSION, "别的任务"), encoding="utf-8")
    with pytest.raises(ConfigError, match="no focus for 别的任务"):
        plan_missions(load_stage_b(write_config(tmp_path, tickets)).run)


def test_the_reference_page_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "STAGE_B_CONFIG.md").read_text(encoding="utf-8") == reference_page()


def test_the_shipped_configuration_loads() -> None:
    run = load_stage_b(ROOT / "configs" / "stage_b_training_free.yaml").run
    assert (run.seed, run.runner.epochs, run.selection.policy) == (42, 3, "weighted_vote")
