"""Samples of an epoch: modes, turns with several pictures, fusion, augmentation of the training set alone."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plumbline.augment.config import AugmentationConfig
from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import ScheduledAugmentation
from plumbline.data.dataset import DatasetSettings, RecordFile
from plumbline.data.epoch import EpochDataset, Source
from plumbline.data.mixture import Mixture, Share
from plumbline.data.prompts import Prompts
from plumbline.data.record import DataObject, Record
from plumbline.errors import DataError
from plumbline.geometry import Box

PROMPTS = Prompts("dense system", "dense?", "summary system", "summary?")


def source(folder: Path, name: str, count: int, mode: str = "dense", **options: Any) -> Source:
    rows = []
    for number in range(count):
        Image.new("RGB", (64, 48)).save(folder / f"{name}{number}.png")
        row: dict[str, Any] = {
            "images": [f"{name}{number}.png"],
            "width": 64,
            "height": 48,
            "summary": f"{name}×{number}",
        }
        row["objects"] = [{"desc": f"{name}{number}-{k}", "bbox_2d": [4 * k, 2, 4 * k + 9, 40]} for k in range(5)]
        rows.append({"messages": options["chats"][number]} if "chats" in options else row)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    share = Share(count, options.pop("ratio", 1.0), options.pop("target", True), mode)
    options.pop("chats", None)
    return Source(name, RecordFile(path), DatasetSettings(mode, PROMPTS), share, **options)


def dataset(*sources: Source, **options: Any) -> EpochDataset:
    augmenter = options.pop("augmenter", None)
    return EpochDataset(sources, Mixture(tuple(item.share for item in sources), **options), augmenter)


def test_the_mode_of_a_sample_picks_prompt_and_answer(tmp_path: Path) -> None:
    samples = dataset(source(tmp_path, "a", 10, "mixed"), summary_ratio=0.3, seed=1)
    seen: dict[str, set[int]] = {"dense": set(), "summary": set()}
    for epoch in range(2):
        modes = []
        for position in range(10):
            sample = samples.item(position, epoch)
            modes.append(sample.mode)
            system, answer = sample.messages[0]["content"], sample.messages[-1]["content"]
            assert system == f"{sample.mode} system"
            assert sample.messages[1]["content"][-1]["text"] == f"{sample.mode}?"
            if sample.mode == "summary":
                assert answer == sample.record.summary
                seen["summary"].add(epoch * 100 + sample.record.line)
            else:
                assert answer.startswith('{"object_1"')
        assert modes.count("summary") == 3
    assert len({line % 100 for line in seen["summary"]}) > 3, "another choice in another epoch"


def test_several_records_share_a_turn(tmp_path: Path) -> None:
    samples = dataset(source(tmp_path, "a", 5), images_per_turn=2, shuffle=False)
    assert len(samples) == 3
    pair = samples.item(0)
    assert [item["type"] for item in pair.messages[1]["content"]] == ["image", "image", "text"]
    assert [Path(image).name for image in pair.images] == ["a0.png", "a1.png"]
    answer = json.loads(pair.messages[-1]["content"])
    assert list(answer) == ["image_1", "image_2"]
    assert answer["image_2"]["object_1"]["desc"] == "a1-0"
    alone = samples.item(2)
    assert next(iter(json.loads(alone.messages[-1]["content"]))) == "object_1"
    summaries = dataset(source(tmp_path, "b", 2, "summary"), images_per_turn=2, shuffle=False)
    assert json.loads(summaries.item(0).messages[-1]["content"]) == {"image_1": "b×0", "image_2": "b×1"}


def test_sources_bring_their_own_way_of_answering(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}] for n in range(4)]
    samples = dataset(
        source(tmp_path, "target", 8),
        source(tmp_path, "talk", 4, "chat", chats=chats, ratio=0.25, target=False),
        source(tmp_path, "other", 6, "irrelevant", ratio=0.5, target=False),
        source(tmp_path, "few", 8, max_objects=2),
        seed=5,
    )
    assert len(samples) == 8 + round(0.25 * 16) + 8 + 8
    by_source: dict[str, list[Any]] = {}
    for position in range(len(samples)):
        sample = samples.item(position, epoch=2)
        by_source.setdefault(sample.source, []).append(sample)
    assert {name: len(found) for name, found in by_source.items()} == {"target": 8, "talk": 4, "other": 8, "few": 8}
    assert {sample.messages[-1]["content"] for sample in by_source["other"]} == {"无关图片"}
    assert {sample.messages[0]["content"] for sample in by_source["other"]} == {"summary system"}
    assert all(sample.mode == "chat" and not sample.images for sample in by_source["talk"])
    for sample in by_source["few"]:
        told = json.loads(sample.messages[-1]["content"])
        assert len(told) == 2
    picked = [{item["desc"][-1] for item in json.loads(s.messages[-1]["content"]).values()} for s in by_source["few"]]
    assert len({frozenset(choice) for choice in picked}) > 1, "not always the first ones"


def augmenter(**ops: Any) -> ScheduledAugmentation:
    chain = tuple(OPERATIONS[name](**params) for name, params in ops.items())
    return ScheduledAugmentation(AugmentationConfig(enabled=True, ops=chain), 100)


def test_augmentation_changes_the_answer_with_the_picture_and_spares_who_is_exempt(tmp_path: Path) -> None:
    flip = augmenter(hflip={})
    samples = dataset(
        source(tmp_path, "a", 3), source(tmp_path, "b", 3, augmented=False), augmenter=flip, shuffle=False
    )
    told = json.loads(samples.item(0).messages[-1]["content"])
    assert max(item["bbox_2d"][2] for item in told.values()) == 1000, "the left edge is the right one now"
    assert samples.item(0).pictures[0].plan is not None
    exempt = samples.item(4)
    assert exempt.pictures[0].plan is None
    assert json.loads(exempt.messages[-1]["content"])["object_1"]["bbox_2d"][0] == 0


def test_a_sample_depends_on_its_key_alone(tmp_path: Path) -> None:
    turn = augmenter(rotate={"max_deg": 30.0}, random_crop={}, color_jitter={})
    samples = dataset(source(tmp_path, "a", 6), augmenter=turn)
    wanted = [samples.item(position, 1, 7).messages for position in range(6)]
    copy = pickle.loads(pickle.dumps(samples))
    assert [copy.item(position, 1, 7).messages for position in reversed(range(6))][::-1] == wanted
    assert [samples.item(position, 2, 7).messages for position in range(6)] != wanted


def test_all_pictures_of_a_record_share_the_draw(tmp_path: Path) -> None:
    """Pictures of different sizes, drawn among others: the same angle, the same window's share, the same colours."""
    sizes = {"large.png": (640, 480), "small.png": (160, 120), "tall.png": (150, 600)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / name)
    own = source(tmp_path, "a", 4, "summary")
    several = Record(tuple(sizes), summary="s", file=str(tmp_path / "own.jsonl"))
    together = replace(own, records=[several, own.records[0], several], share=Share(3, mode="summary"))
    chain = augmenter(rotate={"max_deg": 40.0}, center_crop={"share": 0.5}, gamma={}, noise={})
    samples = dataset(together, augmenter=chain, shuffle=False)
    drawn = [item.plans[0] for item in samples.draw_many([(position, 0, 0) for position in range(3)])]
    for plans in (drawn[0], drawn[2]):
        assert [plan.source for plan in plans] == list(sizes.values())
        assert [(plan.width, plan.height) for plan in plans] == [(w // 2, h // 2) for w, h in sizes.values()]
        for plan in plans[1:]:
            assert np.allclose(plan.matrix[:2, :2], plans[0].matrix[:2, :2]), "one angle"
            assert plan.colour == plans[0].colour and plan.applied == plans[0].applied
        assert {picture.plan.colour for picture in samples.item(0).pictures} == {drawn[0][0].colour}
    assert drawn[0][0].colour != drawn[2][0].colour, "the same record, drawn again"


def test_samples_drawn_together_are_those_drawn_alone(tmp_path: Path) -> None:
    turn = augmenter(rotate={"max_deg": 30.0, "prob": 0.5}, perspective={"prob": 0.5}, random_crop={"prob": 0.5})
    outside = DataObject("b", Box(np.array([[50.0, 50.0], [60.0, 60.0]])))
    bad = replace(source(tmp_path, "b", 1), records=[Record(("b0.png",), 40, 40, (outside,))])
    samples = dataset(source(tmp_path, "a", 6), bad, source(tmp_path, "c", 2, augmented=False), augmenter=turn)
    keys = [(position, epoch, 7) for epoch in (0, 1) for position in range(len(samples))]
    failed = 0
    for key, drawn in zip(keys, samples.draw_many(keys), strict=True):
        if isinstance(drawn, DataError):
            failed += 1
            with pytest.raises(DataError):
                samples.draw(*key)
            continue
        alone = samples.draw(*key)
        assert drawn.turn == alone.turn
        for plan, other in zip(sum(drawn.plans, ()), sum(alone.plans, ()), strict=True):
            assert plan.record == other.record and np.array_equal(plan.matrix, other.matrix)
            assert (plan.kept_indices, plan.coverages) == (other.kept_indices, other.coverages)
    assert failed == 2


def test_a_file_that_changed_is_told_of_each_of_its_samples_alone(tmp_path: Path) -> None:
    samples = dataset(source(tmp_path, "a", 2), source(tmp_path, "b", 2), augmenter=augmenter(hflip={}))
    with (tmp_path / "b.jsonl").open("a") as stream:
        stream.write("\n")
    drawn = samples.draw_many([(position, 0, 0) for position in range(4)])
    errors = [item for item in drawn if isinstance(item, DataError)]
    assert len(errors) == 2 and all("b.jsonl" in str(item) and "has changed" in str(item) for item in errors)
    assert {item.turn.source for item in drawn if not isinstance(item, DataError)} == {0}


def test_the_curriculum_follows_the_step_that_is_asked_for(tmp_path: Path) -> None:
    from plumbline.augment.curriculum import CurriculumConfig, Phase

    phases = (Phase(until_percent=50, ops={"scale": {"factor": [2.0, 2.0]}}), Phase(until_percent=100))
    config = AugmentationConfig(
        enabled=True, ops=(OPERATIONS["scale"](factor=(1.0, 1.0)),), curriculum=CurriculumConfig(phases=phases)
    )
    schedule = ScheduledAugmentation(config, 100)
    assert [schedule.at(step).operations[0].factor for step in (0, 25, 50, 99, 25)] == [
        (1.0, 1.0),
        (1.5, 1.5),
        (2.0, 2.0),
        (2.0, 2.0),
        (1.5, 1.5),
    ]
    samples = dataset(source(tmp_path, "a", 2), augmenter=schedule)
    assert samples.item(0, 0, 25).pictures[0].plan.matrix[0, 0] == 1.5


def test_a_missing_summary_is_named_before_training(tmp_path: Path) -> None:
    own = source(tmp_path, "a", 3, "mixed")
    path = tmp_path / "a.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[1])
    del row["summary"]
    path.write_text("\n".join([lines[0], json.dumps(row), lines[2]]) + "\n", encoding="utf-8")
    again = Source("a", RecordFile(path), own.settings, own.share)
    with pytest.raises(DataError, match=r"a\.jsonl:2.*1 records have no `summary`"):
        dataset(again, summary_ratio=0.5).survey()
