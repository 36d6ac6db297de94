"""The data engine inside a run: mixtures with their own metrics, augmentation with its account, turns with pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

OPS = [
    {"name": "hflip", "params": {"prob": 0.5}},
    {"name": "random_crop", "params": {"area": [0.3, 0.6], "min_objects": 0}},
    {"name": "roi_crop", "params": {"classes": ["不存在"]}},
    {"name": "color_jitter"},
]


def accounts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_mixture_trains_with_a_loss_per_source(train, tmp_path, make_records):
    other, held_out = make_records(tmp_path / "other", "other", 6, 4), make_records(tmp_path / "held", "held", 6, 5)
    chat = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]
    chat.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(5)), encoding="utf-8")
    sources = [
        {"name": "talk", "train_jsonl": str(chat), "mode": "chat", "ratio": 0.25},
        {
            "name": "elsewhere",
            "train_jsonl": str(other),
            "mode": "irrelevant",
            "ratio": 0.5,
            "val_jsonl": str(held_out),
        },
    ]
    run = train(
        custom={"fusion": {"sources": sources, "evaluate_sources": True}},
        training={
            "max_steps": -1,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 14,
            "per_device_eval_batch_size": 4,
            "eval_strategy": "epoch",
            "packing": True,
        },
    )
    for name in ("target", "talk", "elsewhere"):
        assert run.series(f"train/sft_loss/{name}")
    assert "eval/sft_loss/target" in run.names() and "eval/sft_loss/elsewhere" in run.names()
    assert "eval/sft_loss/talk" not in run.names()
    lines = [line for line in run.log if "train/sft_loss" in line]
    for line in lines:
        low, high = (
            pick(line[f"train/sft_loss/{name}"] for name in ("target", "talk", "elsewhere")) for pick in (min, max)
        )
        assert low <= line["train/sft_loss"] <= high
    first, second = accounts(run.folder)
    assert first["source"] == second["source"] == {"target": 8, "talk": 2, "elsewhere": 4}
    assert first["mode"] == {"chat": 2, "dense": 8, "irrelevant": 4}
    assert first["padding_ratio"] == 0.0 and first["covered"] == 1.0
    assert first["objects_kept"] == 2 * (8 + 4) and first["coverage"] == {"1.0": 24}


@pytest.mark.parametrize("asked", [None, False, True])
def test_sources_are_evaluated_only_when_that_is_asked_for(write_run, records, tmp_path, make_records, asked):
    """What is evaluated decides which metrics there are: a source without samples has none, as `talk` above."""
    from plumbline.train.config import load_run
    from plumbline.train.datasets import open_datasets

    other = str(make_records(tmp_path / "other", "other", 2, 4))
    fusion: dict[str, Any] = {
        "targets": [{"name": "second", "train_jsonl": other, "val_jsonl": other}],
        "sources": [{"name": "elsewhere", "train_jsonl": other, "val_jsonl": other, "ratio": 0.5}],
    }
    if asked is not None:
        fusion["evaluate_sources"] = asked
    run = load_run(write_run(training={"eval_strategy": "steps"}, custom={"fusion": fusion})).run
    train_set, val_set = open_datasets(run)
    assert [source.name for source in train_set.sources] == ["target", "second", "elsewhere"]
    assert val_set is not None
    assert [source.name for source in val_set.sources] == ["target", "second"] + ["elsewhere"] * bool(asked)
    assert len(val_set) == 3 + 2 + 2 * bool(asked), "whole, whatever the ratio"


def test_augmentation_is_counted_and_validation_is_not_augmented(train):
    settings = {"max_steps": 4, "per_device_train_batch_size": 2, "eval_strategy": "steps", "eval_steps": 4}
    plain = train("plain", training=settings | {"learning_rate": 0.0})
    run = train(
        "augmented",
        training=settings | {"learning_rate": 0.0, "dataloader_num_workers": 2},
        custom={"augmentation": {"enabled": True, "ops": OPS}},
    )
    (account,) = accounts(run.folder)
    assert account["samples"] == 8 and account["applied"]["color_jitter"] == 8
    assert account["skipped"]["roi_crop: no object of the classes"] == 8
    assert account["objects_kept"] + sum(account.get("dropped", {}).values()) >= 16
    assert sum(account["coverage"].values()) == account["objects_kept"]
    assert 0 < account["padding_ratio"] < 1
    assert run.series("eval/loss") == plain.series("eval/loss")
    assert run.series("train/loss") != plain.series("train/loss")


def test_the_number_of_workers_changes_nothing(train):
    custom = {"augmentation": {"enabled": True, "ops": OPS}, "summary_ratio": 0.5, "images_per_user_turn": 2}
    runs = [
        train(f"workers{count}", training={"max_steps": 3, "dataloader_num_workers": count}, custom=custom)
        for count in (0, 2)
    ]
    assert runs[0].series("loss") == runs[1].series("loss")
    assert accounts(runs[0].folder) == accounts(runs[1].folder)
    assert accounts(runs[0].folder)[0]["mode"] == {"dense": 2, "summary": 2}


@pytest.mark.parametrize("packing", [False, True])
def test_pictures_without_objects_train_augmented_and_packed(train, records, packing, capsys):
    rows = [json.loads(line) for line in records[0].read_text(encoding="utf-8").splitlines()]
    for row in rows[:3]:
        row["objects"] = []
    path = records[0].with_name(f"negatives_{packing}.jsonl")  # next to the pictures; other tests read the original
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    run = train(
        custom={
            "train_jsonl": str(path),
            "augmentation": {"enabled": True, "ops": OPS},
            "summary_ratio": 0.5,
            "dump_conversation_text": True,
        },
        prompts={"negative_summary": "无关图片"},
        training={
            "max_steps": -1,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 2,
            "packing": packing,
        },
    )
    assert "3 records say that there is no object" in capsys.readouterr().err
    for account in accounts(run.folder):
        assert sum(account["mode"].values()) == len(rows)
    assert all(line["train/sft_loss"] > 0 for line in run.log if "train/sft_loss" in line)


def test_answers_in_the_form_of_an_earlier_checkpoint_train_packed(train):
    form = {"key_order": "desc_first", "points": "pairs", "image_key": "图片_N"}
    run = train(
        custom={"answer": form, "dump_conversation_text": True},
        training={"max_steps": 2, "packing": True},
    )
    told = next(run.folder.glob("conversation*")).read_text("utf-8")
    assert '{"desc": "' in told and ": [[" in told
    card = json.loads((run.last / "plumbline.json").read_text("utf-8"))
    assert card["answer"] == form
