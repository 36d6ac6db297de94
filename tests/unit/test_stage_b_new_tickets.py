"""New tickets: judged under a run's certificate, refused when unlike, checked by people, and never with a label."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.data.keyed import keyed_generator
from plumbline.errors import DataError
from plumbline.report.review_desk import CHECKED, Desk
from plumbline.report.review_queue import overview, suspect_lines
from plumbline.stage_b.audit import AUTOMATIC, CHECK, PERSON, e_value
from plumbline.stage_b.certify import calibrate, read_certificate
from plumbline.stage_b.decisions import Decision, keep_decision
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.judging import JudgeReport, judge_new, plan_new
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.mission import MissionRun, open_mission
from plumbline.stage_b.mission_store import RESOLVED
from plumbline.stage_b.new_tickets import NewTickets
from plumbline.stage_b.risk import Certificate
from plumbline.stage_b.shift import TicketFacts, find_shifts
from plumbline.stage_b.simulation import SimulatedModel
from plumbline.stage_b.tickets import read_tickets
from plumbline.storage.files import write_atomically
from plumbline.storage.rows import read_rows
from stage_b_folders import run_over, ticket_rows, write_tickets

Row = dict[str, Any]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> MissionRun:
    """A run over 600 simulated tickets with a certificate for 5 %."""
    from plumbline.stage_b.config import resolved_yaml

    folder = tmp_path_factory.mktemp("origin")
    run = run_over(folder, ticket_rows(600), reflection={"enabled": False}, engine={"model": str(tiny_model)})
    run.store.folder.mkdir(parents=True)
    write_atomically(run.store.folder / RESOLVED, resolved_yaml(run.config, {}))
    run_mission(run, SimulatedModel, Budget())
    assert isinstance(calibrate(run, 0.05, 0.9), Certificate)
    return run


def new_rows(count: int, seed: int = 77) -> list[Row]:
    """Rows of Stage-A on folders without labels."""
    return [{name: value for name, value in row.items() if name != "label"} for row in ticket_rows(count, seed)]


def judged(origin: MissionRun, rows: list[Row], name: str, audit: float = 0.3) -> tuple[MissionRun, JudgeReport]:
    file = write_tickets(origin.store.folder.parents[2] / f"{name}.jsonl", rows)
    run = plan_new(origin, [file], name, audit)
    return run, judge_new(run, origin, SimulatedModel, Budget())


def test_tickets_without_labels_are_shared_out_under_the_bound(origin: MissionRun) -> None:
    """The truth of the simulation shows that the automatic passes keep the bound."""
    run, report = judged(origin, new_rows(300), "fresh")
    assert report.shifts == [] and report.why == "" and sum(report.outcomes.values()) == 300
    rows = list(read_rows(run.store.folder / "judged.jsonl"))
    truth = {row["group_id"]: row["label"] for row in ticket_rows(300, 77)}
    passed = [truth[row["group_id"]] == "fail" for row in rows if row["decision"] != PERSON]
    assert len(passed) > 30 and np.mean(passed) <= 0.05
    checked = sum(row["decision"] == CHECK for row in rows) / len(passed)
    assert 0.15 < checked < 0.45
    assert all(row["verdict"] == "通过" for row in rows if row["decision"] in (AUTOMATIC, CHECK))
    again = judge_new(run, origin, _no_engine, Budget())
    assert again.outcomes == report.outcomes, "a second time nothing is asked"


def _no_engine() -> Any:
    raise AssertionError("nothing is left to ask")


def test_a_label_in_the_file_is_never_read(origin: MissionRun) -> None:
    """Right labels, wrong labels and none give the same files."""
    found = []
    for name, change in (("bare", {}), ("all_pass", {"label": "pass"}), ("odd", {"label": "?"})):
        run, _ = judged(origin, [row | change for row in new_rows(40, 5)], name)
        found.append((run.store.folder / "judged.jsonl").read_bytes())
        trajectories = list(read_rows(run.store.trajectories))
        assert all(row["result"]["scores"]["label_match"] is None for row in trajectories if row["result"]["scores"])
    assert found[0] == found[1] == found[2]


def test_tickets_of_another_kind_are_refused(origin: MissionRun) -> None:
    """A thing that the calibration never saw is on every second photo: nothing passes, and the reason is said."""
    rows = new_rows(200, 9)
    for row in rows[::2]:
        row["per_image"]["image_1"] += "，空调/有遮挡×1"
    run, report = judged(origin, rows, "shifted")
    assert report.bound is None and "空调" in report.why and "unlike" in report.why
    assert report.outcomes == {AUTOMATIC: 0, CHECK: 0, PERSON: 200}
    reopened, _ = open_mission(run.store.folder, None)
    desk = Desk(reopened)
    assert desk.found().automatic == 0 and "unlike" in desk.found().why_uncertified


def test_the_desk_shows_new_tickets_without_labels_splits_or_suspects(origin: MissionRun) -> None:
    run, report = judged(origin, new_rows(120, 12), "desk")
    reopened, _ = open_mission(run.store.folder, None)
    desk = Desk(reopened)
    page = overview(desk, 1)
    assert page["automatic"] == report.outcomes[AUTOMATIC] and page["splits"] == [] and suspect_lines(desk) == []
    assert sum(entry.why == (CHECKED,) for entry in desk.found().queue) == report.outcomes[CHECK] > 0
    assert {entry.ticket.label for entry in desk.found().queue} == {""}
    key = desk.found().queue[0].ticket.key
    keep_decision(reopened, Decision(key, "pass", who="a"))
    assert desk.decisions()[key].outcome == "pass"


def test_failed_checks_void_the_certificate_everywhere(origin: MissionRun, tmp_path: Path) -> None:
    """Passes that people find to be fails: the run and every folder of new tickets lose the certificate."""
    run, report = judged(origin, new_rows(150, 21), "audited", audit=1.0)
    assert report.outcomes[AUTOMATIC] == 0 and report.outcomes[CHECK] >= 12
    checks = [row["key"] for row in read_rows(run.store.folder / "judged.jsonl") if row["decision"] == CHECK]
    for key in checks[:2]:
        keep_decision(run, Decision(key, "pass", who="a"))
    assert read_certificate(origin)[0] is not None
    for key in checks[2:8]:
        keep_decision(run, Decision(key, "fail", who="a"))
    certificate, why = read_certificate(origin)
    assert certificate is None and "6 of 8 checked automatic passes are fails" in why
    assert Desk(run).found().automatic == 0
    _, later = judged(origin, new_rows(30, 31), "later")
    assert later.bound is None and "checked automatic passes" in later.why
    for key in checks[2:8]:
        keep_decision(run, Decision(key, "undo", who="a"))
    assert read_certificate(origin)[0] is not None, "decisions that were taken back do not count"


def test_checks_never_accuse_a_certificate_that_holds() -> None:
    """At the bound itself the certificate is voided in at most a tenth of the histories, though one looks each time."""
    alarms = 0
    for history in range(400):
        errors = keyed_generator(0, 0, history, "audit").random(400) < 0.05
        alarms += e_value(errors.tolist(), 0.05) >= 10
    assert alarms <= 0.1 * 400 + 2 * np.sqrt(0.1 * 0.9 * 400)


@pytest.mark.parametrize(("rate", "bound", "most"), [(0.2, 0.05, 120), (0.5, 0.05, 25), (0.05, 0.01, 300)])
def test_checks_find_a_bound_that_is_broken(rate: float, bound: float, most: int) -> None:
    found = 0
    for history in range(100):
        errors = keyed_generator(1, 0, history, "audit").random(most) < rate
        found += e_value(errors.tolist(), bound) >= 20
    assert found >= 80


def test_the_e_value_is_the_best_along_the_way() -> None:
    assert e_value([], 0.05) == 1.0
    early = e_value([True] * 4, 0.05)
    assert early > 20 and e_value([True] * 4 + [False] * 500, 0.05) == early
    assert e_value([False] * 1000, 0.05) == 1.0
    assert np.isfinite(e_value([True] * 100_000, 0.01))


def test_like_tickets_are_rarely_called_shifted_and_unlike_ones_are() -> None:
    def facts(number: int, rate: float, seed: int, centre: float = 0.6) -> list[TicketFacts]:
        draw = keyed_generator(seed, 0, 0, "facts")
        names = [frozenset(name for name in "abcdef" if draw.random() < rate) for _ in range(number)]
        return [TicketFacts(own, 3, False, float(np.clip(draw.normal(centre, 0.2), 0, 1))) for own in names]

    alarms = sum(bool(find_shifts(facts(200, 0.4, seed), facts(300, 0.4, 1000 + seed))) for seed in range(100))
    assert alarms <= 4
    assert all(find_shifts(facts(200, 0.4, seed), facts(300, 0.62, 1000 + seed)) for seed in range(10))
    (score, *_) = find_shifts(facts(200, 0.4, 1), facts(300, 0.4, 2, centre=0.45))
    assert "score" in score.what
    more = [replace(each, photos=5) for each in facts(300, 0.4, 3)]
    assert any("photos" in shift.what for shift in find_shifts(facts(200, 0.4, 4), more))


def test_the_draw_of_checks_follows_its_share() -> None:
    for share in (0.0, 0.05, 0.5, 1.0):
        new = NewTickets(Path("run"), "", share)
        drawn = sum(new.is_audited(f"ticket {number}") for number in range(2000)) / 2000
        assert drawn == pytest.approx(share, abs=0.03)


def test_the_verb_and_its_refusals(origin: MissionRun, plumbline, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("plumbline.stage_b.verbs.open_verdict_engine", lambda config: SimulatedModel())
    file = write_tickets(tmp_path / "new.jsonl", new_rows(6, 3))
    run = str(origin.store.folder)
    code, out, err = plumbline("stage-b", "judge", str(file), "--run", run)
    assert code == 0, err
    folder = shlex.quote(str(origin.store.folder.parent / "default-new"))
    assert "6 new tickets" in out and f"Next: plumbline review {folder}" in out
    code, out, err = plumbline("stage-b", "judge", str(file), "--run", run, "--json")
    assert code == 0 and sum(json.loads(out)["outcomes"].values()) == 6, err
    for words, what in (
        (["--name", "default"], "--name"),
        (["--name", "../x"], "--name"),
        (["--audit", "1.5"], "--audit"),
    ):
        code, _, err = plumbline("stage-b", "judge", str(file), "--run", run, *words)
        assert code == 2 and what in err
    code, _, err = plumbline("stage-b", "judge", str(tmp_path / "none.jsonl"), "--run", run)
    assert code == 2 and "none.jsonl" in err
    other = write_tickets(tmp_path / "other.jsonl", [row | {"mission": "别的"} for row in new_rows(2)])
    code, _, err = plumbline("stage-b", "judge", str(other), "--run", run)
    assert code == 2 and "no ticket of" in err


def test_a_run_wants_labels_and_says_who_does_not(tmp_path: Path) -> None:
    file = write_tickets(tmp_path / "new.jsonl", new_rows(1))
    with pytest.raises(DataError, match="stage-b judge"):
        read_tickets([file])
    (ticket,) = read_tickets([file], labelled=False)
    assert ticket.label == "" and ticket.key == f"{ticket.mission}/{ticket.group_id}"


def test_another_guidance_needs_another_folder(origin: MissionRun, tmp_path: Path) -> None:
    from plumbline.errors import UserError
    from plumbline.stage_b.guidance import Edit, apply_edit

    file = write_tickets(origin.store.folder.parents[2] / "guided.jsonl", new_rows(4, 8))
    run = plan_new(origin, [file], "guided")
    judge_new(run, origin, SimulatedModel, Budget())
    before = origin.store.guidance.read()
    assert before is not None
    origin.store.guidance.write(apply_edit(before, Edit("add", "新规则"), 20))
    try:
        with pytest.raises(UserError, match="earlier guidance"):
            plan_new(origin, [file], "guided")
        _, report = judged(origin, new_rows(4, 8), "after")
        assert report.bound is None and "void" in report.why
    finally:
        origin.store.guidance.roll_back(before.step)
