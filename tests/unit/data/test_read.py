"""Reading and writing JSONL: file:line for every problem, bounded, atomic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.data import read
from plumbline.data.read import read_lines, read_records, write_records
from plumbline.data.record import DataObject, Record, record_to_mapping
from plumbline.errors import DataError, OutputError
from plumbline.geometry import Box, Polyline

BOX = {"bbox_2d": [1, 2, 3, 4], "desc": "BBU设备/品牌:华为"}
GOOD = {"images": ["a.jpg"], "width": 64, "height": 48, "objects": [BOX]}
CHAT = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]}


def write(tmp_path: Path, *lines: bytes | str | dict, end: bytes = b"\n") -> Path:
    rows = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path = tmp_path / "data.jsonl"
    path.write_bytes(end.join(row.encode() if isinstance(row, str) else row for row in rows) + end)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    return [str(problem) for problem in caught.value.problems]


def test_a_record_keeps_what_the_line_says(tmp_path) -> None:
    line = {**GOOD, "schema": 1, "summary": "BBU设备×1", "metadata": {"site": [1, {"a": 2}]}}
    (record,) = read_records(write(tmp_path, line))
    assert record.images == ("a.jpg",)
    assert (record.width, record.height, record.summary, record.line) == (64, 48, "BBU设备×1", 1)
    assert record.objects == (DataObject(BOX["desc"], Box([[1, 2], [3, 4]])),)
    assert record.metadata == {"site": [1, {"a": 2}]}
    assert record.place == f"{tmp_path}/data.jsonl:1"


def test_bom_windows_ends_blank_lines_and_a_last_line_without_end(tmp_path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "", "  \t", CHAT, end=b"\r\n")
    path.write_bytes(path.read_bytes().rstrip())
    assert [record.line for record in read_records(path)] == [1, 4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "must be a JSON object, not list"),
        ("null", "must be a JSON object, not NoneType"),
        ("{'a': 1}", "Expecting property name"),
        ('{"a": 1} {}', "Extra data"),
        ('{"images": ["a"], "width": NaN}', "NaN is not a JSON number"),
        ('{"images": ["a"], "width": -Infinity}', "-Infinity is not a JSON number"),
        ('{"images": ["a"], "images": ["b"]}', "the key 'images' occurs 2 times"),
        ('{"images": ["a"], "metadata": {"k": {"x": 1, "x" : 2}}}', "the key 'x' occurs 2 times"),
        ('{"images": ["a"], "metadata": ' + '{"a":' * 40 + "1" + "}" * 40 + "}", "nested deeper than 32"),
        ('{"images": ' + "[" * 100_000, "nested too deeply"),
        ('{"images": ["a"], "width": ' + "9" * 5000 + "}", "digits"),
        (b'{"images": ["a\x00b"]}', "NUL byte in column"),
        (b'{"images": ["\xff\xfe"]}', "not UTF-8"),
        ('{"images": ["a\\u0000b"]}', "images[0]: holds a NUL byte"),
        ('{"images": ["a"], "summary": "\\ud83d"}', "half a surrogate pair"),
    ],
)
def test_bad_lines_are_named_with_their_number(tmp_path, line, message) -> None:
    found = problems(write(tmp_path, GOOD, line, GOOD))
    assert all(problem.startswith(f"{tmp_path}/data.jsonl:2: ") for problem in found)
    assert any(message in problem for problem in found)


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"schema": 2}, "schema", "unknown schema 2"),
        ({"images": "a.jpg"}, "images", "must be a list"),
        ({"images": []}, "images", "is empty"),
        ({"images": [" "]}, "images[0]", "is empty"),
        ({"images": [{"path": "a"}]}, "images[0]", "must be a path"),
        ({"images": ["a", "b"]}, "objects", "exactly one image"),
        ({"width": None}, "width", "is missing"),
        ({"width": 64.0}, "width", "positive whole number"),
        ({"width": True}, "width", "positive whole number"),
        ({"height": 0}, "height", "positive whole number"),
        ({"height": "48"}, "height", "positive whole number"),
        ({"objects": {}}, "objects", "must be a list"),
        ({"objects": [7]}, "objects[0]", "must be a JSON object"),
        ({"objects": [{"bbox_2d": [1, 2, 3, 4]}]}, "objects[0]", "has no `desc`"),
        ({"objects": [BOX | {"desc": "　 "}]}, "objects[0].desc", "is empty"),
        ({"objects": [BOX | {"desc": 5}]}, "objects[0].desc", "must be text"),
        ({"objects": [{"desc": "x", "box": [1, 2]}]}, "objects[0]", "has no geometry"),
        ({"objects": [BOX | {"line": [1, 2, 3, 4]}]}, "objects[0]", "has 2 geometries"),
        ({"objects": [{"bbox_2d": [1, 2, 3], "desc": "x"}]}, "objects[0].bbox_2d", "3 numbers"),
        ({"objects": [{"bbox_2d": [[1, 2], [3, 4]], "desc": "x"}]}, "objects[0].bbox_2d", "one flat list"),
        ({"objects": [{"quad": [1] * 6, "desc": "x"}]}, "objects[0].quad", "needs 8 numbers"),
        ({"objects": [{"poly": [1] * 4, "desc": "x"}]}, "objects[0].poly", "at least 6"),
        ({"objects": [{"poly": [1] * 7, "desc": "x"}]}, "objects[0].poly", "even count"),
        ({"objects": [{"line": [1, 2], "desc": "x"}]}, "objects[0].line", "at least 4"),
        ({"objects": [{"line": [1, 2, "3", 4], "desc": "x"}]}, "objects[0].line", "'3' is not a pixel coordinate"),
        ({"objects": [{"line": [1, 2, True, 4], "desc": "x"}]}, "objects[0].line", "True is not"),
        ({"objects": [{"line": [1, 2, 3, 10**400], "desc": "x"}]}, "objects[0].line", "is not a pixel coordinate"),
        ({"objects": [{"line": [1, 2, 3, 4], "line_points": 3, "desc": "x"}]}, "objects[0].line_points", "2 points"),
        ({"objects": [BOX | {"line_points": 2}]}, "objects[0].line_points", "without a `line`"),
        ({"summary": ""}, "summary", "is empty"),
        ({"summary": 3}, "summary", "must be text"),
        ({"metadata": []}, "metadata", "must be a JSON object"),
    ],
)
def test_every_rule_of_a_described_picture(tmp_path, change, where, message) -> None:
    (found,) = problems(write(tmp_path, GOOD | change))
    assert f"data.jsonl:1: {where}: " in found
    assert message in found


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "neither `images` nor `messages`"),
        (CHAT | {"images": ["a.jpg"]}, "besides images"),
        ({"messages": []}, "not empty"),
        ({"messages": [{"role": "user", "content": "a"}]}, "the assistant last"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "unknown role 'bot'"),
        ({"messages": [{"role": "user", "content": ""}, CHAT["messages"][1]]}, "is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "a"}]}, CHAT["messages"][1]]}, "path"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}, CHAT["messages"][1]]}, "unknown content"),
    ],
)
def test_every_rule_of_a_chat(tmp_path, record, message) -> None:
    assert any(message in problem for problem in problems(write(tmp_path, record)))


def test_all_problems_of_a_line_come_at_once(tmp_path) -> None:
    bad = {"images": "x", "width": -1, "height": 2, "objects": [{"quad": [1]}, {"desc": ""}], "summary": 1}
    assert len(problems(write(tmp_path, bad))) == 7


@pytest.mark.parametrize("keep", range(1, 40, 3))
def test_a_torn_last_line_is_called_that(tmp_path, keep) -> None:
    path = write(tmp_path, GOOD)
    path.write_bytes(path.read_bytes() + json.dumps(GOOD).encode()[:keep])
    (found,) = problems(path)
    assert "data.jsonl:2: the last line is incomplete" in found


def test_a_line_beyond_the_limit_is_refused_without_being_held(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(read, "MAX_LINE_BYTES", 1000)
    path = write(tmp_path, GOOD, "x" * 3_000_000, GOOD)
    assert [(line.number, line.data is None) for line in read_lines(path)] == [(1, False), (2, True), (3, False)]
    assert "longer than 1000 bytes" in problems(path)[0]


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "nul\0.jsonl"])
def test_what_cannot_be_opened_is_one_error(tmp_path, name) -> None:
    with pytest.raises(DataError, match=r"no such file|is not a file|cannot be opened"):
        list(read_records(f"{tmp_path}/{name}"))


def test_writing_is_all_or_nothing(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    record = Record(images=("a.jpg",), width=9, height=9, objects=(DataObject("x", Polyline([[1, 2], [3.5, 4]])),))
    assert write_records(path, [record]) == 1
    before = path.read_bytes()
    assert json.loads(before)["objects"] == [{"line": [1, 2, 3.5, 4], "line_points": 2, "desc": "x"}]

    def breaks():
        yield record
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_records(path, breaks())
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["out.jsonl"]
    with pytest.raises(OutputError, match="cannot be written"):
        write_records(tmp_path / "no" / "out.jsonl", [record])


def test_a_chat_is_written_as_it_was(tmp_path) -> None:
    (record,) = read_records(write(tmp_path, CHAT))
    assert record_to_mapping(record) == {"schema": 1, **CHAT}
