"""`data check`: each finding where it belongs, nothing else touched, never stopping at the first."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from PIL import Image

from plumbline.cli import app
from plumbline.data.check import Check, CheckOptions
from plumbline.data.images import ImagePolicy
from plumbline.errors import DataError

BOX = {"bbox_2d": [1, 2, 30, 40], "desc": "BBU设备/品牌:华为"}
GOOD = {"images": ["a.jpg"], "width": 64, "height": 48, "objects": [BOX], "summary": "BBU设备×1"}


def write(folder: Path, *records: object, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(r) if not isinstance(r, str) else r}\n" for r in records), encoding="utf-8")
    return path


def findings(*files: Path, **options) -> list[tuple[str, int, str]]:
    return [(f.code, f.line, f.where) for f in Check(files, CheckOptions(**options)).findings()]


def codes(tmp_path: Path, objects: list[dict] | None = None, **change) -> list[str]:
    record = GOOD | change | ({"objects": objects} if objects is not None else {})
    return [code for code, _, _ in findings(write(tmp_path, record))]


def test_a_clean_file_has_no_finding(tmp_path) -> None:
    shapes = [
        BOX,
        {"desc": "a,b", "quad": [10, 10, 20, 5, 30, 20, 15, 25]},
        {"desc": "类别=x,品牌=y", "poly": [60, 40, 5, 5, 30, 10, 60, 5]},  # concave, counter-clockwise, any start
        {"desc": "line", "line_points": 3, "line": [50, 40, 10, 10, 0, 48]},
        {"desc": "whole picture", "bbox_2d": [0, 0, 64, 48]},
    ]
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    path = write(tmp_path, GOOD | {"objects": shapes}, chat, GOOD | {"images": ["b.jpg"], "objects": []})
    assert findings(path) == []


def test_a_large_file_is_judged_in_every_core_with_the_same_findings(tmp_path, monkeypatch) -> None:
    records: list[object] = [GOOD | {"images": [f"{i}.jpg"]} for i in range(700)]
    records[300] = GOOD | {"images": ["5.jpg"], "summary": "again"}
    records[301] = "{broken"
    records[600] = records[7]
    path = write(tmp_path, *records)
    alone = findings(path)
    monkeypatch.setattr("plumbline.data.check._BYTES_PER_PROCESS", 1000)
    monkeypatch.setattr("plumbline.data.check.cores", lambda: 2)
    run = Check([path])
    together = [(f.code, f.line, f.where) for f in run.findings()]
    assert together == alone
    assert [(code, line) for code, line, _ in alone] == [
        ("duplicate-image", 301),
        ("not-json", 302),
        ("duplicate-record", 601),
    ]
    assert run.records == 700
    assert not multiprocessing.active_children()
    assert [line for _, line, _ in findings(path, limit=302)] == [301, 302]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"bbox_2d": [5, 5, 5, 9]}, ["zero-area"]),
        ({"bbox_2d": [30, 30, 10, 10]}, ["box-corners"]),
        ({"quad": [0, 0, 10, 10, 10, 0, 0, 10]}, ["self-crossing"]),
        ({"quad": [0, 0, 10, 10, 20, 20, 30, 30]}, ["zero-area"]),
        ({"quad": [0, 0, 10, 0, 10, 0, 0, 10]}, ["repeated-point"]),
        ({"poly": [0, 0, 20, 20, 20, 0, 0, 20, 0, 30]}, ["self-crossing"]),
        ({"poly": [0, 0, 20, 0, 20, 20, 0, 0]}, ["repeated-point"]),
        ({"line": [5, 5, 5, 5]}, ["zero-length"]),
        ({"line": [5, 5, 5, 5, 9, 9]}, ["repeated-point"]),
        ({"bbox_2d": [60, 40, 70, 48]}, ["out-of-picture"]),
        ({"bbox_2d": [-0.5, 4, 7, 8]}, ["out-of-picture"]),
        ({"line": [70, 50, 90, 90]}, ["outside"]),
        ({"bbox_2d": [1, 1, 9, 9], "score": 0.5}, ["unknown-key"]),
        ({"bbox_2d": [1, 1, 9, 9], "desc": "x<|image_pad|>"}, ["control-text"]),
        ({"bbox_2d": [1, 1, 9, 9], "desc": "an <image> here"}, ["control-text"]),
        ({"bbox_2d": [1, 1, 9, 9], "desc": "\x1b[31mred"}, ["control-character"]),
        ({"bbox_2d": [1, 1, 9, 9], "desc": "a<b　全角"}, []),
    ],
)
def test_findings_about_one_object(tmp_path, item, expected) -> None:
    assert codes(tmp_path, [{"desc": "x"} | item]) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sumary": "x"}, ["unknown-key"]),
        ({"summary": "a\nb"}, ["control-character"]),
        ({"objects": [BOX, BOX | {"desc": "other"}, BOX]}, ["duplicate-object"]),
        ({"objects": None, "summary": None}, ["no-target"]),
        ({"objects": None, "width": None, "height": None}, ["no-size"]),
        ({"objects": [BOX, {"desc": ""}, {"bbox_2d": [50, 40, 70, 48], "desc": "x"}]},
         ["empty-text", "geometry-count", "out-of-picture"]),
        ({"images": ["/etc/passwd"]}, ["image-refused"]),
        ({"images": ["../x.jpg"]}, ["image-refused"]),
        ({"images": ["x/../../y.jpg"]}, ["image-refused"]),
        ({"images": ["file:///etc/passwd"]}, ["image-refused"]),
        ({"images": ["https://host/x.jpg"]}, ["image-refused"]),
        ({"images": ["\\\\server\\x.jpg"]}, ["image-refused"]),
        ({"images": ["a/../b.jpg"]}, []),
        ({"images": ["a.jpg", "./a.jpg"], "objects": None}, ["duplicate-image"]),
    ],
)  # fmt: skip
def test_findings_about_one_record(tmp_path, change, expected) -> None:
    record = {key: value for key, value in (GOOD | change).items() if value is not None}
    assert [code for code, _, _ in findings(write(tmp_path, record))] == expected


def test_nothing_stops_at_the_first_bad_line(tmp_path) -> None:
    path = write(tmp_path, "{", GOOD, "[]", GOOD | {"images": [], "x": 1}, '{"images": ["z"], "wid')
    path.write_bytes(path.read_bytes().rstrip())
    assert [(code, line) for code, line, _ in findings(path)] == [
        ("not-json", 1),
        ("not-an-object", 3),
        ("no-images", 4),
        ("unknown-key", 4),
        ("torn-line", 5),
    ]


def test_duplicates_within_and_leaks_between_files(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    train = write(tmp_path, GOOD, GOOD | {"images": ["b.jpg"]}, GOOD, GOOD | {"images": ["x/../b.jpg"], "summary": "y"})
    val = write(tmp_path / "sub", GOOD | {"images": ["../a.jpg"]}, GOOD | {"images": ["a.jpg"]}, name="val.jsonl")
    policy = ImagePolicy(roots=(str(tmp_path),))
    assert findings(train, val, policy=policy) == [
        ("duplicate-record", 3, ""),
        ("duplicate-image", 4, "images[0]"),
        ("image-in-two-files", 1, "images[0]"),
    ]


def test_pictures_are_opened_only_when_asked(tmp_path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "ok.png")
    Image.new("RGB", (48, 64)).save(tmp_path / "turned.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:300])
    (tmp_path / "link.png").symlink_to("/etc/hosts")
    names = ["ok.png", "turned.jpg", "broken.jpg", "link.png", "gone.png"]
    path = write(tmp_path, *(GOOD | {"images": [name]} for name in names))
    assert findings(path) == []
    found = list(Check([path], CheckOptions(images=True)).findings())
    assert [(f.code, f.line) for f in found] == [
        ("size-mismatch", 2),
        ("image-unreadable", 3),
        ("image-refused", 4),
        ("image-missing", 5),
    ]
    assert "the record says 64 x 48, the picture has 48 x 64" in found[0].what
    assert "EXIF" in found[0].fix
    assert "custom.image_roots" in found[2].fix


def test_limit_and_empty_file(tmp_path) -> None:
    path = write(tmp_path, GOOD, "[]", "[]")
    assert findings(path, limit=2) == [("not-an-object", 2, "")]
    empty = write(tmp_path, name="empty.jsonl")
    assert findings(empty) == [("empty-file", 0, "")]


def test_a_missing_file_ends_the_check_before_it_starts(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Check([write(tmp_path, "["), tmp_path / "gone.jsonl"])


def run(*words: str) -> int:
    return app(["data", *words], result_action="return_value")


def test_command_line_json(tmp_path, capsys) -> None:
    path = write(tmp_path, GOOD, GOOD | {"images": ["b.jpg"], "sumary": "x"})
    assert run("check", str(path), "--json") == 3
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == 2
    assert report["findings"] == 1
    assert report["by_code"] == {"unknown-key": 1}
    assert report["items"] == [
        {"code": "unknown-key", "file": str(path), "line": 2, "where": "", "what": "unknown key 'sumary'",
         "fix": "did you mean summary?"}
    ]  # fmt: skip
    assert run("check", str(write(tmp_path, GOOD))) == 0


def test_command_line_text_is_counted_and_escaped(tmp_path, capsys) -> None:
    bad = GOOD | {"\x1b]0;owned\x07": 1, "objects": [BOX | {"desc": "[red]x[/red]\x1b[2J"}]}
    path = write(tmp_path, *(bad | {"images": [f"{i}.jpg"]} for i in range(5)))
    assert run("check", str(path), "--max-report", "3") == 3
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "... and 7 more" in out
    assert "5 records, 10 findings" in out
    assert f"{path}:1: unknown key '\\x1b]0;owned\\x07'" in out


def test_stats(tmp_path, capsys) -> None:
    objects = [BOX, {"line": [1, 2, 3, 4], "desc": "类别=光纤,颜色=黄色"}]
    path = write(tmp_path, GOOD, {k: v for k, v in (GOOD | {"objects": objects}).items() if k != "summary"})
    assert run("stats", str(path), "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["records"] == 2
    assert row["kinds"] == {"bbox_2d": 2, "line": 1}
    assert row["classes"] == {"BBU设备": 2, "光纤": 1}
    assert row["levels"] == {"2": 3}
    assert row["sizes"] == {"64x48": 2}
    assert row["summary_share"] == 0.5
    assert row["objects_per_record"]["1"] == 1
    assert row["objects_per_record"]["2-4"] == 1
    assert run("stats", str(path)) == 0
    assert "3 objects" in capsys.readouterr().out
