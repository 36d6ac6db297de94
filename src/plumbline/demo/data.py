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
from plumbline.demo.everyday import plan_everyday, render_everyday
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


EVERYDAY = "everyday"
"""Folder of everyday scenes: photos of another domain, without labels, for the base to answer questions about."""
ASKED = "asked.jsonl"
"""Training records that the base is asked other questions about."""
ASKED_SHARE = 6  # every sixth record


def write_demo_data(
    folder: str | Path, scenes: int = 96, held_out: int = 8, seed: int = 0, everyday: int = 24
) -> DemoData:
    """Write pictures, train.jsonl and val.jsonl under `folder`; the folder appears whole or not at all.

    Scenes are numbered through: the first `scenes` are for training, the `held_out` ones after them for validation,
    in addition to the photographs marked `val`. `everyday` pictures without labels are for the anchors, and so is
    `asked.jsonl`, a part of the training records. The same arguments give the same bytes.
    """
    with drafted(folder, overwrite=True) as draft:
        photos = list(_place_photos(draft))
        train = [photo for photo in photos if photo.metadata["split"] == "train"]
        val = [photo for photo in photos if photo.metadata["split"] == "val"]
        train += _draw_scenes(draft, seed, range(scenes))
        val += _draw_scenes(draft, seed, range(scenes, scenes + held_out))
        write_records(draft / "train.jsonl", train)
        write_records(draft / "val.jsonl", val)
        write_records(draft / ASKED, train[::ASKED_SHARE])
        _draw_everyday(draft / EVERYDAY, seed, everyday)
    return DemoData(Path(folder) / "train.jsonl", Path(folder) / "val.jsonl", len(train), len(val))


def _place_photos(folder: Path) -> Iterator[Record]:
    (folder / "photos").mkdir()
    for record in photo_records():
        shutil.copyfile(photo_file(record), folder / record.images[0])
        summary = summarise((item.desc for item in record.objects), whole=True)
        yield replace(record, summary=summary, file="", line=0)


def _draw_scenes(folder: Path, seed: int, indices: range) -> Iterator[Record]:
    (folder / "scenes").mkdir(exist_ok=True)
    for index in indices:
        image = f"scenes/scene_{index:05d}.png"
        scene = plan_scene(seed, index)
        Image.fromarray(render_scene(scene)).save(folder / image)
        yield replace(scene_record(scene, image), metadata={"seed": seed, "index": index})


def _draw_everyday(folder: Path, seed: int, count: int) -> None:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(render_everyday(plan_everyday(seed, index))).save(folder / f"{index:04d}.png")
