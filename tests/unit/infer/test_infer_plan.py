"""A caption run is planned before anything heavy is loaded: inputs, card, mode, earlier rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plumbline.data.answer_form import AnswerForm
from plumbline.data.prompts import default_prompts
from plumbline.errors import ConfigError, DataError, UserError
from plumbline.infer.captions import caption_row
from plumbline.infer.config import InferSettings, Sampling
from plumbline.infer.engine import Reply
from plumbline.infer.inputs import read_items
from plumbline.infer.plan import identity_of, plan_captions
from plumbline.infer.runner import identity_path
from plumbline.infer.verbs import safe_name
from plumbline.model.checkpoints import Card, mark_complete
from plumbline.storage.rows import RowFile


def make_model(folder: Path, card: Card | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Qwen3VLForConditionalGeneration"]}')
    (folder / "model.safetensors").write_bytes(b"")
    if card is not None:
        card.write(folder)
        mark_complete(folder)
    return folder


def make_card(**changes: Any) -> Card:
    values: dict[str, Any] = {"emit_norm": "norm100", "prompts": default_prompts("norm100"), "mode": "dense"}
    return Card(**values | {"object_ordering": "top_left", "template": "qwen3_vl", "max_length": None} | changes)


def make_pictures(folder: Path, names: tuple[str, ...] = ("b.png", "a/c.jpg", "a/d.PNG")) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A model with a card and three pictures."""
    return {
        "model": make_model(tmp_path / "model", make_card()),
        "input": make_pictures(tmp_path / "photos"),
        "output": tmp_path / "captions.jsonl",
    }


def test_a_folder_is_read_in_order_of_name_without_hidden_files_and_other_things(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "photos", ("b.png", "a/c.jpg", ".hidden.png"))
    (folder / "notes.txt").write_text("x")
    items = read_items(folder)
    assert [item.key for item in items] == ["a/c.jpg", "b.png"]
    assert items[0].path() == str((folder / "a/c.jpg").resolve())


def test_a_jsonl_gives_each_occurrence_of_a_picture_its_own_key(tmp_path: Path) -> None:
    make_pictures(tmp_path, ("x.png", "y.png"))
    rows = [{"images": [name], "width": 40, "height": 30, "objects": []} for name in ("x.png", "y.png", "x.png")]
    source = tmp_path / "val.jsonl"
    source.write_text("".join(json.dumps(row | {"summary": "s"}) + "\n" for row in rows))
    assert [item.key for item in read_items(source)] == ["x.png", "y.png", "x.png#2"]


def test_a_jsonl_may_not_lead_out_of_its_folder_unless_allowed(tmp_path: Path) -> None:
    outside = make_pictures(tmp_path / "elsewhere", ("x.png",)) / "x.png"
    source = tmp_path / "set" / "val.jsonl"
    source.parent.mkdir()
    source.write_text(json.dumps({"images": [str(outside)], "summary": "s"}) + "\n")
    with pytest.raises(DataError, match="lies outside"):
        read_items(source)[0].path()
    assert read_items(source, (str(outside.parent),))[0].path() == str(outside.resolve())


def test_a_chat_without_a_picture_is_refused_by_its_line(tmp_path: Path) -> None:
    source = tmp_path / "val.jsonl"
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    source.write_text(json.dumps({"messages": chat}) + "\n")
    with pytest.raises(DataError, match=r"val.jsonl:1: the record has no picture"):
        read_items(source)


def test_nothing_to_describe_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture in it"):
        read_items(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file"):
        read_items(tmp_path / "nowhere")


def test_the_plan_takes_everything_from_the_card(settings: dict[str, Any]) -> None:
    plan = plan_captions(InferSettings(**settings, limit=2))
    assert (plan.card.emit_norm, plan.mode, len(plan.items), len(plan.todo)) == ("norm100", "dense", 2, 2)
    assert not settings["output"].exists()


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"emit_norm": "norm1000"}, "has a card, which says it"),
        ({"mode": "summary"}, "was trained for dense answers, not summary"),
        ({"mode": "both"}, "'both' is none of dense, summary"),
    ],
)
def test_flags_never_contradict_the_card(settings: dict[str, Any], flags: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        plan_captions(InferSettings(**settings, **flags))


def test_a_model_without_a_card_asks_for_the_norm_and_then_says_what_is_used(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["model"] = make_model(tmp_path / "base")
    with pytest.raises(UserError, match=r"--emit-norm none\|norm100\|norm1000"):
        plan_captions(InferSettings(**settings))
    plan = plan_captions(InferSettings(**settings, emit_norm="none"))
    assert plan.card.prompts == default_prompts("none")
    assert any("prompts that ship" in note for note in plan.notes)


@pytest.mark.parametrize(("asked", "mode"), [(None, "dense"), ("summary", "summary"), ("dense", "dense")])
def test_a_mixed_checkpoint_answers_in_either_mode(
    tmp_path: Path, settings: dict[str, Any], asked: str | None, mode: str
) -> None:
    settings["model"] = make_model(tmp_path / "mixed", make_card(mode="mixed"))
    assert plan_captions(InferSettings(**settings, mode=asked)).mode == mode


def test_an_adapter_in_the_models_place_brings_its_base(tmp_path: Path, settings: dict[str, Any]) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(settings["model"])}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    plan = plan_captions(
        InferSettings(model=adapter, input=settings["input"], output=settings["output"], emit_norm="norm100")
    )
    assert (plan.model, plan.adapter) == (settings["model"], adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/elsewhere"}))
    with pytest.raises(UserError, match="name the base model yourself"):
        plan_captions(
            InferSettings(model=adapter, input=settings["input"], output=settings["output"], emit_norm="norm100")
        )


def leave_rows(settings: dict[str, Any], rows: dict[str, str], torn: str = "") -> None:
    """What an earlier run left behind: key -> status."""
    plan = plan_captions(InferSettings(**settings))
    identity_path(settings["output"]).write_text(json.dumps(identity_of(plan)))
    with RowFile(settings["output"]) as file:
        for key, status in rows.items():
            file.append({"key": key, "status": status})
    with settings["output"].open("a") as stream:
        stream.write(torn)


def test_rows_that_are_there_are_not_made_again_but_failures_are(settings: dict[str, Any]) -> None:
    leave_rows(settings, {"a/c.jpg": "ok", "b.png": "error:image", "gone.png": "ok"}, torn='{"key": "a/d.PNG", "sta')
    before = settings["output"].read_bytes()
    plan = plan_captions(InferSettings(**settings))
    assert [item.key for item in plan.todo] == ["a/d.PNG", "b.png"]
    assert plan.done == {"ok": 1}
    assert any("1 of 3 pictures are done" in note for note in plan.notes)
    assert any("1 that failed are tried again" in note for note in plan.notes)
    assert settings["output"].read_bytes() == before, "planning touches no file"


def test_rows_made_in_another_way_are_not_mixed_in(settings: dict[str, Any]) -> None:
    leave_rows(settings, {"b.png": "ok"})
    with pytest.raises(UserError, match="was made with another sampling"):
        plan_captions(InferSettings(**settings, sampling=Sampling(max_new_tokens=7)))
    plan = plan_captions(InferSettings(**settings, sampling=Sampling(max_new_tokens=7), resume=False))
    assert len(plan.todo) == 3


@pytest.mark.parametrize("resume", [True, False])
def test_a_file_of_somebody_else_is_neither_continued_nor_replaced(settings: dict[str, Any], resume: bool) -> None:
    settings["output"].write_text("my thesis")
    with pytest.raises(UserError, match="records what made it"):
        plan_captions(InferSettings(**settings, resume=resume))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Sampling(max_new_tokens=0), "--max-new-tokens"),
        (lambda: Sampling(temperature=-1), "--temperature"),
        (lambda: Sampling(top_p=0), "--top-p"),
        (lambda: InferSettings(model=Path(), input=Path(), output=Path(), batch_size=0), "--batch-size"),
        (lambda: InferSettings(model=Path(), input=Path(), output=Path(), limit=0), "--limit"),
    ],
)
def test_impossible_numbers_are_refused(make: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        make()


ANSWER = '{"object_1": {"bbox_2d": [0, 0, 50, 100], "desc": "标签"}}'


@pytest.mark.parametrize(
    ("reply", "status", "problem"),
    [
        (Reply("k", ANSWER), "ok", ""),
        (Reply("k", ANSWER[:-2]), "invalid", "cut off"),
        (Reply("k", ANSWER.replace("50", "150")), "invalid", "outside 0..100"),
        (Reply("k", ""), "invalid", "no JSON object"),
        (
            Reply("k", ANSWER[:-1] + ', "object_2": {"bbox_2d": [0, 0, 50, 100], "desc": "标签"}}'),
            "invalid",
            "object_2 repeats object_1",
        ),
        (Reply("k", ANSWER, tokens=9, is_finished=False), "invalid", "stopped after 9 tokens"),
        (Reply("k", error="engine", detail="out of memory"), "error:engine", "out of memory"),
    ],
)
def test_a_row_is_ok_only_when_the_whole_reply_was_read(reply: Reply, status: str, problem: str) -> None:
    row = caption_row("x.png", (200, 100), reply, "dense", "norm100").as_dict()
    assert list(row) == ["key", "image", "width", "height", "objects", "text", "status", "problems"]
    assert (row["status"], row["width"], row["height"]) == (status, 200, 100)
    assert problem in " ".join(row["problems"])
    if status == "ok":
        assert row["objects"] == [{"bbox_2d": [0, 0, 100, 100], "desc": "标签"}]


@pytest.mark.parametrize(("text", "status"), [("BBU设备×1", "ok"), ("  \n", "invalid"), ("one\ntwo", "invalid")])
def test_a_summary_is_one_line(text: str, status: str) -> None:
    assert caption_row("x.png", (1, 1), Reply("k", text), "summary", "none").status == status


@pytest.mark.parametrize(
    ("key", "name"),
    [("a/b.png", "a/b.png"), ("../../etc/x", "etc/x"), ("/etc/x", "etc/x"), ("c:\\x", "c_/x"), ("..", "picture")],
)
def test_an_overlay_stays_below_its_folder(key: str, name: str) -> None:
    assert safe_name(key) == name


def test_planning_needs_no_torch() -> None:
    code = "import sys, plumbline.infer.plan, plumbline.infer.verbs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_of_an_earlier_version_go_on(settings: dict[str, Any], tmp_path: Path) -> None:
    """An identity holds nothing that such a version did not know, unless it says something."""
    identity = identity_of(plan_captions(InferSettings(**settings)))
    assert not {"answer"} & identity["card"].keys() and "negative_summary" not in identity["card"]["prompts"]
    assert (identity["dtype"], identity["attn_impl"]) == (None, None), "which an absent key equals"
    form = AnswerForm(points="pairs")
    other = make_model(tmp_path / "other", make_card(answer=form))
    assert (
        identity_of(plan_captions(InferSettings(**settings | {"model": other})))["card"]["answer"]["points"] == "pairs"
    )
