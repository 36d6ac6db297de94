"""Tickets whose replies cannot be read have no verdict: neither a pass nor a fail, and a person must look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plumbline.errors import EXIT_FINDINGS, EXIT_OK
from plumbline.infer.engine import Reply
from plumbline.report.review_desk import Desk, suspects_of
from plumbline.report.review_photos import Photos
from plumbline.report.review_ticket import view_ticket
from plumbline.report.stage_b import write_stage_b_report
from plumbline.stage_b.certify import auto_score
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.gate import Counts
from plumbline.stage_b.loop import figures_of, run_mission
from plumbline.stage_b.reflection import wrong_cases
from stage_b_folders import Inspector, run_over, ticket_rows


class Mumbling(Inspector):
    """Answers the tickets in `lost` with what is no verdict."""

    lost: frozenset[str] = frozenset()

    def stream(self, requests):
        for request, reply in zip(requests, super().stream(requests), strict=True):
            is_lost = request.key.split("/")[2] in self.lost
            yield Reply(request.key, "很难说") if is_lost else reply


@pytest.fixture
def run(tmp_path):
    run = run_over(tmp_path, ticket_rows(40), reflection={"enabled": False})
    Mumbling.lost = frozenset(head.group_id for head in list(run.data.tickets.heads())[:6])
    report = run_mission(run, Mumbling, Budget())
    assert report.exit_code == EXIT_OK
    return run


def lost_rows(run):
    return [row for _, row in run.store.selections() if row["group_id"] in Mumbling.lost]


def test_the_row_has_no_verdict(run):
    rows = lost_rows(run)
    assert len(rows) == 6
    for row in rows:
        assert (row["status"], row["result"]["verdict"]) == ("invalid", None)
        assert (row["result"]["summary_confidence"], auto_score(row)) == ("needs_review", 0.0)


def test_they_are_counted_apart(run):
    for figures in figures_of(run, None).values():
        right, wrong = figures["right"], figures["false_passes"] + figures["false_fails"]
        assert right + wrong + figures["no_verdict"] == figures["tickets"]
    assert sum(figures["no_verdict"] for figures in figures_of(run, None).values()) == 6


def test_they_are_no_suspects_and_teach_nothing(run):
    found = Desk(run).found()
    assert not {suspect.key.split("/")[-1] for suspect in suspects_of(run, found, {})} & Mumbling.lost
    assert not {case["工单"] for case in wrong_cases(run)} & Mumbling.lost


def test_page_and_report_show_no_verdict_in_grey(run, tmp_path):
    desk = Desk(run)
    found = desk.found()
    number = next(n for n, head in enumerate(run.data.tickets.heads(), 1) if head.group_id in Mumbling.lost)
    view = view_ticket(desk, found, number, Photos(None))
    assert view is not None and view.verdict is None
    assert any("no verdict" in reason for reason in view.why)
    html = write_stage_b_report(run, tmp_path / "report.html").read_text("utf-8")
    assert html.count('<span class="badge">no verdict</span>') == 6
    assert "<b>6</b><span>no verdict: unreadable</span>" in html


def test_the_gate_takes_none_for_neither_right_nor_a_false_pass():
    is_fail = [True, True, True, False, True]
    counts = Counts.of(is_fail, [True, None, False, True, None], [None, True, None, None, False])
    assert (counts.fixed, counts.broken, counts.without_verdict) == (1, 2, 3)
    assert (counts.new_false_passes, counts.cured_false_passes) == (1, 1)
    flags = np.random.default_rng(0).random((3, 200)) < 0.5
    counts = Counts.of(*flags)
    fail, before, now = flags
    assert counts.new_false_passes == int((fail & before & ~now).sum()) and counts.without_verdict == 0


def test_a_run_without_a_readable_reply_says_why_and_exits_3(tmp_path):
    run = run_over(tmp_path, ticket_rows(12), reflection={"enabled": False})
    Mumbling.lost = frozenset(head.group_id for head in run.data.tickets.heads())
    for _ in range(2):  # and again when there is nothing to ask
        report = run_mission(run, Mumbling, Budget())
        assert report.exit_code == EXIT_FINDINGS
        assert "the first line is not 通过 or 不通过 (48 times)" in report.unreadable


def test_verdicts_of_an_earlier_version_are_selected_again(run, tmp_path: Path):
    """Where a ticket without a readable reply was 不通过."""
    path = run.store.folder / "selections.jsonl"
    text = path.read_text("utf-8").replace('"verdict": null', '"verdict": "不通过"')
    path.write_text(text, "utf-8")
    state = run.store.read_state()
    del state["selected"]["selection"]["unreadable"]
    run.store.write_state(state)
    run_mission(run, Mumbling, Budget())
    assert all(row["result"]["verdict"] is None for row in lost_rows(run))
    assert json.loads(path.read_text("utf-8").splitlines()[0])["key"]
