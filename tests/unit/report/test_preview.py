"""The preview shows what training would see, and its number is the geometry's error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import Augmentation
from plumbline.data.keyed import keyed_generator
from plumbline.data.record import Record
from plumbline.errors import ConfigError
from plumbline.report.preview import dot_error, preview

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        objects = [{"desc": f"{HOSTILE}{k}", "bbox_2d": [20 + 40 * k, 20, 50 + 40 * k, 90]} for k in range(3)]
        rows.append({"images": [f"{number}.png"], "width": 160, "height": 120, "objects": objects})
    rows.append({"images": ["missing.png"], "width": 160, "height": 120, "objects": rows[0]["objects"]})
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = tmp_path / "run.yaml"
    path.write_text(
        f"""
model: {{model: nowhere}}
global_max_length: 512
custom:
  train_jsonl: {tmp_path / "d.jsonl"}
  augmentation:
    enabled: true
    ops:
      - {{name: rotate, params: {{max_deg: 20.0}}}}
      - {{name: random_crop, params: {{area: [0.4, 0.6], min_objects: 0}}}}
      - {{name: gamma}}
""",
        encoding="utf-8",
    )
    return path


def test_a_page_a_picture_and_a_number(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = preview(config, None, tmp_path / "out", 8, 0, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert code == 3 and facts["samples"] == 4 and facts["failed"] == 1
    assert 0 < facts["max_point_error_px"] <= 0.5
    assert facts["objects_kept"] <= facts["objects_told"] == 12
    page = (tmp_path / "out" / "preview.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 8
    assert "missing.png" in page and "random_crop" in page
    assert "<script" not in page and "onerror=" not in page.replace("onerror=alert(2)&gt;", "")
    with Image.open(tmp_path / "out" / "preview.png") as sheet:
        assert sheet.height > sheet.width


def test_the_command_and_a_run_without_augmentation(config: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "plumbline",
        "data",
        "preview",
        config,
        "--output",
        tmp_path / "out",
        "--limit",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert "max_point_error_px" in done.stdout
    config.write_text(config.read_text(encoding="utf-8").replace("enabled: true", "enabled: false"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"custom\.augmentation"):
        preview(config, None, tmp_path / "other", 2, 0, as_json=False)
    assert not (tmp_path / "other").exists()


def test_a_wrong_map_would_be_seen() -> None:
    from dataclasses import replace

    record = Record(images=("a",), width=320, height=240)
    chain = Augmentation((OPERATIONS["rotate"](max_deg=20.0),))
    plan = chain.plan(record, (320, 240), keyed_generator(0, 0, 0, "test"))
    right = dot_error(plan)
    assert right is not None and right < 0.5
    from plumbline.augment import render as rendering

    moved = replace(plan, matrix=plan.matrix.copy())
    original = rendering._warped
    rendering._warped = lambda image, matrix, width, height: original(image, matrix, width, height)[:, ::-1]
    try:
        wrong = dot_error(moved)
    finally:
        rendering._warped = original
    assert wrong is None or wrong > 0.5
