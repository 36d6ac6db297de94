"""`plumbline runs`: every run below a folder, whole or not, and nothing that is none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def write_run_folder(folder: Path, steps: int, planned: int, **logged: float) -> Path:
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = [
        {"global_step/max_steps": f"{step}/{planned}", "train/loss": 2.0 / step, **logged}
        for step in range(1, steps + 1)
    ]
    (folder / "logging.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "resolved.yaml").write_text("{}\n", encoding="utf-8")
    return folder


def test_runs_are_listed_newest_first_with_their_state(tmp_path: Path, plumbline) -> None:
    old = write_run_folder(tmp_path / "a" / "old", 4, 4, **{"eval/drift": 0.03})
    new = write_run_folder(tmp_path / "b" / "deep" / "new", 2, 10)
    os.utime(old / "logging.jsonl", (1, 1))
    (tmp_path / "no_run").mkdir()
    whole = {"kind": "probe", "step": 4, "text": "", "expected": "", "images": [], "emit_norm": "norm1000"}
    rows = [{**whole, "key": leak, "leak": leak} for leak in ("", "BBU设备")]
    (old / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, out, err = plumbline("runs", tmp_path, "--json")
    assert code == 0, err
    first, second = json.loads(out)["runs"]
    assert (first["folder"], first["is_finished"], first["steps"], first["planned"]) == (str(new), False, 2, 10)
    assert (second["folder"], second["is_finished"], second["loss"]) == (str(old), True, 0.5)
    assert (second["drift"], second["leaks"], first["drift"]) == (0.03, 0.5, None)
    code, out, _ = plumbline("runs", tmp_path)
    assert code == 0 and "2 of 10 steps" in out and "finished" in out


def test_a_damaged_log_is_named_and_the_others_are_listed(tmp_path: Path, plumbline) -> None:
    write_run_folder(tmp_path / "good", 1, 1)
    bad = write_run_folder(tmp_path / "bad", 1, 1)
    (bad / "answers.jsonl").mkdir()
    code, out, err = plumbline("runs", tmp_path, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert len(found["runs"]) + len(found["notes"]) == 2 and any("good" in run["folder"] for run in found["runs"])


@pytest.mark.parametrize("make", [True, False], ids=["empty", "missing"])
def test_a_folder_without_a_run(tmp_path: Path, plumbline, make: bool) -> None:
    folder = tmp_path / "runs"
    if make:
        folder.mkdir()
    code, out, err = plumbline("runs", folder)
    assert code == (0 if make else 2)
    assert ("no run lies below" in out) if make else ("no such folder" in err)
