"""Pictures without objects (`objects: []`): read, counted, answered with `{}`, converted on request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from plumbline.data.answer import parse_answer
from plumbline.data.check import Check
from plumbline.data.dataset import DatasetSettings, RecordDataset
from plumbline.data.messages import build_messages
from plumbline.data.prompts import Prompts
from plumbline.data.record import Record, record_to_mapping
from plumbline.errors import DataError

PROMPTS = Prompts("s", "d?", "s", "s?")
NEGATIVE = {"images": ["a.png"], "width": 40, "height": 30, "objects": []}
POSITIVE = NEGATIVE | {"images": ["b.png"], "objects": [{"bbox_2d": [1, 1, 9, 9], "desc": "x"}]}
BARE = {"images": ["c.png"], "width": 40, "height": 30}


@pytest.fixture
def write(tmp_path: Path):
    def write(*rows: dict, name: str = "a.jsonl") -> Path:
        for row in rows:
            Image.new("RGB", (40, 30)).save(tmp_path / row["images"][0])
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def records(path: Path) -> list[Record]:
    from plumbline.data.dataset import RecordFile

    return list(RecordFile(path))


def test_an_empty_list_is_a_negative_and_no_list_is_not(write) -> None:
    found = records(write(NEGATIVE, POSITIVE, BARE, BARE | {"images": ["d.png"], "objects": None}))
    assert [record.is_negative for record in found] == [True, False, False, False]
    assert record_to_mapping(found[0])["objects"] == []
    assert "objects" not in record_to_mapping(found[2])


def test_dense_mode_answers_with_an_empty_object(write) -> None:
    path = write(NEGATIVE, BARE)
    answer = build_messages(records(path)[0], "dense", PROMPTS)["messages"][-1]["content"]
    assert answer == "{}" and not parse_answer(answer).objects and not parse_answer(answer).problems
    with pytest.raises(DataError, match="no `objects`"):
        build_messages(records(path)[1], "dense", PROMPTS)
    sample = RecordDataset(records(path)[:1], DatasetSettings(prompts=PROMPTS)).item(0)
    assert (sample.messages[-1]["content"], sample.objects) == ("{}", 0)


def test_the_summary_of_a_negative_is_its_own_or_the_configured_one(write) -> None:
    plain, own = records(write(NEGATIVE, NEGATIVE | {"images": ["b.png"], "summary": "空"}))
    told = Prompts("s", "d?", "s", "s?", negative_summary="无关图片")
    assert build_messages(plain, "summary", told)["messages"][-1]["content"] == "无关图片"
    assert build_messages(own, "summary", told)["messages"][-1]["content"] == "空"
    with pytest.raises(DataError, match=r"prompts\.negative_summary"):
        build_messages(plain, "summary", PROMPTS)


def test_check_takes_negatives_and_names_a_file_without_any(write) -> None:
    check = Check([write(POSITIVE, NEGATIVE)])
    assert list(check.findings()) == [] and check.notes() == []
    check = Check([write(POSITIVE, name="b.jsonl")])
    assert list(check.findings()) == []
    assert ["b.jsonl: every record has objects" in note for note in check.notes()] == [True]
    (finding,) = Check([write(BARE, name="c.jsonl")]).findings()
    assert finding.code == "no-target" and '"objects": []' in finding.fix


def test_stats_count_them(write, plumbline) -> None:
    code, out, _ = plumbline("data", "stats", write(NEGATIVE, POSITIVE, BARE), "--json")
    assert code == 0 and json.loads(out)["negatives"] == 1


def coco(folder: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (40, 30)).save(folder / name)
    images = [{"id": n, "file_name": name} for n, name in enumerate(("a.png", "b.png", "c.png"))]
    boxes = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"id": 2, "image_id": 2, "category_id": 9},
    ]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]}))
    return path


def test_keep_empty_keeps_what_was_empty_and_not_what_was_lost(tmp_path: Path, plumbline) -> None:
    source, output = coco(tmp_path), tmp_path / "out.jsonl"
    common = ("data", "convert", source, "--from", "coco", "--images", tmp_path, "--output", output)
    code, out, _ = plumbline(*common, "--keep-empty", "--json")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["images"], len(row["objects"])) for row in rows] == [(["a.png"], 0), (["b.png"], 1)]
    assert (rows[0]["width"], rows[0]["height"]) == (40, 30)
    assert code == 3 and json.loads(out)["negatives"] == 1
    code, out, _ = plumbline(*common, "--overwrite")
    assert len(output.read_text().splitlines()) == 1 and "--keep-empty" in out


def test_empty_yolo_labels_are_negatives_on_request(tmp_path: Path, plumbline) -> None:
    for name, text in (("a", ""), ("b", "0 .5 .5 .2 .2\n")):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "classes.txt").write_text("x\n")
    output = tmp_path / "out.jsonl"
    code, *_ = plumbline(
        "data", "convert", tmp_path, "--from", "yolo", "--classes", tmp_path / "classes.txt", "--images", tmp_path,
        "--output", output, "--keep-empty",
    )  # fmt: skip
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 0 and [len(row["objects"]) for row in rows] == [0, 1]
