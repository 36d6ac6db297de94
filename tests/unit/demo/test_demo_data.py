import hashlib
from pathlib import Path

import pytest
from PIL import Image

from plumbline.data.read import read_records
from plumbline.demo import data as demo_data
from plumbline.demo.data import photo_file, photo_records, write_demo_data
from plumbline.demo.scenes import summarise


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_photographs_are_there_with_the_size_their_record_states():
    photos = photo_records()
    assert len(photos) >= 8
    for photo in photos:
        with Image.open(photo_file(photo)) as image:
            assert image.size == (photo.width, photo.height)


def test_photographs_hold_every_geometry_inside_the_picture_and_a_matching_summary():
    kinds = set()
    for photo in photo_records():
        assert photo.summary == summarise(item.desc for item in photo.objects)
        assert photo.metadata["credit"] and photo.metadata["split"] in {"train", "val"}
        for item in photo.objects:
            kinds.add(item.shape.kind)
            x1, y1, x2, y2 = item.shape.bounds()
            assert 0 <= x1 < x2 <= photo.width and 0 <= y1 < y2 <= photo.height
    assert kinds == {"bbox_2d", "quad", "poly", "line"}


def test_dataset_is_complete_readable_and_the_same_twice(tmp_path):
    written = write_demo_data(tmp_path / "data", scenes=5, held_out=2, seed=4)
    train, val = list(read_records(written.train)), list(read_records(written.val))
    assert (len(train), len(val)) == (written.train_records, written.val_records)
    for record in train + val:
        with Image.open(tmp_path / "data" / record.images[0]) as image:
            assert image.size == (record.width, record.height)
        assert record.summary
    write_demo_data(tmp_path / "again", scenes=5, held_out=2, seed=4)
    assert digest(tmp_path / "data") == digest(tmp_path / "again")


def test_held_out_pictures_are_in_no_training_record(tmp_path):
    written = write_demo_data(tmp_path / "data", scenes=4, held_out=2)
    train = {record.images for record in read_records(written.train)}
    val = {record.images for record in read_records(written.val)}
    assert not train & val
    assert any(images[0].startswith("photos/") for images in val)
    assert any(images[0].startswith("scenes/") for images in val)


def test_rewriting_replaces_the_folder_whole(tmp_path):
    write_demo_data(tmp_path / "data", scenes=3, held_out=1)
    (tmp_path / "data" / "stale.txt").write_text("old")
    write_demo_data(tmp_path / "data", scenes=2, held_out=1)
    assert not (tmp_path / "data" / "stale.txt").exists()
    assert len(list((tmp_path / "data" / "scenes").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failure_leaves_the_old_folder_and_nothing_half_written(tmp_path, monkeypatch):
    write_demo_data(tmp_path / "data", scenes=1, held_out=1)
    before = digest(tmp_path / "data")

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_data, "render_scene", broken)
    with pytest.raises(KeyboardInterrupt):
        write_demo_data(tmp_path / "data", scenes=2, held_out=1)
    assert digest(tmp_path / "data") == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
