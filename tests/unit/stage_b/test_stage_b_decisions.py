"""Decisions of people: appended, withdrawn by a row, read back as labels."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plumbline.errors import DamagedFileError, UserError
from plumbline.report.citations import cite
from plumbline.stage_b.config import EngineConfig, OutputConfig, StageBConfig
from plumbline.stage_b.decisions import (
    DECISIONS,
    MAX_NOTE,
    Decision,
    DecisionsInForce,
    keep_decision,
    read_decisions,
    relabelled,
    with_corrected_labels,
)
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.mission_data import MissionData
from plumbline.stage_b.simulation import FOCUS, MISSION, simulate_tickets
from plumbline.stage_b.tickets import Tickets


@pytest.fixture
def run(tmp_path: Path) -> MissionRun:
    config = StageBConfig(stage_a_paths=("none",), engine=EngineConfig(), output=OutputConfig(root=str(tmp_path)))
    tickets = Tickets.of(each.ticket for each in simulate_tickets(6, seed=0))
    made = MissionRun(config, MissionData(MISSION, FOCUS, tickets))
    made.store.folder.mkdir(parents=True)
    return made


def rows(run: MissionRun) -> list[dict]:
    return [json.loads(line) for line in (run.store.folder / DECISIONS).read_text(encoding="utf-8").splitlines()]


def test_the_newest_decision_stands_and_an_undo_brings_the_one_before_back(run: MissionRun) -> None:
    key, other = run.data.tickets[0].key, run.data.tickets[1].key
    assert read_decisions(run) == {}
    keep_decision(run, Decision(key, "pass", who="li", guidance_hash="g", verdict="通过"))
    keep_decision(run, Decision(other, "note", note="模糊\n看不清", who="li"))
    keep_decision(run, Decision(key, "relabel", label="fail", who="wang"))
    standing = read_decisions(run)
    assert list(standing) == [other, key], "the newest last"
    assert (standing[key].outcome, standing[key].label, standing[key].newest.who) == ("fail", "fail", "wang")
    assert (standing[other].outcome, standing[other].notes) == ("", ("模糊\n看不清",))
    keep_decision(run, Decision(key, "undo", who="li"))
    assert (read_decisions(run)[key].outcome, read_decisions(run)[key].label) == ("pass", "")
    keep_decision(run, Decision(key, "undo", who="li"))
    assert list(read_decisions(run)) == [other]
    assert [row["decision"] for row in rows(run)] == ["pass", "note", "relabel", "undo", "undo"], "nothing is erased"
    first = rows(run)[0]
    assert first["key"] == f"{key}/d1" and first["status"] == "ok" and first["at"].endswith("Z")
    assert set(first) == {
        "key",
        "status",
        "ticket",
        "decision",
        "label",
        "note",
        "who",
        "at",
        "guidance_hash",
        "verdict",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        Decision("t", "undo"),
        Decision("t", "maybe"),
        Decision("t", "relabel"),
        Decision("t", "pass", label="fail"),
        Decision("t", "note", note=" \n"),
        Decision("t", "note", note="x" * (MAX_NOTE + 1)),
    ],
)
def test_what_says_nothing_is_not_kept(run: MissionRun, wrong: Decision) -> None:
    with pytest.raises(UserError):
        keep_decision(run, wrong)
    assert read_decisions(run) == {}


def test_a_torn_line_is_set_aside_and_other_rows_are_refused(run: MissionRun) -> None:
    path = run.store.folder / DECISIONS
    keep_decision(run, Decision("a", "pass"))
    with path.open("a") as stream:
        stream.write('{"key": "a/d2", "sta')
    keep_decision(run, Decision("a", "fail"))
    assert [row["decision"] for row in rows(run)] == ["pass", "fail"]
    assert path.with_name(DECISIONS + ".torn").exists()
    with path.open("a") as stream:
        stream.write('{"key": "a/d3", "status": "ok", "ticket": "a", "decision": "perhaps"}\n')
    with pytest.raises(DamagedFileError, match="no decision"):
        read_decisions(run)


def test_people_who_write_at_once_lose_nothing(run: MissionRun) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: keep_decision(run, Decision(f"t{number % 3}", "pass")), range(48)))
    assert len({row["key"] for row in rows(run)}) == 48


def test_a_corrected_label_keeps_the_ticket_s_identity(run: MissionRun) -> None:
    ticket = run.data.tickets[2]
    other = "fail" if ticket.label == "pass" else "pass"
    keep_decision(run, Decision(ticket.key, "relabel", label=other))
    keep_decision(run, Decision(run.data.tickets[3].key, "pass"))
    corrected = with_corrected_labels(run)
    assert [each.key for each in corrected.data.tickets] == [each.key for each in run.data.tickets]
    assert corrected.identity == run.identity, "what was rolled out is not asked again"
    changed = [
        each.key for each, was in zip(corrected.data.tickets, run.data.tickets, strict=True) if each.label != was.label
    ]
    assert changed == [ticket.key]
    back = DecisionsInForce((Decision(ticket.key, "relabel", label=ticket.label),))
    assert relabelled(corrected, {ticket.key: back}).data.tickets[2].label == ticket.label


# ------------------------------------------------------------------------------------------------------------ citations
def test_a_reason_is_cut_into_sentences_that_name_their_photos_and_rules() -> None:
    text = "image_1螺丝未拧紧；图2、照片3符合要求。第1张与第二张按[R7]和【r2】判定，[R9]不适用"
    first, second, third = cite(text, 3, {"R7", "R2"})
    assert (first.photos, second.photos, third.photos, third.rules) == ((1,), (2, 3), (1, 2), ("R7", "R2"))
    assert "".join(part.text for sentence in (first, second, third) for part in sentence.parts) == text


def test_what_does_not_exist_is_no_citation_and_what_hides_is_shown() -> None:
    (sentence,) = cite("image_9 图0 图4 [R1] \u202e\u200b", 3)
    assert (sentence.photos, sentence.rules) == ((), ())
    assert sentence.parts[0].text == "image_9 图0 图4 [R1] \\u202e\\u200b"
    assert cite("", 3) == []
