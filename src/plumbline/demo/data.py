"""The demonstration's dataset: annotated photographs and rendered rack scenes, as train.jsonl and val.jsonl."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from PIL import Image

from plumbline.data.read import read_records, write_records
from plumbline.data.record import Record
from plumbline.demo.scenes import plan_scene, render_scene, scene_record, summarise
from plumbline.errors import DataError, Problem
from plumbline.evaluate.tasks.questions import package_file
from plumbline.model.checkpoints import drafted


@dataclass(frozen=True)
class DemoData:
    """Where the dataset lies and how many records each file has."""

    train: Path
    val: Path
    train_records: int
    val_records: int


def photo_records() -> list[Record]:
    """The hand-annotated photographs; `metadata` holds the source inside its package, the credit and the split."""
    with resources.as_file(resources.files("plumbline.demo") / "photos.jsonl") as path:
        return list(read_records(path))


def photo_file(record: Record) -> Path:
    """The photograph itself, inside the installed package that brings it.

    Raises DataError when that package does not hold the picture.
    """
    source = str(record.metadata["source"])
    if (path := package_file(source)) is None:
        raise DataError(Problem(source, "photograph not found", "pip install 'plumbline[demo]'"))
    return path


HELD_OUT_ANCHORS = 4
GENERAL = (
    ("法国的首都是哪里?", "巴黎。"),
    ("What is 17 plus 26?", "43."),
    ("一年有多少个月?", "十二个月。"),
    ("Which planet is the largest?", "Jupiter."),
    ("水在多少度结冰?", "零摄氏度。"),
    ("What is the opposite of generous?", "Stingy."),
    ("列出三种水果。", "苹果、香蕉、橙子。"),
    ("Translate thank you into Chinese.", "谢谢。"),
    ("世界上最高的山是哪座?", "珠穆朗玛峰。"),
    ("How many minutes are there in two hours?", "120."),
    ("把早上好翻译成英文。", "Good morning."),
    ("Name three primary colours.", "Red, yellow and blue."),
    ("谦虚的反义词是什么?", "骄傲。"),
    ("What does HTTP stand for?", "Hypertext Transfer Protocol."),
    ("一周有几天?", "七天。"),
    ("At what temperature does water boil?", "At 100 degrees Celsius."),
)
"""(question, answer); the first `HELD_OUT_ANCHORS` are for validation."""


def write_demo_data(folder: str | Path, scenes: int = 96, held_out: int = 8, seed: int = 0) -> DemoData:
    """Write pictures, train.jsonl and val.jsonl under `folder`; the folder appears whole or not at all.

    Scenes are numbered through: the first `scenes` are for training, the `held_out` ones after them for validation,
    in addition to the photographs marked `val`. The same arguments give the same bytes.
    """
    with drafted(folder, overwrite=True) as draft:
        photos = list(_place_photos(draft))
        train = [photo for photo in photos if photo.metadata["split"] == "train"]
        val = [photo for photo in photos if photo.metadata["split"] == "val"]
        train += _draw_scenes(draft, seed, range(scenes))
        val += _draw_scenes(draft, seed, range(scenes, scenes + held_out))
        write_records(draft / "train.jsonl", train)
        write_records(draft / "val.jsonl", val)
        anchors = list(_anchors())
        write_records(draft / "anchors.jsonl", anchors[HELD_OUT_ANCHORS:])
        write_records(draft / "anchors_val.jsonl", anchors[:HELD_OUT_ANCHORS])
    return DemoData(Path(folder) / "train.jsonl", Path(folder) / "val.jsonl", len(train), len(val))


def _anchors() -> Iterator[Record]:
    """General questions for `configs/tiny/stage_3_anchored.yaml`: the tiny base has no answers worth keeping."""
    for question, answer in GENERAL:
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        yield Record(messages=turns, metadata={"anchor": "text"})


def _place_photos(folder: Path) -> Iterator[Record]:
    (folder / "photos").mkdir()
    for record in photo_records():
        shutil.copyfile(photo_file(record), folder / record.images[0])
        summary = summarise(item.desc for item in record.objects)
        yield replace(record, summary=summary, file="", line=0)


def _draw_scenes(folder: Path, seed: int, indices: range) -> Iterator[Record]:
    (folder / "scenes").mkdir(exist_ok=True)
    for index in indices:
        image = f"scenes/scene_{index:05d}.png"
        scene = plan_scene(seed, index)
        Image.fromarray(render_scene(scene)).save(folder / image)
        yield replace(scene_record(scene, image), metadata={"seed": seed, "index": index})
