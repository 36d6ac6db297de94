"""Tickets on disk, their prompts, and how rows become tickets again; the model is replayed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plumbline.data.prompts import default_prompts
from plumbline.errors import ConfigError, UserError
from plumbline.infer.engine import Reply
from plumbline.infer.replay import ReplayEngine
from plumbline.model.checkpoints import Card, mark_complete
from plumbline.stage_a.config import StageASettings
from plumbline.stage_a.summaries import SummaryPlan, plan_summaries, run_summaries, with_focus
from plumbline.stage_a.tickets import natural_key, read_input, sample_tickets
from plumbline.stage_b.tickets import read_tickets
from plumbline.storage.rows import read_rows

MISSION, OTHER = "挡风板安装检查", "BBU接地线检查"
ROOT = Path(__file__).parents[3]


def make_tickets(root: Path, missions: tuple[str, ...] = (MISSION,), names: tuple[str, ...] = ()) -> Path:
    """Two groups per label, one id under both labels."""
    for mission in missions:
        for label, group in (
            ("审核通过", "QC-1"),
            ("审核通过", "QC-10"),
            ("审核不通过", "QC-1"),
            ("审核不通过", "QC-2"),
        ):
            folder = root / mission / label / group
            folder.mkdir(parents=True)
            for name in names or ("p1.jpg", "p2.JPEG", "p10.png"):
                Image.new("RGB", (40, 30)).save(folder / name)
    return root


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Qwen3VLForConditionalGeneration"]}')
    (folder / "model.safetensors").write_bytes(b"")
    Card("norm1000", default_prompts(), "mixed", "top_left", "qwen3_vl", None).write(folder)
    mark_complete(folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path, model: Path) -> Any:
    def make(**changes: Any) -> StageASettings:
        values = {"model": model, "output": tmp_path / "out", "prompts": ROOT / "configs" / "prompts"}
        return StageASettings(**values | {"input": tmp_path / "tickets"} | changes)

    return make


def answers(plan: SummaryPlan, **other: Reply) -> ReplayEngine:
    recorded: dict[str, str | Reply] = {photo.key: f"标签×{len(photo.key)}" for photo in plan.found.photos}
    return ReplayEngine(recorded | {reply.key: reply for reply in other.values()})


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_photos_come_in_natural_order_and_one_id_may_pass_and_fail(tmp_path: Path) -> None:
    found = read_input(make_tickets(tmp_path), ())
    assert [ticket.key for ticket in found.tickets] == [
        f"{MISSION}/pass/QC-1",
        f"{MISSION}/pass/QC-10",
        f"{MISSION}/fail/QC-1",
        f"{MISSION}/fail/QC-2",
    ]
    names = [Path(image).name for image in found.tickets[0].images]
    assert names == ["p1.jpg", "p2.JPEG", "p10.png"] and found.notes == ()
    names = ["a10b2", "a2", "a10b10", "a", "10", "9", "b"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a2", "a10b2", "a10b10", "b"]


def make_new(root: Path, mission: str = MISSION) -> Path:
    """Two groups that nobody has decided."""
    for group in ("QC-7", "QC-8"):
        folder = root / mission / group
        folder.mkdir(parents=True)
        for name in ("p1.jpg", "p2.jpg"):
            Image.new("RGB", (40, 30)).save(folder / name)
    return root


def test_new_tickets_keep_mission_and_group_and_have_no_label(tmp_path: Path, settings: Any) -> None:
    make_tickets(make_new(tmp_path / "tickets"), (OTHER,))
    plans, _ = plan_summaries(settings())
    found = {plan.mission: [ticket.key for ticket in plan.found.tickets] for plan in plans}
    assert found[MISSION] == [f"{MISSION}/QC-7", f"{MISSION}/QC-8"] and len(found[OTHER]) == 4
    (plan,) = [plan for plan in plans if plan.mission == MISSION]
    assert plan.as_dict()["tickets"] == {"new": 2}
    assert run_summaries(plan, lambda: answers(plan)).exit_code == 0
    rows = rows_of(tmp_path / "out" / f"{MISSION}_stage_a.jsonl")
    assert [row["group_id"] for row in rows] == ["QC-7", "QC-8"] and not any("label" in row for row in rows)
    assert [ticket.key for ticket in read_tickets([plan.gathered], labelled=False)] == found[MISSION]


@pytest.mark.parametrize("inside", [True, False], ids=["root", "the mission's folder"])
def test_only_a_known_mission_makes_a_folder_of_photos_a_ticket(tmp_path: Path, inside: bool) -> None:
    root = make_new(make_new(tmp_path, "假期照片"))
    source = root if inside else root / MISSION
    assert len(read_input(source, (), known=[MISSION]).tickets) == 2
    assert read_input(source, (), known=[]).tickets == ()
    assert len(read_input(source, (MISSION,)).tickets) == 2, "named on the command line"


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    root = make_tickets(tmp_path)
    passed = root / MISSION / "审核通过"
    Image.new("RGB", (4, 4)).save(passed / "loose.png")
    (passed / "QC-empty").mkdir()
    (passed / "QC-1" / "more").mkdir()
    Image.new("RGB", (4, 4)).save(passed / "QC-1" / "more" / "deep.png")
    (passed / "QC-1" / "notes.txt").write_text("x")
    found = read_input(root, ())
    assert len(found.tickets) == 4 and len(found.photos) == 12
    told = " ".join(found.notes)
    assert "outside of any group" in told and "group without a picture" in told and "folders of their own" in told


def test_tickets_are_gathered_from_rows(tmp_path: Path, settings: Any) -> None:
    make_tickets(tmp_path / "tickets", (MISSION, OTHER))
    bad = tmp_path / "tickets" / MISSION / "审核通过" / "QC-1" / "p2.JPEG"
    bad.write_bytes(b"no picture")
    (first, second), _ = plan_summaries(settings())
    assert (first.mission, second.mission) == (OTHER, MISSION)
    cut = f"{MISSION}/审核不通过/QC-1/p10.png"
    engine = answers(second, cut=Reply(cut, "BBU设备×1，光", tokens=9, is_finished=False, detail="it repeats itself"))
    report = run_summaries(second, lambda: engine)
    assert report.statuses == {"ok": 10, "invalid": 1, "error:image": 1} and report.exit_code == 3
    tickets = rows_of(tmp_path / "out" / f"{MISSION}_stage_a.jsonl")
    assert [(row["group_id"], row["label"]) for row in tickets] == [
        ("QC-1", "pass"),
        ("QC-10", "pass"),
        ("QC-1", "fail"),
        ("QC-2", "fail"),
    ]
    for row in tickets:
        assert list(row) == ["group_id", "mission", "label", "images", "per_image", "failed"]
        together = sorted([*row["per_image"], *row["failed"]])
        assert together == [f"image_{n}" for n in range(1, len(row["images"]) + 1)]
        assert all(row["per_image"].values()) and row["mission"] == MISSION
    assert "is not a picture" in tickets[0]["failed"]["image_2"]
    assert tickets[2]["failed"] == {"image_3": "the reply was stopped after 9 tokens: it repeats itself"}
    assert tickets[3]["per_image"]["image_1"] == f"标签×{len(f'{MISSION}/审核不通过/QC-2/p1.jpg')}"
    assert not (tmp_path / "out" / f"{OTHER}_stage_a.jsonl").exists()

    Image.new("RGB", (40, 30)).save(bad, "JPEG")
    plans, notes = plan_summaries(settings())
    assert any("11 of 12 pictures are done" in note for note in notes) and plans[1].todo == 1
    assert run_summaries(plans[1], lambda: answers(plans[1])).written == 1
    assert rows_of(tmp_path / "out" / f"{MISSION}_stage_a.jsonl")[0]["failed"] == {}


def test_a_ticket_is_gathered_when_all_its_pictures_have_a_row(tmp_path: Path, settings: Any) -> None:
    make_tickets(tmp_path / "tickets")
    (plan,), _ = plan_summaries(settings())
    left = 4

    def stop(count: int) -> None:
        nonlocal left
        left -= count
        if not left:
            raise KeyboardInterrupt

    assert run_summaries(plan, lambda: answers(plan), stop).exit_code == 130
    assert [row["group_id"] for row in rows_of(plan.gathered)] == ["QC-1"]
    (again,), _ = plan_summaries(settings())
    assert again.todo == 8 and run_summaries(again, lambda: answers(again)).exit_code == 0
    assert len(rows_of(plan.gathered)) == 4


def test_shards_gather_nothing_until_the_whole_takes_them_over(tmp_path: Path, settings: Any) -> None:
    make_tickets(tmp_path / "tickets")
    for number in (1, 2):
        (plan,), _ = plan_summaries(settings(shard=(number, 2)))
        assert plan.todo == 6
        run_summaries(plan, lambda plan=plan: answers(plan))
        assert not plan.gathered.exists()
    (plan,), _ = plan_summaries(settings())
    report = run_summaries(plan, lambda: pytest.fail("every part is done"))
    assert report.written == 0 and len(rows_of(plan.gathered)) == 4


def test_without_tickets_the_form_is_flat(tmp_path: Path, settings: Any) -> None:
    folder = tmp_path / "photos"
    (folder / "a.b").mkdir(parents=True)
    for name in ("x.png", "a.b/img1.jpg"):
        Image.new("RGB", (40, 30)).save(folder / name)
    (plan,), _ = plan_summaries(settings(input=folder, output=tmp_path / "summaries.jsonl"))
    assert plan.focus == ""
    run_summaries(plan, lambda: answers(plan))
    assert rows_of(tmp_path / "summaries.jsonl") == [
        {"image_id": "a.b/img1", "summary": "标签×12"},
        {"image_id": "x", "summary": "标签×5"},
    ]
    assert len(list(read_rows(tmp_path / "summaries.rows.jsonl"))) == 2
    (plan,), _ = plan_summaries(settings(input=folder, missions=(MISSION,)))
    assert plan.gathered.name == "summaries.jsonl" and MISSION in plan.focus


def test_a_flat_file_has_a_line_for_every_picture(tmp_path: Path, settings: Any) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (40, 30)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    replies = {f"{number}.png": "标签×1" if number % 4 else "两行\n摘要" for number in range(8)}
    (plan,), _ = plan_summaries(settings(input=folder, output=tmp_path / "summaries.jsonl"))
    report = run_summaries(plan, lambda: ReplayEngine(replies))
    rows = rows_of(plan.gathered)
    assert [row["image_id"] for row in rows] == [*map(str, range(8)), "broken"]
    assert [row["image_id"] for row in rows if "failed" in row] == ["0", "4", "broken"]
    assert all(row["failed"] and row["summary"] == "" for row in rows if "failed" in row)
    assert report.exit_code == 3


def test_the_mission_is_part_of_the_question(tmp_path: Path, settings: Any) -> None:
    from plumbline.stage_a.summaries import Summaries

    make_tickets(tmp_path / "tickets")
    (plan,), _ = plan_summaries(settings())
    request = Summaries(plan).ask(plan.found.photos[0])
    prompts = default_prompts()
    assert request.system == prompts.system_summary and request.user.startswith(prompts.user_summary)
    assert request.user.endswith((ROOT / "configs/prompts" / f"{MISSION}.txt").read_text(encoding="utf-8").strip())


def test_groups_are_drawn_by_the_seed(tmp_path: Path, settings: Any) -> None:
    found = read_input(make_tickets(tmp_path / "tickets", (MISSION, OTHER)), ())
    some = sample_tickets(found, 2, 0)
    assert len(some.tickets) == 4 and len(some.photos) == 12 and sample_tickets(found, 2, 0) == some
    assert len({sample_tickets(found, 2, seed).tickets for seed in range(8)}) > 2
    assert sample_tickets(found, 99, 0).tickets == found.tickets
    (_, plan), _ = plan_summaries(settings(groups=1))
    assert len(plan.found.tickets) == 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"missions": ("别的",)}, r"no prompt in .*\n.*挡风板安装检查"),
        ({"missions": (OTHER,)}, "there is no ticket"),
        ({"missions": (MISSION, OTHER)}, "holds no ticket of"),
        ({"batch_size": 0}, "--batch-size"),
        ({"groups": 0}, "--groups"),
        ({"max_error_rate": 1.5}, "--max-error-rate"),
        ({"input": Path("nowhere")}, "no such file or folder"),
        ({"prompts": Path("nowhere")}, "has no prompt in nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_loads(
    tmp_path: Path, settings: Any, changes: dict[str, Any], what: str
) -> None:
    make_tickets(tmp_path / "tickets")
    with pytest.raises(UserError, match=what):
        plan_summaries(settings(**changes))
    assert not (tmp_path / "out").exists()


def test_several_missions_need_a_folder(tmp_path: Path, settings: Any) -> None:
    make_tickets(tmp_path / "tickets", (MISSION, OTHER))
    with pytest.raises(ConfigError, match="is one file, the input has several missions"):
        plan_summaries(settings(output=tmp_path / "all.jsonl"))


def test_a_model_that_was_trained_for_objects_alone_is_refused(tmp_path: Path, settings: Any, model: Path) -> None:
    make_tickets(tmp_path / "tickets")
    (model / "COMPLETE").unlink()
    Card("norm1000", default_prompts(), "dense", "top_left", "qwen3_vl", None).write(model)
    mark_complete(model)
    with pytest.raises(ConfigError, match="trained for dense answers, not summary"):
        plan_summaries(settings())


def test_every_shipped_mission_has_a_text_and_the_script_tells_its_use() -> None:
    texts = sorted((ROOT / "configs" / "prompts").glob("*.txt"))
    assert len(texts) == 7 and all(path.stem in path.read_text(encoding="utf-8") for path in texts)
    done = subprocess.run([ROOT / "scripts" / "stage_a_infer.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--input TICKETS" in done.stderr


def test_a_model_that_was_trained_for_a_mission_is_asked_as_it_was_trained() -> None:
    assert with_focus("概括。", "只写BBU。") == "概括。\n只写BBU。"
    assert with_focus("概括。只写BBU。", "只写BBU。") == "概括。只写BBU。"
    assert with_focus("概括。", "") == "概括。"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"runner": "dask"}, "--runner: must be one of local, ray"),
        ({"workers": 2}, "there is one process"),
        ({"runner": "ray", "workers": 0}, "--workers: must be a whole number >= 1"),
        ({"runner": "ray", "replies": Path("replies.sqlite")}, "a cluster has several"),
    ],
)
def test_flags_that_do_not_go_together(more: dict[str, object], what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        StageASettings(model=tmp_path, input=tmp_path, output=tmp_path, **more)  # type: ignore[arg-type]
