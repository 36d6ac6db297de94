"""`anchors build` with a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_answers_of_a_model_that_never_ends_are_left_out_and_said(
    tiny_model, records, plumbline, tmp_path: Path
) -> None:
    output, val = tmp_path / "anchors.jsonl", tmp_path / "anchors_val.jsonl"
    words = ["anchors", "build", "--model", tiny_model, "--training", records[0], "--output", output, "--val", val]
    code, out, err = plumbline(*words, "--max-new-tokens", "6", "--limit", "24")
    rows = [json.loads(line) for line in Path(f"{output}.rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 24 and {row["status"] for row in rows} == {"invalid"}
    assert code == 3 and "left out: 24 the reply was stopped after 6 tokens" in out and "no anchor is left" in err
    assert plumbline(*words, "--dry-run")[0] == 0
