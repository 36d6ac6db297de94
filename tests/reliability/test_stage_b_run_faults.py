"""Whole Stage-B runs under what goes wrong: instructions in summaries, guidance that goes back and forth, caps."""

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image
from test_stage_b_faults import PAYLOADS

from plumbline.errors import DataError, UserError
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.guidance import Edit, GuidanceStore, apply_edit, prompt_of, start
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.rollout import question
from plumbline.storage.rows import read_rows
from stage_b_folders import Inspector, run_over, ticket_rows


# --------------------------------------------------------------------------------------------- case 22: instructions
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_changes_no_verdict_and_sends_its_ticket_to_review(tmp_path, payload) -> None:
    rows = ticket_rows(6)
    clean = run_over(tmp_path / "clean", rows)
    run_mission(clean, Inspector, Budget())
    rows[2]["per_image"]["image_1"] += f" {payload}"
    run, engine = run_over(tmp_path / "hostile", rows), Inspector()
    run_mission(run, lambda: engine, Budget())
    before, after = (
        {row["key"]: row["result"] for row in read_rows(folder / "selections.jsonl")}
        for folder in (clean.store.folder, run.store.folder)
    )
    assert {key: row["verdict"] for key, row in before.items()} == {key: row["verdict"] for key, row in after.items()}
    flagged = {key for key, row in after.items() if row["summary_confidence"] == "needs_review"}
    assert flagged == {key for key in after if rows[2]["group_id"] in key}
    assert len({request.system for request in engine.asked}) == 1  # what a ticket says never reaches the instructions
    (ticket,) = (ticket for ticket in run.data.tickets if ticket.flags)
    assert set(json.loads(question(ticket))) == {"照片摘要"}
    assert "<|" not in question(ticket)


# --------------------------------------------------------------------------------------------- case 24: leaking splits
def test_a_run_refuses_splits_that_share_a_ticket_or_a_near_duplicate_photo(tmp_path) -> None:
    rows, photos = ticket_rows(4), tmp_path / "photos"
    for number, row in enumerate(rows):
        cells = np.random.default_rng(number).integers(0, 255, (9, 12, 3), dtype=np.uint8)
        for name in row["images"]:
            (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cells).resize((360, 240), Image.Resampling.BICUBIC).save(photos / row["images"][0])
    Image.open(photos / rows[0]["images"][0]).resize((300, 200)).save(photos / rows[3]["images"][1], quality=60)
    run = run_over(tmp_path, rows, splits={"image_root": str(photos)})
    run_mission(run, Inspector, Budget())
    path = run.store.folder / "splits.json"
    drawn = json.loads(path.read_text(encoding="utf-8"))
    one, *others = (ticket.key for ticket in run.data.tickets)
    for crafted, told in (
        ({"gate": [one], "test": others}, "near-duplicate"),
        ({"gate": [one, *others], "test": [one]}, "is in gate and test"),
        ({"gate": [one, *others, "m/pass/none"]}, "is no ticket"),
    ):
        path.write_text(json.dumps(drawn | {"keys": crafted}), encoding="utf-8")
        with pytest.raises(DataError, match=told):
            run_mission(run, Inspector, Budget())
    path.write_text(json.dumps(drawn | {"keys": {"gate": [one, others[2]], "test": others[:2]}}), encoding="utf-8")
    assert run_mission(run, Inspector, Budget()).splits == {"propose": 0, "gate": 2, "calibration": 0, "test": 2}


# --------------------------------------------------------------------------------------------- case 27: going back
class GoingBack(RuleBasedStateMachine):
    """Edits and roll-backs in any order: every kept step gives its prompt back, no rule id names two texts."""

    @initialize()
    def begin(self) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.store = GuidanceStore(Path(self.scratch.name), retention=1000)
        self.prompts: dict[int, str] = {}
        self.texts: dict[str, str] = {}
        self.number = 0
        self.keep(start("挡风板安装检查", "挡风板方向正确"))

    def keep(self, guidance) -> None:
        self.store.write(guidance)
        self.prompts[guidance.step] = prompt_of(guidance)

    @property
    def current(self):
        guidance = self.store.read()
        assert guidance is not None
        return guidance

    def apply(self, edit: Edit) -> None:
        self.keep(apply_edit(self.current, edit, 6))

    @rule()
    def add(self) -> None:
        self.number += 1
        edit = Edit("add", f"第{self.number}条规则", evidence=("QC-1",))
        if len(self.current.rules) < 6:
            self.apply(edit)
        else:
            with pytest.raises(UserError, match="max_rules"):
                self.apply(edit)

    @precondition(lambda self: self.current.rules)
    @rule(data=st.data())
    def retire_or_rewrite(self, data) -> None:
        target = data.draw(st.sampled_from([kept.id for kept in self.current.rules]))
        self.number += 1
        kind = data.draw(st.sampled_from(["retire", "rewrite"]))
        self.apply(Edit(kind, "" if kind == "retire" else f"第{self.number}条，改过", (target,)))

    @precondition(lambda self: len(self.current.rules) > 1)
    @rule(data=st.data())
    def merge(self, data) -> None:
        ids = [kept.id for kept in self.current.rules]
        self.number += 1
        targets = data.draw(st.lists(st.sampled_from(ids), min_size=2, unique=True))
        self.apply(Edit("merge", f"第{self.number}条，合并", tuple(targets)))

    @rule(data=st.data())
    def go_back(self, data) -> None:
        step = data.draw(st.sampled_from(sorted(self.prompts)))
        again = self.store.roll_back(step)
        assert prompt_of(again) == self.prompts[step]
        assert again.step == max(self.prompts) + 1
        self.prompts[again.step] = prompt_of(again)

    @invariant()
    def every_step_is_what_it_was(self) -> None:
        if not getattr(self, "prompts", None):
            return
        for step, prompt in self.prompts.items():
            kept = self.store.snapshot(step)
            assert prompt_of(kept) == prompt
            for one in kept.rules:
                assert self.texts.setdefault(one.id, one.text) == one.text

    def teardown(self) -> None:
        if hasattr(self, "scratch"):
            self.scratch.cleanup()


TestGoingBack = GoingBack.TestCase
TestGoingBack.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_a_snapshot_that_is_brought_back_gives_the_very_verdicts(tmp_path) -> None:
    run = run_over(tmp_path, ticket_rows(20), runner={"epochs": 1})
    run_mission(run, Inspector, Budget())
    first = verdicts(run, 1)
    run.store.guidance.write(apply_edit(run.store.guidance.read(), Edit("add", "旧标签的缺失不影响结论"), 16))
    second = replace(run, config=replace(run.config, runner=replace(run.config.runner, epochs=2)))
    run_mission(second, Inspector, Budget())
    assert verdicts(second, 2) != first
    run.store.guidance.roll_back(0)
    third = replace(run, config=replace(run.config, runner=replace(run.config.runner, epochs=3)))
    run_mission(third, Inspector, Budget())
    assert verdicts(third, 3) == first


def verdicts(run, epoch):
    rows = read_rows(run.store.folder / "selections.jsonl")
    return {
        row["key"].rpartition("/e")[0]: (row["result"]["verdict"], row["result"]["reason"])
        for row in rows
        if row["result"]["epoch"] == epoch
    }


# --------------------------------------------------------------------------------------------- case 30: a capped budget
def test_caps_at_random_points_lose_nothing_and_ask_nothing_twice(tmp_path) -> None:
    rows = ticket_rows(12)
    whole = run_over(tmp_path / "whole", rows, runner={"epochs": 2})
    run_mission(whole, Inspector, Budget())
    wanted = (whole.store.folder / "selections.jsonl").read_bytes()
    draw = random.Random(5)
    for number in range(20):
        run = run_over(tmp_path / f"capped{number}", rows, runner={"epochs": 2})
        asked = []
        while True:
            cap, engine = draw.randint(1, 60), Inspector()
            report = run_mission(run, lambda engine=engine: engine, Budget(cap))
            assert len(engine.asked) == report.calls <= cap
            asked += [request.key for request in engine.asked]
            if report.exit_code == 0:
                break
            assert (report.exit_code, report.calls) == (5, cap)
        assert len(asked) == len(set(asked)) == 2 * 12 * 4
        assert (run.store.folder / "selections.jsonl").read_bytes() == wanted
