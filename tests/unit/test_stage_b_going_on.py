"""A Stage-B run that was stopped, changed or rolled back in between: it goes on, or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import UserError
from plumbline.stage_b.certify import calibrate, read_certificate
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.gating import Budget
from plumbline.stage_b.guidance import Edit, apply_edit
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.mission import SELECTIONS, MissionRun, plan_missions
from plumbline.stage_b.risk import Certificate
from stage_b_folders import Inspector, run_over, ticket_rows, write_config

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
        guidance = run.store.read()
        assert guidance is not None
        run.store.write(apply_edit(guidance, Edit("add", f"规则{text}"), 16))
    again = changed(run, **sections, runner={"epochs": 2})
    assert run_mission(again, Inspector, Budget()).exit_code == 0
    assert run.store.steps() == [0, 3]


def test_verdicts_that_a_crash_kept_from_being_written_are_written_by_the_next_command(tmp_path: Path) -> None:
    sections = {"sampler": GREEDY, "runner": {"epochs": 2}}
    run = run_over(tmp_path, ticket_rows(8), **sections)
    run_mission(run, Inspector, Budget())
    path = run.folder / SELECTIONS
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:8]))  # as it was after the first epoch
    state = run.read_state()
    run.write_state(state | {"selected": state["selected"] | {"trajectories": 1}})
    report = run_mission(run, lambda: pytest.fail("there is nothing to ask"), Budget())
    assert (report.calls, path.read_bytes()) == (0, whole)


def test_another_policy_selects_anew_and_other_weights_do_not_mix_with_the_old_ones(tmp_path: Path) -> None:
    run = run_over(tmp_path, ticket_rows(8), sampler=GREEDY, splits=ALL_CALIBRATION)
    run_mission(run, Inspector, Budget())
    other = changed(run, sampler=GREEDY, splits=ALL_CALIBRATION, selection={"policy": "top_semantic"})
    with pytest.raises(UserError, match="selected in another way"):
        calibrate(other, 0.9, 0.95)
    first = (run.folder / SELECTIONS).stat().st_mtime_ns
    assert run_mission(other, lambda: pytest.fail("there is nothing to ask"), Budget()).calls == 0
    assert (run.folder / SELECTIONS).stat().st_mtime_ns > first
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
