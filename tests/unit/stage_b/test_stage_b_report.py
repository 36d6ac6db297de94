"""What `plumbline review` and `plumbline stage-b report` do with a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plumbline.cli import app
from plumbline.errors import ConfigError, UserError
from plumbline.report import review as page
from plumbline.report import serving
from plumbline.report.review_desk import Desk
from plumbline.report.stage_b_verbs import report, review
from plumbline.stage_b.config import load_stage_b
from plumbline.stage_b.decisions import Decision, keep_decision
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.mission import plan_missions
from plumbline.stage_b.simulation import FOCUS, simulate_tickets
from plumbline.stage_b.verbs import calibrate
from stage_b_folders import Inspector, run_over, ticket_rows

MISSIONS = ("BBU接地线检查", "挡风板安装检查")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with two missions, of which the first has run."""
    rows = []
    for mission in MISSIONS:
        for made in simulate_tickets(8, seed=1):
            ticket = made.ticket
            told = {"group_id": ticket.group_id, "mission": mission, "label": ticket.label}
            rows.append(told | {"images": list(ticket.images), "per_image": dict(ticket.summaries), "failed": {}})
    stage_a = tmp_path / "stage_a.jsonl"
    stage_a.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    missions = tmp_path / "missions.yaml"
    missions.write_text("".join(f"{name}: {FOCUS}\n" for name in MISSIONS), encoding="utf-8")
    file = tmp_path / "run.yaml"
    file.write_text(
        f"stage_a_paths: [{stage_a}]\nmissions_file: {missions}\noutput: {{root: {tmp_path}/out}}\n"
        "engine: {kind: replay, replies: none.jsonl}\n",
        encoding="utf-8",
    )
    run_mission(plan_missions(load_stage_b(file).run, MISSIONS[:1])[0], Passing, Budget())
    return file


class Passing:
    """Passes everything."""

    identity = "passing"

    def stream(self, requests: Any) -> Any:
        from plumbline.infer.engine import Reply

        return (Reply(request.key, "通过\n理由: 图1螺丝符合要求", 9) for request in requests)


def test_the_report_goes_into_the_run_folder_or_where_it_is_asked_to(config: Path, tmp_path: Path, capsys: Any) -> None:
    assert report(config, MISSIONS[0], None) == 0
    assert report(config, MISSIONS[0], tmp_path / "told.html") == 0
    written = capsys.readouterr().out.split()
    assert written == [str(tmp_path / "out" / MISSIONS[0] / "default" / "report.html"), str(tmp_path / "told.html")]
    assert all("SIM-1-000007" in Path(file).read_text("utf-8") for file in written)


def test_page_and_report_read_the_certificate_with_the_labels_that_it_was_made_with(
    tmp_path: Path, capsys: Any
) -> None:
    shares = {"propose": 0.1, "gate": 0.1, "calibration": 0.7, "test": 0.1}
    run = run_over(tmp_path, ticket_rows(150), splits={"shares": shares})
    run_mission(run, Inspector, Budget())
    one, other = [ticket.key for ticket in run.of_split("calibration") if ticket.label == "fail"][:2]
    config, desk = tmp_path / "stage_b.yaml", Desk(run)

    def told() -> set[bool]:
        """Whether a certificate holds: to a page that was open all the time, to a new one, to the report."""
        assert report(config, None, None) == 0
        written = Path(capsys.readouterr().out.strip()).read_text("utf-8")
        assert ("a pass stands by itself: at most" in written) != ("the certificate is void" in written)
        pages = {each.found().certificate is not None for each in (desk, Desk(run))}
        return pages | {"a pass stands by itself: at most" in written}

    def calibrated() -> bool:
        done = calibrate(config, None, 0.15, 0.95, as_json=True) == 0
        capsys.readouterr()
        return done

    assert calibrated() and told() == {True}
    keep_decision(run, Decision(one, "relabel", "pass"))
    assert told() == {False}
    assert calibrated() and told() == {True}
    keep_decision(run, Decision(other, "relabel", "pass"))
    assert told() == {False}
    keep_decision(run, Decision(other, "undo"))
    assert told() == {True}


def test_what_cannot_be_reported_or_reviewed_is_said(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are 2 missions"):
        report(config, None, tmp_path / "r.html")
    with pytest.raises(UserError, match="has no verdicts yet"):
        report(config, MISSIONS[1], None)
    with pytest.raises(ConfigError, match="there are 2 missions"):
        review(config, None, tmp_path, None, 0)
    with pytest.raises(ConfigError, match="is no folder"):
        review(config, MISSIONS[0], tmp_path / "none", None, 0)


def test_the_review_is_served_to_this_machine_and_ends_with_an_interrupt(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    bound: list[str] = []

    def serve(server: Any, sockets: Any) -> None:
        bound.extend(socket.getsockname()[0] for socket in sockets)
        raise KeyboardInterrupt

    monkeypatch.setattr(serving.uvicorn.Server, "run", serve)
    assert review(config, MISSIONS[0], tmp_path, None, 0) == 0
    assert bound == ["127.0.0.1"]
    told = capsys.readouterr().out
    assert "http://127.0.0.1:" in told and "decisions.jsonl" in told


def test_a_port_that_is_taken_is_said(config: Path, tmp_path: Path) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="0 takes any free one"):
            review(config, MISSIONS[0], tmp_path, None, other.getsockname()[1])


def test_a_run_is_named_by_its_folder_as_well(config: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    assert command("stage-b", "run", config, "--mission", MISSIONS[0]) == 0
    folder = tmp_path / "out" / MISSIONS[0] / "default"
    moved = tmp_path / "elsewhere" / MISSIONS[0] / "first"
    moved.parent.mkdir(parents=True)
    folder.rename(moved)
    capsys.readouterr()
    assert command("stage-b", "report", moved) == 0
    assert capsys.readouterr().out.strip() == str(moved / "report.html")
    served: list[Any] = []
    monkeypatch.setattr(page, "serve_review", lambda run, **_: served.append(run.store.folder))
    monkeypatch.chdir(moved)
    assert command("review", ".", "--image-root", tmp_path) == 0
    assert served == [moved] and command("stage-b", "test", moved, "--json") == 0
    with pytest.raises(UserError, match="is no run"):
        review(tmp_path, None, tmp_path, None, 0)
    moved.rename(tmp_path / "first")
    with pytest.raises(UserError, match="a folder of another name"):
        review(tmp_path / "first", None, tmp_path, None, 0)


def command(*words: object) -> int:
    return int(app([str(word) for word in words], result_action="return_value") or 0)
