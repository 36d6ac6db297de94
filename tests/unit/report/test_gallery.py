"""The gallery of `data check --html`: rules by frequency, examples drawn, nothing a label says is obeyed."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.cli import app
from plumbline.errors import EXIT_FINDINGS, EXIT_OK

HOSTILE = "<script>alert(1)</script>"
SIZE = {"width": 160, "height": 120}


def gallery(tmp_path: Path, *records: object, images: bool = True) -> tuple[int, str]:
    """(exit code, page) of a check."""
    file = tmp_path / "d.jsonl"
    file.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records), encoding="utf-8")
    page = tmp_path / "out" / "findings.html"
    with pytest.raises(SystemExit) as stop:
        app(["data", "check", str(file), *(["--images"] if images else []), "--html", str(page)])
    return int(stop.value.code or 0), page.read_text(encoding="utf-8")


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def record(*shapes: dict, image: str = "a.png", **change: object) -> dict:
    return {"images": [image], **SIZE, "objects": [{"desc": HOSTILE} | shape for shape in shapes]} | change


@pytest.fixture(autouse=True)
def picture(tmp_path: Path) -> None:
    Image.new("RGB", (160, 120), (0, 0, 90)).save(tmp_path / "a.png")


def test_rules_stand_by_frequency_and_show_their_first_examples(tmp_path) -> None:
    bow = {"quad": [20, 20, 90, 90, 90, 20, 20, 90]}
    many = [record(bow, image=f"{n}.png") for n in range(14)]
    code, page = gallery(tmp_path, record({"bbox_2d": [5, 5, 5, 9]}, {"bbox_2d": [9, 9, 60, 60]}), *many)
    assert code == EXIT_FINDINGS
    assert re.findall(r'<h2 id="([^"]+)">', page) == ["image-missing", "self-crossing", "zero-area"]
    assert "14 found, the first 12 shown" in page
    assert page.count("<figure>") == 12 + 12 + 1
    assert "d.jsonl:15: objects[0].quad" not in page
    assert "<script" not in page
    assert "the picture is not shown: no such file" in page
    assert pictures(page)[-1][60, 140].tolist() == pytest.approx([0, 0, 90], abs=12)  # the picture itself


def test_what_lies_outside_is_shown_beside_the_picture(tmp_path) -> None:
    _, page = gallery(tmp_path, record({"bbox_2d": [100, 20, 240, 100]}))
    (shown,) = pictures(page)
    assert shown.shape[:2] == (120, 240)
    assert shown[110, 20].tolist() == pytest.approx([0, 0, 90], abs=12)
    assert shown[110, 230].tolist() == pytest.approx([233, 233, 228], abs=12)


def test_lines_without_a_picture_show_their_text(tmp_path) -> None:
    far = record({"bbox_2d": [1, 1, 1e12, 50]})
    unnamed = record({"bbox_2d": [1, 1, 9, 9]}) | {"images": 5}
    code, page = gallery(tmp_path, f'{{"broken {HOSTILE}', far, unnamed, record({"line": [5, 5]}, image="\x1b[0m"))
    assert code == EXIT_FINDINGS
    assert "broken &lt;script&gt;" in page
    assert "<script" not in page and "\x1b" not in page
    assert "the picture is not shown: none is named" in page


def test_a_wrong_size_is_said(tmp_path) -> None:
    _, page = gallery(tmp_path, record({"bbox_2d": [1, 1, 50, 50]}, width=300))
    assert "drawn over 160 x 120, the record says 300 x 120" in page


def test_a_clean_file_says_so(tmp_path) -> None:
    code, page = gallery(tmp_path, record({"bbox_2d": [1, 1, 50, 50], "desc": "x"}))
    assert code == EXIT_OK
    assert "Nothing was found." in page
