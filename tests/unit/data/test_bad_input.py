"""Bad input behaves as the table in docs/DATA_FORMATS.md says: refused by the reader, reported by the check, kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import Augmentation
from plumbline.augment.render import render
from plumbline.data.check import Check, CheckOptions
from plumbline.data.fit import fit_record
from plumbline.data.images import load_image
from plumbline.data.keyed import keyed_generator
from plumbline.data.read import read_records
from plumbline.errors import DataError

SIZE = (160, 120)
CHAIN = Augmentation(
    (
        OPERATIONS["rotate"](max_deg=20.0),
        OPERATIONS["random_crop"](area=(0.4, 0.7), min_objects=0),
        OPERATIONS["hflip"](prob=0.5),
        OPERATIONS["jpeg"](),
    )
)


def saved(folder: Path, *objects: dict, **change: object) -> Path:
    record = {"images": ["a.png"], "width": 160, "height": 120, "objects": [{"desc": "x"} | item for item in objects]}
    path = folder / "d.jsonl"
    path.write_text(json.dumps(record | change) + "\n", encoding="utf-8")
    return path


def codes(path: Path, images: bool = False) -> list[str]:
    return [found.code for found in Check([path], CheckOptions(images=images)).findings()]


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"bbox_2d": [50, 50, 50, 80]}, "zero-area"),
        ({"bbox_2d": [50, 50, 50, 50]}, "zero-area"),
        ({"poly": [10, 10, 50, 50, 90, 90]}, "zero-area"),
        ({"bbox_2d": [80, 80, 20, 20]}, "box-corners"),
        ({"quad": [20, 20, 90, 90, 90, 20, 20, 90]}, "self-crossing"),
        ({"line": [30, 30, 30, 30]}, "zero-length"),
        ({"quad": [10, 10, 10, 10, 50, 50, 20, 60]}, "repeated-point"),
    ],
)
def test_degenerate_geometry_is_reported_and_otherwise_stays_as_it_is(tmp_path, item, code) -> None:
    path = saved(tmp_path, item, {"bbox_2d": [70, 50, 90, 70]})
    assert codes(path) == [code]
    (record,) = read_records(path)
    fitted = fit_record(record)
    assert fitted.record == record
    for seed in range(30):
        plan = CHAIN.plan(record, SIZE, keyed_generator(seed, 0, 0, "test"))
        assert len(plan.kept_indices) + len(plan.dropped) == 2
        assert all(0 <= share <= 1 for share in plan.coverages)
        for told in plan.record.objects:
            x1, y1, x2, y2 = told.shape.bounds()
            assert np.isfinite(told.shape.points).all()
            assert x1 >= 0 and y1 >= 0 and x2 <= plan.width and y2 <= plan.height


@pytest.mark.parametrize("item", [{"line": [5, 5]}, {"quad": [1, 2, 3, 4, 5, 6]}, {"poly": [1, 2, 3, 4]}, {"line": []}])
def test_too_few_points_are_refused_by_the_reader(tmp_path, item) -> None:
    path = saved(tmp_path, item)
    assert codes(path) == ["geometry"]
    with pytest.raises(DataError, match=r"d\.jsonl:1: objects\[0\]\.\w+: \d numbers"):
        list(read_records(path))


def test_a_picture_of_another_size_than_the_record_says(tmp_path) -> None:
    Image.new("RGB", (120, 160)).save(tmp_path / "a.png")
    path = saved(tmp_path, {"bbox_2d": [1, 1, 50, 50]})
    assert codes(path) == []
    (found,) = Check([path], CheckOptions(images=True)).findings()
    assert found.code == "size-mismatch"
    assert "160 x 120" in found.what and "120 x 160" in found.what and "EXIF" in found.fix
    (record,) = read_records(path)
    plan = CHAIN.plan(record, SIZE, keyed_generator(1, 0, 0, "test"))
    with pytest.raises(ValueError, match="the picture is 120 x 160, the plan is for one of 160 x 120"):
        render(np.asarray(load_image(tmp_path / "a.png")), plan)


def sixteen_bit(path: Path) -> None:
    ramp = np.linspace(0, 65535, 160, dtype=np.uint16)
    Image.fromarray(np.tile(ramp, (120, 1))).save(path)


def cmyk(path: Path) -> None:
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(path, "JPEG")


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (120, 160), (255, 0, 0)).save(path, "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("make", "middle"), [(sixteen_bit, (127, 127, 127)), (cmyk, (255, 0, 0)), (turned, (255, 0, 0))]
)
def test_odd_pictures_are_upright_rgb_before_anything_moves(tmp_path, make, middle) -> None:
    make(tmp_path / "a.png")
    path = saved(tmp_path, {"bbox_2d": [1, 1, 50, 50]})
    assert codes(path, images=True) == []
    picture = load_image(tmp_path / "a.png")
    assert (picture.mode, picture.size) == ("RGB", SIZE)
    assert picture.getpixel((80, 60)) == pytest.approx(middle, abs=4)
    (record,) = read_records(path)
    plan = Augmentation((OPERATIONS["hflip"](),)).plan(record, SIZE, keyed_generator(1, 0, 0, "test"))
    mirrored = render(np.asarray(picture), plan)
    assert np.abs(mirrored[:, ::-1].astype(int) - np.asarray(picture)).max() <= 1


@pytest.mark.parametrize(
    ("written", "named"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-32", "UTF-32")],
)
def test_a_file_in_a_wide_encoding_is_named_with_the_command_that_converts_it(tmp_path, written, named) -> None:
    path = tmp_path / "a b.jsonl"
    path.write_bytes('{"images": ["a.jpg"]}\n'.encode(written))
    with pytest.raises(DataError, match=f"this file is {named}, not UTF-8") as caught:
        list(read_records(path))
    assert f"iconv -f {named} -t UTF-8 '{path}'" in str(caught.value)
