"""Faults of the machine and of people around a run: kills, torn and damaged files, two writers, a full disk."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import replaying

from plumbline.data import read
from plumbline.errors import OutputError, UserError
from plumbline.infer.runner import RunOptions, run_work
from plumbline.model import checkpoints
from plumbline.storage.rows import read_heads, read_rows

COUNT = 2000
KILLS = 50
PROGRAM = [sys.executable, str(Path(replaying.__file__))]


def rows_of(path):
    return sorted(path.read_bytes().splitlines())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of a run that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "rows.jsonl"
    assert replaying.main(path, COUNT) == 0
    return rows_of(path)


def test_kills_at_random_points_lose_nothing_and_write_nothing_twice(tmp_path, undisturbed):
    """Case 1. Every kill falls while rows are being written: the run is killed some rows after it has begun to."""
    output, dice = tmp_path / "rows.jsonl", random.Random(0)
    held = 0
    for _ in range(KILLS):
        before = output.stat().st_size if output.exists() else 0
        # A fork of this process: what is imported already need not be imported fifty times.
        process = get_context("fork").Process(target=replaying.main, args=(output, COUNT, 0.02))
        process.start()
        more = dice.randrange(1, 4000)
        while process.is_alive() and (output.stat().st_size if output.exists() else 0) < before + more:
            time.sleep(0.001)
        process.kill()
        process.join()
        held += process.exitcode == -signal.SIGKILL
    assert held >= KILLS // 2, "the kills came too late"
    assert replaying.main(output, COUNT) == 0
    assert rows_of(output) == undisturbed


def test_a_cut_at_every_byte_of_the_last_row_is_repaired(tmp_path, undisturbed):
    """Case 2."""
    output = tmp_path / "rows.jsonl"
    replaying.main(output, 3)
    whole = output.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(start + 1, len(whole)):
        output.write_bytes(whole[:length])
        report = run_work(
            [replaying.Photo(n) for n in range(3)],
            replaying.Work(),
            lambda: replaying.Recorded(0),
            RunOptions(output),
            {"model": "m"},
        )
        assert [warning.split(": ")[1] for warning in report.warnings] == [
            f"its last line was cut short; it is set aside in {output.name}.torn"
        ]
        assert output.read_bytes() == whole
        assert output.with_name(f"{output.name}.torn").read_bytes() == whole[start:length] + b"\n"
        output.with_name(f"{output.name}.torn").unlink()


def test_damage_in_the_middle_is_named_by_its_line(tmp_path):
    """Case 3: a byte of a row flipped so that the row is no longer a row; nothing is skipped, nothing is written."""
    output = tmp_path / "rows.jsonl"
    replaying.main(output, 40)
    whole = output.read_bytes()
    lines = whole.splitlines(keepends=True)
    dice, named = random.Random(1), 0
    for _ in range(200):
        number = dice.randrange(len(lines) - 1)
        offset = sum(map(len, lines[:number])) + dice.randrange(len(lines[number]) - 1)
        damaged = bytearray(whole)
        damaged[offset] ^= 0x80  # never valid: a byte of ASCII leaves it, one of a character breaks the character
        output.write_bytes(damaged)
        done = subprocess_like(output)
        assert done == f"{output}:{number + 1}", offset
        assert output.read_bytes() == damaged
        named += 1
    assert named == 200


def subprocess_like(output):
    """Where a run stops, and that its exit code is 1."""
    with pytest.raises(UserError) as caught:
        replaying.main(output, 40)
    assert caught.value.exit_code == 1
    return caught.value.problems[0].where


def test_the_second_writer_names_the_first_and_a_killed_ones_lock_is_free(tmp_path):
    """Case 4."""
    output = tmp_path / "rows.jsonl"
    first = subprocess.Popen([*PROGRAM, str(output), str(COUNT), "5"])
    while not output.exists() or output.stat().st_size == 0:
        time.sleep(0.01)
    second = subprocess.run([*PROGRAM, str(output), "5"], capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert f"is being written by process {first.pid}" in second.stderr
    first.kill()
    first.wait()
    third = subprocess.run([*PROGRAM, str(output), str(COUNT)], capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr
    assert len(list(read_rows(output))) == COUNT


@pytest.mark.parametrize(
    ("write", "step"),
    [*(("lines", step) for step in ("open", "write", "fsync", "replace")), ("text", "fsync"), ("text", "replace")],
)
def test_a_crash_between_writing_and_renaming_leaves_the_old_or_the_new(tmp_path, monkeypatch, write, step):
    """Case 5: the process ends at a step; what is there afterwards is whole."""
    target = tmp_path / "state.jsonl"
    target.write_text("old\n" * 100)

    class CrashError(BaseException):
        """Not to be caught by anything."""

    def crash(*args, **kwargs):
        raise CrashError

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", crash)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", crash)
        monkeypatch.setattr(os, "replace", crash)
    elif step == "open":
        monkeypatch.setattr(Path, "open", crash)

    def lines():
        yield "new"
        if step == "write":
            raise CrashError
        yield "new"

    with pytest.raises(CrashError):
        if write == "lines":
            read.write_lines(target, lines())
        else:
            checkpoints.write_atomically(target, "new\nnew\n")
    monkeypatch.undo()
    assert target.read_text() in ("old\n" * 100, "new\nnew\n")


def test_a_full_disk_is_said_and_what_was_written_is_good(tmp_path, undisturbed):
    """Case 10: files of the process may grow to 60 kB and no further."""
    output = tmp_path / "rows.jsonl"
    done = subprocess.run(
        [*PROGRAM, str(output), str(COUNT)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )
    assert done.returncode == 1, done.stderr
    assert f"{output}: cannot be written" in done.stderr and "make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(read_heads(output))) > 100
    assert replaying.main(output, COUNT) == 0
    assert rows_of(output) == undisturbed


def test_a_full_disk_while_a_small_file_is_replaced_keeps_the_old_one(tmp_path):
    """Case 10, for files that are written whole."""
    target = tmp_path / "state.jsonl"
    target.write_text("old\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            read.write_lines(target, (json.dumps(number) for number in range(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.read_text() == "old\n" and [path.name for path in tmp_path.iterdir()] == ["state.jsonl"]
