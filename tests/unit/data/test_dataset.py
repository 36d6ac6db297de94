"""Records as samples: keyed, fitted to the picture, resolved, counted."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from plumbline.data.dataset import DatasetSettings, RecordDataset, RecordFile, manifest
from plumbline.data.images import ImagePolicy
from plumbline.data.keyed import keyed_generator
from plumbline.errors import DataError

BOX = {"bbox_2d": [1, 2, 30, 40], "desc": "x"}


def write(folder: Path, *objects: list[dict], **change) -> Path:
    path = folder / "data.jsonl"
    rows = [
        {"images": [f"{i}.png"], "width": 64, "height": 48, "objects": items, "summary": f"s{i}"} | change
        for i, items in enumerate(objects)
    ]
    path.write_text("\n" + "".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    for i in range(len(objects)):
        Image.new("RGB", (64, 48), (i, i, i)).save(folder / f"{i}.png")
    return path


def test_a_file_is_a_sequence_that_can_travel_to_a_worker(tmp_path) -> None:
    records = RecordFile(write(tmp_path, [BOX], [BOX], [BOX]))
    assert [record.line for record in records] == [2, 3, 4]
    assert [record.summary for record in records[1:]] == ["s1", "s2"]
    assert records[-1].summary == "s2"
    assert pickle.loads(pickle.dumps(records))[1] == records[1]
    with pytest.raises(IndexError):
        records[3]


def test_records_read_together_are_those_read_alone(tmp_path) -> None:
    line = {"line": [1, 2, 30, 40, 50, 3], "line_points": 3, "desc": "y"}
    records = RecordFile(write(tmp_path, [BOX, line], [], [line]))
    assert records.several([2, 0, 0, 1]) == [records[2], records[0], records[0], records[1]]
    assert records[0:2] == records.several([0, 1])
    assert records.several([]) == []


def test_a_changed_file_is_refused(tmp_path) -> None:
    path = write(tmp_path, [BOX], [BOX])
    records = RecordFile(path)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(DataError, match="has changed"):
        records[0]


def test_opening_names_the_first_problems_of_the_whole_file(tmp_path) -> None:
    path = write(tmp_path, [BOX], [{}], [BOX], [{}] * 30)
    with pytest.raises(DataError) as caught:
        RecordFile(path)
    lines = [str(problem) for problem in caught.value.problems]
    assert len(lines) == 21
    assert ":3: objects[0]" in lines[0]
    assert "and 42 more problems" in lines[-1]
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no record"):
        RecordFile(tmp_path / "empty.jsonl")


def test_a_sample_has_resolved_images_in_both_places(tmp_path) -> None:
    sample = RecordDataset(RecordFile(write(tmp_path, [BOX]))).item(0)
    image = str((tmp_path / "0.png").resolve())
    assert sample.images == [image]
    assert sample.messages[1]["content"][0] == {"type": "image", "image": image}
    assert sample.mode == "dense"
    assert sample.record.line == 2


def test_mode_limit_and_range(tmp_path) -> None:
    records = RecordFile(write(tmp_path, [BOX], [BOX], [BOX]))
    dataset = RecordDataset(records, DatasetSettings(mode="summary", sample_limit=2))
    assert len(dataset) == 2
    assert dataset.item(1).messages[-1]["content"] == "s1"
    for index in (2, -1):
        with pytest.raises(IndexError):
            dataset.item(index)


def test_geometry_is_fitted_and_counted(tmp_path) -> None:
    over, away = BOX | {"bbox_2d": [50, 40, 80, 60]}, BOX | {"bbox_2d": [64, 48, 90, 90]}
    dataset = RecordDataset(RecordFile(write(tmp_path, [BOX, over, away], [away], [BOX])))
    sample = dataset.item(0)
    assert [item.shape.flat() for item in sample.record.objects] == [[1, 2, 30, 40], [50, 40, 64, 48]]
    assert (sample.clipped, sample.dropped) == (1, 1)
    with pytest.raises(DataError, match=r":3: all 1 objects lie outside the picture of 64 x 48"):
        dataset.item(1)
    survey = dataset.survey()
    assert (survey.records, survey.objects, survey.clipped, survey.dropped) == (3, 3, 1, 2)
    assert survey.emptied == (f"{tmp_path}/data.jsonl:3",)


def test_a_refused_picture_is_named_with_its_line(tmp_path) -> None:
    dataset = RecordDataset(RecordFile(write(tmp_path, [BOX], images=["../x.png"])))
    with pytest.raises(DataError, match=r"data\.jsonl:2: '\.\./x\.png'.*\n.*custom\.image_roots"):
        dataset.item(0)


def test_keyed_numbers_depend_on_every_part_of_the_key_and_on_nothing_else() -> None:
    first = keyed_generator(1, 2, 3, "mode").random(4).tolist()
    keyed_generator(9, 9, 9, "other").random(100)
    assert keyed_generator(1, 2, 3, "mode").random(4).tolist() == first
    for key in ((0, 2, 3, "mode"), (1, 0, 3, "mode"), (1, 2, 0, "mode"), (1, 2, 3, "plan")):
        assert keyed_generator(*key).random(4).tolist() != first


def test_the_manifest_holds_the_digest_of_every_byte(tmp_path) -> None:
    path = write(tmp_path, [BOX], [BOX])
    first = manifest(path, ImagePolicy())
    assert first["records"] == 2
    assert first["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert first["bytes"] == path.stat().st_size
    data = (tmp_path / "1.png").read_bytes()
    assert first["images"]["1.png"] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert manifest(path, ImagePolicy()) == first
    (tmp_path / "1.png").write_bytes(data[:-1] + b"x")
    assert manifest(path, ImagePolicy())["images"]["1.png"] != first["images"]["1.png"]
