"""`plumbline start`: photos and annotations of any known tool become a run that `train --dry-run` accepts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

COUNT = 24


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 unlike photos in two folders."""
    folder = tmp_path / "photos"
    for number in range(COUNT):
        path = folder / f"site{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 48), Image.Resampling.NEAREST).save(path)
    return folder


def names(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))


def write_coco(photos: Path, file: Path) -> Path:
    images = [
        {"id": number, "file_name": path.relative_to(photos).as_posix(), "width": 64, "height": 48}
        for number, path in enumerate(names(photos))
    ]
    annotations = [
        {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [4, 4, 20, 20]}
        for number in range(COUNT)
    ]
    categories = [{"id": 1, "name": "柜子"}, {"id": 2, "name": "fan"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}), "utf-8")
    return file


def write_records(photos: Path, file: Path, **extra) -> Path:
    rows = [
        {
            "images": [path.relative_to(photos).as_posix()],
            "width": 64,
            "height": 48,
            "objects": [{"bbox_2d": [4, 4, 24, 24], "desc": "fan"}],
            **extra,
        }
        for path in names(photos)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def write_labelme(photos: Path) -> None:
    for path in names(photos):
        shape = {"label": "fan", "shape_type": "rectangle", "points": [[4, 4], [24, 24]]}
        row = {"shapes": [shape], "imagePath": path.name, "imageWidth": 64, "imageHeight": 48}
        path.with_suffix(".json").write_text(json.dumps(row), "utf-8")


def write_yolo(photos: Path) -> None:
    (photos / "classes.txt").write_text("fan\n", "utf-8")
    for path in names(photos):
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.25 0.25\n", "utf-8")


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_coco_becomes_a_run_that_trains(plumbline, photos, tiny_model, tmp_path):
    out = tmp_path / "run"
    code, shown, errors = plumbline(
        "start", photos, write_coco(photos, tmp_path / "labels.json"), "--model", tiny_model, "--output", out
    )
    assert code == 0, errors
    assert "coco" in shown and shown.splitlines()[-1] == f"Next: plumbline train {out / 'run.yaml'}"
    train, val = lines(out / "train.jsonl"), lines(out / "val.jsonl")
    assert len(train) + len(val) == COUNT and len(val) == 2
    written = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    assert written["extends"] == "base"
    # 22 records by four: six steps an epoch, at most ten epochs, ten evaluations.
    assert written["training"]["num_train_epochs"] == 10
    assert written["training"]["gradient_accumulation_steps"] == 4
    assert written["training"]["eval_steps"] == written["training"]["save_steps"] == 6
    here = tmp_path / "here.yaml"  # as it is, the recipe wants a GPU
    cpu = {"model": {"torch_dtype": "float32"}, "training": {"use_cpu": True, "bf16": False}}
    here.write_text(yaml.safe_dump({"extends": "run/run.yaml", **cpu}))
    code, shown, errors = plumbline("train", here, "--dry-run")
    assert code == 0, errors


@pytest.mark.parametrize("write", [write_labelme, write_yolo])
def test_annotations_among_the_photos_are_found(write, plumbline, photos, tiny_model, tmp_path):
    write(photos)
    code, shown, errors = plumbline("start", photos, "--model", tiny_model, "--output", tmp_path / "run", "--json")
    assert code == 0, errors
    assert json.loads(shown)["format"] == write.__name__.removeprefix("write_")
    (item,) = lines(tmp_path / "run" / "train.jsonl")[0]["objects"]
    assert item["desc"] == "fan" and len(item["bbox_2d"]) == 4


def test_records_named_from_the_photos(plumbline, photos, tiny_model, tmp_path):
    """The file lies elsewhere: its pictures are looked up in PHOTOS, and summaries alone choose their recipe."""
    file = write_records(photos, tmp_path / "all.jsonl", summary="风扇×1")
    rows = [{key: row[key] for key in row if key != "objects"} for row in lines(file)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    code, shown, errors = plumbline(
        "start", photos, file, "--model", tiny_model, "--output", tmp_path / "run", "--json"
    )
    assert code == 0, errors
    assert json.loads(shown)["recipe"] == "summary"
    for row in lines(tmp_path / "run" / "train.jsonl"):
        assert (tmp_path / "run" / row["images"][0]).is_file()


def test_what_the_model_wrote_is_a_draft(plumbline, photos, tiny_model, tmp_path):
    drafts = tmp_path / "drafts.jsonl"
    rows = [
        {
            "key": path.name,
            "image": path.relative_to(photos).as_posix(),
            "width": 64,
            "height": 48,
            "objects": [{"line": [1, 2, 30, 40], "line_points": 2, "desc": "线"}],
            "text": "",
            "status": "ok",
            "problems": [],
        }
        for path in names(photos)
    ]
    rows[3] |= {"status": "failed", "objects": []}
    drafts.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    code, shown, _ = plumbline("start", photos, drafts, "--model", tiny_model, "--output", tmp_path / "run", "--json")
    found = json.loads(shown)
    assert code == 3 and found["format"] == "captions"
    assert found["conversion"]["lost"] == {"picture that was not described ('failed')": 1}
    assert sum(found["split"]["records"].values()) == COUNT - 1


def test_photos_alone_get_the_way_to_drafts(plumbline, photos, tiny_model, tmp_path):
    code, shown, _ = plumbline("start", photos, "--model", tiny_model, "--output", tmp_path / "run")
    assert code == 3
    assert "plumbline infer" in shown and "--to coco" in shown
    assert shown.splitlines()[-1].startswith("Next: plumbline infer --model")
    assert not (tmp_path / "run").exists()


def test_tickets_stay_whole(plumbline, photos, tiny_model, tmp_path):
    """Twelve folders of two photos: all photos of a folder are on one side."""
    for number, path in enumerate(names(photos)):
        target = photos / f"ticket{number % 12:02d}" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    labels = write_coco(photos, tmp_path / "labels.json")
    code, shown, errors = plumbline(
        "start", photos, labels, "--model", tiny_model, "--output", tmp_path / "run", "--json"
    )
    assert code == 0, errors
    assert json.loads(shown)["group"] == "folder"
    train, val = (
        {Path(row["images"][0]).parent.name for row in lines(tmp_path / "run" / f"{part}.jsonl")}
        for part in ("train", "val")
    )
    assert train and val and not train & val


def test_findings_are_counted_and_the_run_is_written(plumbline, photos, tiny_model, tmp_path):
    labels = write_records(photos, tmp_path / "all.jsonl")
    rows = lines(labels)
    rows[5]["objects"] *= 2
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    code, shown, errors = plumbline("start", photos, labels, "--model", tiny_model, "--output", tmp_path / "run")
    assert code == 3
    assert "finding      1 x" in errors and "data check" in errors
    assert (tmp_path / "run" / "run.yaml").is_file() and "Next: plumbline train" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "is no folder"),
        (("photos", "notes.txt"), "is in no format that is recognised"),
        (("photos", "--recipe", "nonsense"), "is no recipe"),
        (("photos", "--model", "photos"), "is no folder of a model"),
        (("empty",), "holds no picture"),
    ],
)
def test_bad_input(words, message, plumbline, photos, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("remember the milk\n")
    (tmp_path / "empty").mkdir()
    model = () if "--model" in words else ("--model", tiny_model)
    code, _, errors = plumbline("start", *words, *model, "--output", "run")
    assert code == 2 and message in errors
    assert not (tmp_path / "run").exists()


def test_a_used_folder_is_left_alone(plumbline, photos, tiny_model, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("x")
    labels = write_coco(photos, tmp_path / "labels.json")
    words = ("start", photos, labels, "--model", tiny_model, "--output", tmp_path / "run")
    code, _, errors = plumbline(*words)
    assert code == 2 and "is not empty" in errors
    assert plumbline(*words, "--overwrite")[0] == 0


def test_the_only_model_is_taken_and_none_is_an_error(plumbline, photos, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = write_coco(photos, tmp_path / "labels.json")
    code, _, errors = plumbline("start", photos, labels, "--output", "run")
    assert code == 2 and "models/ holds none" in errors
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(tiny_model)
    assert plumbline("start", photos, labels, "--output", "run")[0] == 0
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text("utf-8"))["model"]["model"] == "models/tiny"
