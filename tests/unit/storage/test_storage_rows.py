"""The append-only row file: killed writers lose nothing that was whole, damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.errors import DamagedFileError
from plumbline.storage.rows import RowFile, drop_rows, last_line_start, read_heads, read_rows, set_torn_line_aside

ROWS = [{"key": f"图{i}.png", "status": "error:x" if i == 1 else "ok", "text": "x" * i} for i in range(4)]


def write(path: Path) -> bytes:
    with RowFile(path) as rows:
        for row in ROWS:
            rows.append(row)
    return path.read_bytes()


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    write(path)
    with RowFile(path) as rows:
        rows.append({"key": "later", "status": "ok"})
    assert [row["key"] for row in read_rows(path)] == [*(row["key"] for row in ROWS), "later"]


def test_a_cut_at_every_byte_of_the_last_row_costs_that_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = write(path)
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(start + 1, len(whole)):
        path.write_bytes(whole[:length])
        torn = tmp_path / "rows.jsonl.torn"
        torn.unlink(missing_ok=True)
        assert [row["key"] for row in read_rows(path)] == [row["key"] for row in ROWS[:-1]]
        assert set_torn_line_aside(path) == torn
        assert torn.read_bytes() == whole[start:length] + b"\n"
        assert path.read_bytes() == whole[:start]


@pytest.mark.parametrize("content", [b"", b'{"key": "a", "status": "ok"}\n'])
def test_a_whole_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert set_torn_line_aside(path) is None
    assert path.read_bytes() == content


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_the_last_line_is_found_whatever_the_block(tmp_path: Path, block: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"one\ntwo\nthree")
    with path.open("rb") as stream:
        assert last_line_start(stream, 13, block) == 8
    path.write_bytes(b"only")
    with path.open("rb") as stream:
        assert last_line_start(stream, 4, block) == 0


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"status": "ok"}', b'{"key": 1, "status": "ok"}', b"\xff", b"[" * 100_000]
)
def test_damage_in_the_middle_is_named_by_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps(ROWS[0]).encode()
    path.write_bytes(b"\n".join([good, line, good, b""]))
    for read in (read_rows, read_heads):
        with pytest.raises(DamagedFileError, match=r"rows.jsonl:2: is not a row"):
            list(read(path))


def test_unwanted_rows_leave_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path)
    assert drop_rows(path, lambda status: status == "error:x") == 1
    assert list(read_rows(path)) == [ROWS[0], ROWS[2], ROWS[3]]
    before = path.stat().st_mtime_ns
    assert drop_rows(path, lambda status: False) == 0
    assert path.stat().st_mtime_ns == before
