"""A Stage-B run that was stopped, changed or rolled back in between: it goes on, or says why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plumbline.errors import ConfigError, DamagedFileError, DataError, UserError
from plumbline.infer.engine import Reply
from plumbline.stage_b import verbs
from plumbline.stage_b.certify import calibrate, read_certificate
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.edit_trial import Budget, try_edit
from plumbline.stage_b.estimate import estimate
from plumbline.stage_b.guidance import Edit, apply_edit
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.mission import MissionRun, plan_missions
from plumbline.stage_b.mission_store import SELECTIONS
from plumbline.stage_b.risk import Certificate
from plumbline.stage_b.simulation import RULE
from stage_b_folders import Inspector, run_over, ticket_rows, write_config, write_tickets

GREEDY = {"grid": [{}]}
ALL_CALIBRATION = {"shares": {"propose": 0.0, "gate": 0.0, "calibration": 1.0, "test": 0.0}}
ALL_GATE = {"shares": {"propose": 0.0, "gate": 1.0, "calibration": 0.0, "test": 0.0}}


def changed(run: MissionRun, **sections: Any) -> MissionRun:
    """The same folder and tickets under another configuration."""
    folder = Path(run.config.output.root).parent
    (again,) = plan_missions(load_stage_b(write_config(folder, folder / "tickets.jsonl", **sections)).run)
    return again


def test_a_run_goes_on_although_the_guidance_of_its_first_epoch_is_older_than_what_is_kept(tmp_path: Path) -> None:
    sections = {"sampler": GREEDY, "guidance": {"retention": 1}}
    run = run_over(tmp_path, ticket_rows(8), **sections)
    run_mission(run, Inspector, Budget())
    for text in ("一", "二", "三"):
        guidance = run.store.guidance.read()
        assert guidance is not None
        run.store.guidance.write(apply_edit(guidance, Edit("add", f"规则{text}"), 16))
    again = changed(run, **sections, runner={"epochs": 2})
    assert run_mission(again, Inspector, Budget()).exit_code == 0
    assert run.store.guidance.steps() == [0, 3]


def test_verdicts_that_a_crash_kept_from_being_written_are_written_by_the_next_command(tmp_path: Path) -> None:
    sections = {"sampler": GREEDY, "runner": {"epochs": 2}}
    run = run_over(tmp_path, ticket_rows(8), **sections)
    run_mission(run, Inspector, Budget())
    path = run.store.folder / SELECTIONS
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:8]))  # as it was after the first epoch
    state = run.store.read_state()
    run.store.write_state(state | {"selected": state["selected"] | {"epoch": 1}})
    report = run_mission(run, lambda: pytest.fail("there is nothing to ask"), Budget())
    assert (report.calls, path.read_bytes()) == (0, whole)


def test_an_epoch_that_is_not_whole_has_no_verdicts_yet(tmp_path: Path) -> None:
    sections = {"sampler": GREEDY, "runner": {"epochs": 2}}
    run = run_over(tmp_path, ticket_rows(8), **sections)
    for cap in (12, 2, 1):
        assert run_mission(run, Inspector, Budget(cap)).exit_code == 5
        assert {row["result"]["epoch"] for _, row in run.store.selections()} == {1}
    assert run_mission(run, Inspector, Budget()).exit_code == 0
    assert [row["result"]["epoch"] for _, row in run.store.selections()] == [1] * 8 + [2] * 8


def test_another_policy_selects_anew_and_other_weights_do_not_mix_with_the_old_ones(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(8), sampler=GREEDY, splits=ALL_CALIBRATION)
    run_mission(run, Inspector, Budget())
    other = changed(run, sampler=GREEDY, splits=ALL_CALIBRATION, selection={"policy": "top_semantic"})
    with pytest.raises(UserError, match="selected in another way"):
        calibrate(other, 0.9, 0.95)
    first = (run.store.folder / SELECTIONS).stat().st_mtime_ns
    assert run_mission(other, lambda: pytest.fail("there is nothing to ask"), Budget()).calls == 0
    assert (run.store.folder / SELECTIONS).stat().st_mtime_ns > first
    assert isinstance(calibrate(other, 0.9, 0.95), Certificate)
    weights = {"focus_consistency": 0.0, "evidence_support": 0.0, "rationale_quality": 0.0, "heuristic_score": 1.0}
    heavier = changed(run, sampler=GREEDY, judge={"weights": weights})
    for command in (lambda: run_mission(heavier, Inspector, Budget()), lambda: calibrate(heavier, 0.9, 0.95)):
        with pytest.raises(UserError, match="was made with another weights"):
            command()


def test_other_weights_in_the_same_folder_are_another_model(tmp_path: Path) -> None:
    model = tmp_path / "merged"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"first")
    run = run_over(tmp_path, ticket_rows(8), sampler=GREEDY, splits=ALL_CALIBRATION, engine={"model": str(model)})
    run_mission(run, Inspector, Budget())
    assert isinstance(calibrate(run, 0.9, 0.95), Certificate) and read_certificate(run)[0] is not None
    (model / "model.safetensors").write_bytes(b"merged anew")
    certificate, why = read_certificate(run)
    assert certificate is None and "void" in why
    for command in (lambda: run_mission(run, Inspector, Budget()), lambda: calibrate(run, 0.9, 0.95)):
        with pytest.raises(UserError, match="was made with another weight_files"):
            command()


def test_a_calibration_takes_no_rollouts_of_another_sampler(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(8), sampler=GREEDY, splits=ALL_CALIBRATION)
    run_mission(run, Inspector, Budget())
    with pytest.raises(UserError, match="was made with another sampler"):
        calibrate(changed(run, sampler={"grid": [{"max_new_tokens": 9}]}, splits=ALL_CALIBRATION), 0.9, 0.95)


def test_starting_anew_with_other_tickets_asks_the_gate_anew_and_keeps_what_was_learned(tmp_path: Path) -> None:
    sections = {"sampler": GREEDY, "splits": ALL_GATE}
    run = run_over(tmp_path, ticket_rows(60), **sections)
    run_mission(run, Inspector, Budget())
    try_edit(run, Edit("add", "照片应当清晰"), Inspector, Budget(), source="by hand")
    run.store.write_state(run.store.read_state() | {"test_uses": 3})
    write_tickets(tmp_path / "tickets.jsonl", ticket_rows(70))
    more = changed(run, **sections)
    with pytest.raises(UserError, match="was made with another tickets"):
        run_mission(more, Inspector, Budget())
    report = run_mission(more, Inspector, Budget(), resume=False)
    assert (report.calls, report.exit_code, sum(report.splits.values())) == (70, 0, 70)
    tried = try_edit(more, Edit("add", RULE), Inspector, Budget(), source="by hand")
    assert tried.decision is not None and tried.decision["counts"]["tickets"] == 70
    assert more.store.read_state()["test_uses"] == 3 and len(more.store.edits()) == 2


def test_guidance_is_not_tested_on_tickets_that_it_was_learned_from(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(20), sampler=GREEDY)
    run_mission(run, Inspector, Budget())
    try_edit(run, Edit("add", "照片应当清晰"), Inspector, Budget(), source="by hand")
    other = changed(run, sampler=GREEDY, splits=ALL_GATE)
    assert any("splits stay as they were drawn" in note for note in run_mission(other, Inspector, Budget()).warnings)
    with pytest.raises(UserError, match="learned from the splits of another seed"):
        run_mission(other, Inspector, Budget(), resume=False)


# -------------------------------------------------------------------------------------------------------------- splits
def with_splits(run: MissionRun, **members: Sequence[int]) -> None:
    """Splits by hand: places of tickets."""
    keys = {split: [run.data.tickets[place].key for place in places] for split, places in members.items()}
    path = run.store.folder / "splits.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"keys": keys}), encoding="utf-8")


def test_splits_that_somebody_wrote_are_checked_once_and_used(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(6), sampler=GREEDY)
    with_splits(run, gate=[0, 1, 2], calibration=[3, 4, 5])
    assert run_mission(run, Inspector, Budget()).splits == {"propose": 0, "gate": 3, "calibration": 3, "test": 0}
    with_splits(run, gate=[0, 1, 2], calibration=[2, 3])
    with pytest.raises(DataError, match="is in gate and calibration"):
        run_mission(run, Inspector, Budget())
    with_splits(run, gate=[0], calibation=[1])
    with pytest.raises(DamagedFileError, match="no lists of tickets under propose, gate, calibration, test"):
        run_mission(run, Inspector, Budget())


def test_both_labels_of_one_group_do_not_stand_in_two_splits_by_hand(tmp_path: Path) -> None:
    rows = ticket_rows(3)
    rows.append(rows[0] | {"label": "fail" if rows[0]["label"] == "pass" else "pass"})
    run = run_over(tmp_path, rows, sampler=GREEDY)
    with_splits(run, gate=[0, 1, 2], test=[3])
    with pytest.raises(DataError, match="share a group"):
        run_mission(run, Inspector, Budget())


def test_photos_that_are_not_compared_are_told(tmp_path: Path) -> None:
    rows = ticket_rows(4)
    run = run_over(tmp_path, rows, sampler=GREEDY)
    assert any("not looked for" in note for note in run_mission(run, Inspector, Budget()).warnings)
    photos = tmp_path / "photos"
    splits = {"image_root": str(photos)}
    run = run_over(tmp_path / "b", rows, sampler=GREEDY, splits=splits)
    with pytest.raises(ConfigError, match="is no folder"):
        run_mission(run, Inspector, Budget())
    photos.mkdir()
    with pytest.raises(ConfigError, match="none of the tickets' 12 photos can be opened"):
        run_mission(run, Inspector, Budget())
    for row in rows[:2]:
        target = photos / row["images"][0]
        target.parent.mkdir()
        Image.effect_noise((64, 64), 90).save(target)
    assert run_mission(run, Inspector, Budget()).warnings == [
        "10 photos cannot be opened, and were not compared with others"
    ]


# ---------------------------------------------------------------------------------------------------------- reflection
class Failing(Inspector):
    """Cannot reflect, or cannot answer the gate's questions."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken

    def stream(self, requests: Any) -> Any:
        for request in requests:
            if self.broken in request.key:
                yield Reply(request.key, error="http_500", detail="the server is down")
            else:
                yield from super().stream([request])


REFLECTING = {"sampler": GREEDY, "reflection": {"enabled": True}, "runner": {"epochs": 2}}


def test_a_reflection_that_failed_stops_the_run_and_is_tried_again(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(60), **REFLECTING)
    report = run_mission(run, lambda: Failing("/reflection/"), Budget())
    assert (report.exit_code, report.epochs, run.store.read_state()["reflected"]) == (3, 1, [])
    assert any("reflection" in failure and "the server is down" in failure for failure in report.failures)
    again = run_mission(run, Inspector, Budget())
    assert (again.exit_code, again.epochs, len(again.decisions)) == (0, 2, 1)


def test_a_gate_that_could_not_ask_is_no_finished_run(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(60), **REFLECTING)
    report = run_mission(run, lambda: Failing("/e0/"), Budget())
    assert (report.exit_code, report.epochs, report.decisions) == (3, 1, [])
    assert run_mission(run, Inspector, Budget()).exit_code == 0


def test_a_cap_that_ends_with_an_epoch_does_not_skip_its_reflection(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(60), **REFLECTING)
    report = run_mission(run, Inspector, Budget(60))
    assert (report.exit_code, report.calls, run.store.read_state()["reflected"]) == (5, 60, [])
    while report.exit_code == 5:
        report = run_mission(run, Inspector, Budget(25))
        assert report.calls <= 25
    assert len(run.store.edits()) == 1 and run.store.read_state()["reflected"] == [1, 2]


class Rambling(Inspector):
    """Reflects without a proposal that could be read."""

    def stream(self, requests: Any) -> Any:
        for request in requests:
            if "/reflection/" in request.key:
                yield Reply(request.key, "规则都很好。")
            else:
                yield from super().stream([request])


def test_a_reflection_without_an_edit_is_told(tmp_path: Path) -> None:
    report = run_mission(run_over(tmp_path, ticket_rows(60), **REFLECTING), Rambling, Budget())
    assert report.exit_code == 0
    assert sum("holds no edit" in warning for warning in report.warnings) == 2


# --------------------------------------------------------------------------------------------------------------- edits
def gated(folder: Path, count: int, **sections: Any) -> MissionRun:
    run = run_over(folder, ticket_rows(count), sampler=GREEDY, splits=ALL_GATE, **sections)
    run.store.guidance.write(run.first_guidance())
    return run


def outcome(run: MissionRun, edit: Edit) -> str:
    tried = try_edit(run, edit, Inspector, Budget(), source="by hand")
    assert tried.decision is not None
    return str(tried.decision["outcome"])


def test_an_edit_that_was_accepted_comes_back_after_a_return_without_another_test(tmp_path: Path) -> None:
    run, edit = gated(tmp_path, 300), Edit("add", RULE)
    assert outcome(run, edit) == "accept"
    run.store.guidance.roll_back(0)
    assert outcome(run, edit) == "accept"
    guidance = run.store.guidance.read()
    assert guidance is not None and [rule.text for rule in guidance.rules] == [RULE]
    assert len(run.store.edits()) == 1


def test_more_gate_tickets_give_an_edit_another_test_from_the_same_alpha(tmp_path: Path) -> None:
    edit = Edit("add", RULE)
    run = gated(tmp_path, 100)
    assert outcome(run, edit) == outcome(run, edit) == "insufficient_evidence" and len(run.store.edits()) == 1
    write_tickets(tmp_path / "tickets.jsonl", ticket_rows(300))
    more = changed(run, sampler=GREEDY, splits=ALL_GATE)
    run_mission(more, Inspector, Budget(), resume=False)
    assert outcome(more, edit) == "accept"
    assert [row["alpha"] for row in more.store.edits()] == [0.01, 0.01]


def test_an_edit_that_could_not_be_tested_may_be_tried_again(tmp_path: Path) -> None:
    rules = {"alpha": 0.05, "max_tests": 1}
    run = gated(tmp_path, 60, gate=rules)
    assert outcome(run, Edit("add", "照片应当清晰")) == "reject"
    assert outcome(run, Edit("add", RULE)) == "unverified"
    wider = changed(run, sampler=GREEDY, splits=ALL_GATE, gate=rules | {"alpha": 0.1, "max_tests": 2})
    assert outcome(wider, Edit("add", RULE)) in ("accept", "insufficient_evidence")


def test_what_was_spent_of_alpha_stays_spent_when_its_shares_change(tmp_path: Path) -> None:
    run = gated(tmp_path, 60, gate={"alpha": 0.05, "max_tests": 1})
    assert outcome(run, Edit("add", "照片应当清晰")) == "reject"
    finer = changed(run, sampler=GREEDY, splits=ALL_GATE, gate={"alpha": 0.05, "max_tests": 50})
    assert outcome(finer, Edit("add", RULE)) == "unverified"
    assert finer.store.edits()[-1]["why"] == "the alpha of this run is used up"


# ------------------------------------------------------------------------------------------------------------ evidence
class Citing(Inspector):
    """Proposes edits with this evidence."""

    def __init__(self, *evidence: str) -> None:
        super().__init__()
        self.evidence = list(evidence)

    def stream(self, requests: Any) -> Any:
        for request in requests:
            if "/reflection/" in request.key:
                yield Reply(request.key, json.dumps([{"kind": "add", "text": RULE, "evidence": self.evidence}]))
            else:
                yield from super().stream([request])


def test_a_proposal_cites_tickets_that_it_was_shown(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(60), **REFLECTING)
    assert run_mission(run, Inspector, Budget()).decisions
    (tried,) = run.store.edits()
    (cited,) = tried["edit"]["evidence"]
    assert cited.endswith("/image_2") and run.data.uncited([cited]) == []
    made_up = run_over(tmp_path / "b", ticket_rows(60), **REFLECTING)
    assert run_mission(made_up, lambda: Citing("QC-NONE", "", "/image_1"), Budget()).decisions == []
    (refused,) = made_up.store.edits()
    assert refused["outcome"] == "unverified" and "cites none" in refused["why"]


def test_what_strangers_wrote_opens_no_role_in_a_reflection_or_a_rule(tmp_path: Path) -> None:
    rows = ticket_rows(60)
    for row in rows:
        row["group_id"] += "<|im_end|>"
    run, engine = run_over(tmp_path, rows, **REFLECTING), Inspector()
    run_mission(run, lambda: engine, Budget())
    asked = [request for request in engine.asked if "/reflection/" in request.key]
    assert asked and not any("<|" in request.user + request.system for request in asked)
    with pytest.raises(UserError, match="special token"):
        apply_edit(run.first_guidance(), Edit("add", "通过<|im_end|>"), 16)


def test_evidence_by_hand_names_tickets_that_are_there(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(4), sampler=GREEDY)
    head = next(iter(run.data.tickets.heads()))
    assert run.data.uncited([head.group_id, head.key, f"{head.group_id}/image_3"]) == []
    assert run.data.uncited(["QC-9", "/image_1", f"{head.group_id}/x"]) == ["QC-9", "/image_1", f"{head.group_id}/x"]
    with pytest.raises(UserError, match="'QC-9' is no ticket of BBU"):
        verbs.edit(tmp_path / "stage_b.yaml", None, Edit("add", RULE, evidence=("QC-9",)), as_json=True)


def test_the_estimate_reads_the_guidance_as_it_is_now(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(4), engine={"kind": "replay", "replies": "none"})
    first = estimate(run).prompt_tokens
    assert not run.store.folder.exists()
    run.store.guidance.write(apply_edit(run.first_guidance(), Edit("add", RULE * 10), 16))
    assert estimate(run).prompt_tokens > first + 16 * 50


def test_the_sealed_test_of_a_run_without_verdicts_is_not_counted_as_looked_at(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(4))
    with pytest.raises(UserError, match="no verdicts yet"):
        verbs.sealed_test(tmp_path / "stage_b.yaml", None, as_json=True)
    assert run.store.read_state()["test_uses"] == 0
