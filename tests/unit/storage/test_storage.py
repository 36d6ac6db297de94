"""Files, locks and text of `storage`: whole or not at all, one writer, nothing that a terminal obeys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.errors import DamagedFileError, OutputError, UserError
from plumbline.storage.files import replacing, write_atomically, write_lines
from plumbline.storage.locks import locked, waiting_for
from plumbline.storage.objects import read_json_object
from plumbline.storage.text import duration, printable, shown


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "first\n")
    with pytest.raises(RuntimeError), replacing(path) as stream:
        stream.write("half")
        assert path.read_text() == "first\n"
        raise RuntimeError
    assert path.read_text() == "first\n"
    assert write_lines(path, ["a", "b"]) == 2
    assert path.read_bytes() == b"a\nb\n"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


def test_a_file_that_cannot_be_made_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no/a\.txt: cannot be written"):
        write_atomically(tmp_path / "no" / "a.txt", "x")


HOLD = """
import sys, pathlib
from plumbline.storage.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    output = tmp_path / "new" / "rows.jsonl"
    command = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for _ in range(2):  # who tries in vain leaves the holder's name as it is
            with pytest.raises(UserError, match=f"is being written by process {holder.pid} on"), locked(output):
                pass
        holder.kill()
    with locked(output):
        assert str(os.getpid()) in output.with_name("rows.jsonl.lock").read_text()


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\nfrom plumbline.storage.locks import waiting_for\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "for _ in range(20):\n    with waiting_for(path):\n        n = int(path.read_text()); time.sleep(0.001)\n"
        "        path.write_text(str(n + 1))\n"
    )
    counter = tmp_path / "counter"
    counter.write_text("0")
    with waiting_for(counter):
        writers = [subprocess.Popen([sys.executable, "-c", code, str(counter)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert counter.read_text() == "60"


@pytest.mark.parametrize("text", ["[]", '{"a"', '{"a": 1, "a": 2}', "[" * 10_000])
def test_what_is_no_json_object_is_damaged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DamagedFileError, match="cannot be read"):
        read_json_object(path)
    with pytest.raises(DamagedFileError, match="longer than 1 bytes"):
        read_json_object(path, limit=1)


def test_text_for_a_terminal() -> None:
    assert printable("a\x1b[31m\n漆") == "a\\x1b[31m\\n漆"
    assert printable("a\nb", keep="\n") == "a\nb"
    assert printable("\x1babc", limit=3) == "\\x1bab..."
    assert printable("abc", limit=3) == "abc"
    assert shown("x" * 70) == "'" + "x" * 59 + "..."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (48, "48 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (86_399, "23 h 59 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
