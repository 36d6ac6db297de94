"""`plumbline data sample` and `merge`: shares that hold, lines as they were, pictures that are still found."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plumbline.data.images import ImagePolicy
from plumbline.data.messages import own_images
from plumbline.data.read import read_records

SIZE = {"width": 64, "height": 48}


def record(image: str, desc: str = "常见/b", **more: Any) -> dict[str, Any]:
    return {"images": [image], **SIZE, "objects": [{"bbox_2d": [1, 1, 20, 20], "desc": desc}], **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + " \n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    descs = ["常见/b"] * 80 + ["some/c"] * 15 + ["rare/a"] * 5
    return write(tmp_path / "all.jsonl", [record(f"{n}.jpg", desc) for n, desc in enumerate(descs)])


@pytest.mark.parametrize("seed", range(5))
def test_every_class_has_its_share_in_lines_as_they_were(data: Path, plumbline, seed: int) -> None:
    output = data.parent / "small.jsonl"
    code, out, err = plumbline("data", "sample", data, "-n", "20", "--output", output, "--seed", str(seed), "--json")
    assert code == 0, err
    lines = [line.rstrip() for line in data.read_text("utf-8").splitlines()]
    drawn = output.read_text("utf-8").splitlines()
    assert [lines.index(line) for line in drawn] == sorted({lines.index(line) for line in drawn}) and len(drawn) == 20
    classes = Counter(json.loads(line)["objects"][0]["desc"] for line in drawn)
    assert classes == {"常见/b": 16, "some/c": 3, "rare/a": 1}
    assert json.loads(out)["classes"]["rare"] == [1, 5]
    again = data.parent / "again.jsonl"
    assert plumbline("data", "sample", data, "-n", "20", "--output", again, "--seed", str(seed))[0] == 0
    assert again.read_bytes() == output.read_bytes()


def test_seeds_differ_and_all_records_is_the_file(data: Path, plumbline) -> None:
    outputs = []
    for seed in ("0", "1"):
        outputs.append(data.parent / f"{seed}.jsonl")
        assert plumbline("data", "sample", data, "-n", "20", "--output", outputs[-1], "--seed", seed)[0] == 0
    assert outputs[0].read_bytes() != outputs[1].read_bytes()
    assert plumbline("data", "sample", data, "-n", "100", "--output", data.parent / "whole.jsonl")[0] == 0
    whole = (data.parent / "whole.jsonl").read_text("utf-8").splitlines()
    assert whole == [line.rstrip() for line in data.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["-n", "101", "--output", "small.jsonl"], "holds 100 records, and 101 are wanted"),
        (["-n", "0", "--output", "small.jsonl"], "from 1"),
        (["-n", "3", "--output", "all.jsonl", "--overwrite"], "is the file that is read"),
        (["-n", "3", "--output", "there.jsonl"], "is there already"),
        (["-n", "3", "--output", "folder/small.jsonl"], "another folder"),
    ],
)
def test_samples_that_cannot_be(data: Path, plumbline, words: list[str], what: str) -> None:
    write(data.parent / "there.jsonl", [])
    before = data.read_bytes()
    place = words.index("--output") + 1
    code, _, err = plumbline("data", "sample", data, *words[:place], data.parent / words[place], *words[place + 1 :])
    assert code == 2 and what in err
    assert data.read_bytes() == before


@pytest.fixture
def sites(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with pictures; a chat names its picture inside a turn."""
    turn = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "c.jpg"}}, {"type": "text", "text": "?"}],
    }
    chat = {"messages": [turn, {"role": "assistant", "content": "!"}]}
    for site, names in (("a", "xy"), ("b/deep", "xc")):
        for name in names:
            (tmp_path / site).mkdir(parents=True, exist_ok=True)
            (tmp_path / site / f"{name}.jpg").write_bytes(b"picture")
    one = write(tmp_path / "a" / "all.jsonl", [record("x.jpg"), record("y.jpg")])
    return one, write(tmp_path / "b" / "deep" / "all.jsonl", [record("x.jpg"), chat])


def test_pictures_are_found_from_the_new_file(sites: tuple[Path, Path], tmp_path: Path, plumbline) -> None:
    output = tmp_path / "all.jsonl"
    code, out, err = plumbline("data", "merge", *sites, "--output", output, "--json")
    assert code == 0, err
    assert json.loads(out) == {"records": {str(sites[0]): 2, str(sites[1]): 2}, "repeated": 0, "written": 4}
    records = list(read_records(output))
    assert [own_images(each) for each in records] == [["a/x.jpg"], ["a/y.jpg"], ["b/deep/x.jpg"], ["b/deep/c.jpg"]]
    for image in (image for each in records for image in own_images(each)):
        assert ImagePolicy().resolve(image, output.parent).is_file()


def test_repeats_are_written_once_and_conflicts_are_all_named(tmp_path: Path, plumbline) -> None:
    same = record("x.jpg")
    one = write(tmp_path / "one.jsonl", [same, record("y.jpg"), record("z.jpg")])
    two = write(tmp_path / "two.jsonl", [same, record("w.jpg"), {"images": ["y.jpg"], **SIZE, "summary": "常见×1"}])
    output = tmp_path / "all.jsonl"
    code, out, err = plumbline("data", "merge", one, two, "--output", output)
    assert code == 0, err
    assert "5 records, 1 left out" in out and len(list(read_records(output))) == 5
    three = write(tmp_path / "three.jsonl", [record("x.jpg", "别的/c"), record("z.jpg", "别的/c")])
    code, _, err = plumbline("data", "merge", one, three, "--output", tmp_path / "bad.jsonl")
    assert code == 2 and "three.jsonl:1" in err and "three.jsonl:2" in err and "one.jsonl:3" in err
    assert not (tmp_path / "bad.jsonl").exists()


def test_merges_that_cannot_be(sites: tuple[Path, Path], tmp_path: Path, plumbline) -> None:
    code, _, err = plumbline("data", "merge", *sites, "--output", tmp_path / "a" / "new.jsonl")
    assert code == 2 and "above all pictures" in err
    code, _, err = plumbline("data", "merge", *sites, "--output", sites[0], "--overwrite")
    assert code == 2 and "is a file that is read" in err
    write(tmp_path / "broken.jsonl", [{"images": []}])
    code, _, err = plumbline("data", "merge", tmp_path / "broken.jsonl", "--output", tmp_path / "new.jsonl")
    assert code == 2 and "broken.jsonl:1" in err
