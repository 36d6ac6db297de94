"""`plumbline data split`: what belongs together stays together, in byte-equal lines, with each class in every part."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = {"width": 64, "height": 48}


def picture(path: Path, seed: int, quality: int = 95) -> None:
    """Coarse noise: re-encoding keeps its pattern."""
    path.parent.mkdir(exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.NEAREST).save(path, quality=quality)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 records in ten folders; pictures 0 and 39 are one picture, encoded twice; class `rare` is in five records."""
    rows = []
    for number in range(40):
        name = f"site{number % 10}/{number:02d}.jpg"
        picture(tmp_path / name, 0 if number == 39 else number, 60 if number == 39 else 95)
        desc = "rare/a" if number % 8 == 0 else "常见/b"
        objects = [{"bbox_2d": [1, 1, 20, 20], "desc": desc}]
        rows.append({"images": [name], **SIZE, "objects": objects, "metadata": {"site": number % 4}})
    path = tmp_path / "all.jsonl"
    # Odd spacing: lines are copied as they are.
    spaced = (json.dumps(row, ensure_ascii=False, separators=(" ,", ":  ")) for row in rows)
    path.write_text("".join(f"{line}\n" for line in spaced), encoding="utf-8")
    return path


def parts(folder: Path, *names: str) -> list[list[dict]]:
    return [[json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()] for name in names]


def test_every_line_is_in_one_part_as_it_was(data: Path, plumbline) -> None:
    code, out, err = plumbline("data", "split", data, "--val-share", "0.2", "--test-share", "0.1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["records"] == {"train.jsonl": 28, "val.jsonl": 8, "test.jsonl": 4}
    lines = [(data.parent / name).read_bytes().splitlines() for name in found["records"]]
    assert sorted(line for own in lines for line in own) == sorted(data.read_bytes().splitlines())
    order = {line: number for number, line in enumerate(data.read_bytes().splitlines())}
    assert all([order[line] for line in own] == sorted(order[line] for line in own) for own in lines)
    assert all(any(b"rare" in line for line in own) for own in lines), "five of 40, and every part has one"
    near = [[b"00.jpg" in line or b"39.jpg" in line for line in own].count(True) for own in lines]
    assert sorted(near) == [0, 0, 2], "one picture encoded twice is in one part"
    assert (found["clusters"], found["linked"], found["largest"]) == (39, 2, 2)


def test_groups_stay_together_and_a_record_without_one_is_named(data: Path, plumbline) -> None:
    assert plumbline("data", "split", data, "--group", "folder", "--val-share", "0.3")[0] == 0
    train, val = parts(data.parent, "train.jsonl", "val.jsonl")
    folders = [{Path(row["images"][0]).parent for row in rows} for rows in (train, val)]
    assert folders[0] | folders[1] == {Path(f"site{number}") for number in range(10)} and not folders[0] & folders[1]
    assert len(val) == 12
    words = ("data", "split", data, "--group", "site", "--val-share", "0.25", "--overwrite")
    assert plumbline(*words)[0] == 0
    train, val = parts(data.parent, "train.jsonl", "val.jsonl")
    assert {row["metadata"]["site"] for row in val}.isdisjoint(row["metadata"]["site"] for row in train)
    code, _, err = plumbline("data", "split", data, "--group", "city", "--overwrite")
    assert code == 2 and "all.jsonl:1" in err and "metadata.city" in err


def test_the_same_seed_gives_the_same_parts_and_another_seed_others(data: Path, plumbline) -> None:
    found = []
    for seed in ("0", "0", "1"):
        assert plumbline("data", "split", data, "--seed", seed, "--overwrite")[0] == 0
        found.append((data.parent / "val.jsonl").read_bytes())
    assert found[0] == found[1] != found[2]


def test_nothing_is_overwritten_or_written_where_pictures_would_be_lost(data: Path, plumbline, tmp_path: Path) -> None:
    code, out, _ = plumbline("data", "split", data, "--dry-run")
    assert code == 0 and "train.jsonl: 36 records" in out and not (data.parent / "train.jsonl").exists()
    (data.parent / "val.jsonl").write_text("mine")
    code, _, err = plumbline("data", "split", data)
    assert code == 2 and "is there already" in err and (data.parent / "val.jsonl").read_text() == "mine"
    assert not (data.parent / "train.jsonl").exists()
    for word in ("../elsewhere.jsonl", "all.jsonl"):
        assert plumbline("data", "split", data, "--train", word)[0] == 2
    assert plumbline("data", "split", data, "--val-share", "1.0", "--overwrite")[0] == 2


def test_a_picture_that_cannot_be_read_is_named_and_need_not_be_opened(data: Path, plumbline) -> None:
    (data.parent / "site3" / "03.jpg").unlink()
    code, _, err = plumbline("data", "split", data)
    assert code == 2 and "03.jpg" in err
    code, out, _ = plumbline("data", "split", data, "--no-near")
    assert code == 0 and "Next: plumbline data check" in out


def test_classes_that_a_part_lacks_are_said(data: Path, plumbline) -> None:
    code, _, err = plumbline("data", "split", data, "--group", "folder", "--val-share", "0.1", "--dry-run")
    assert code == 0
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    rows[3]["objects"][0]["desc"] = "einzig"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, _, err = plumbline("data", "split", data, "--dry-run")
    assert code == 0 and "note: einzig: " in err and "0 in " in err


def test_chats_and_broken_lines(tmp_path: Path, plumbline) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    path.write_text((json.dumps({"messages": turns}) + "\n") * 10, encoding="utf-8")
    code, out, err = plumbline("data", "split", path, "--json")
    assert code == 0, err
    assert json.loads(out)["records"] == {"train.jsonl": 9, "val.jsonl": 1}
    path.write_text("{\n", encoding="utf-8")
    code, _, err = plumbline("data", "split", path, "--overwrite")
    assert code == 2 and "chats.jsonl:1" in err
