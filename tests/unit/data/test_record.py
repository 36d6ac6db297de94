"""Records: what the documents show is what the code takes, and data code needs no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.data.content import check_content
from plumbline.data.contract import build_record, find_breaches
from plumbline.data.findings import Findings
from plumbline.data.images import load_image
from plumbline.data.messages import build_messages
from plumbline.data.prompts import default_prompts
from plumbline.data.record import Record, record_to_mapping

PAGE = (Path(__file__).parents[3] / "docs" / "DATA_FORMATS.md").read_text(encoding="utf-8")


def breaches(raw: dict) -> list:
    found = Findings("page", 1)
    find_breaches(raw, found)
    return list(found)


def test_the_page_s_record_gives_the_page_s_answer() -> None:
    first = json.loads(re.findall(r"```json\n(\{\"images\".*)\n", PAGE)[0])
    assert breaches(first) == []
    built = build_messages(build_record(first, "page", 1), "dense", default_prompts())
    answer = json.loads(re.findall(r"```json\n(\{\"object_1\".*)\n", PAGE)[0])
    told = json.loads(built["messages"][-1]["content"])["object_1"]
    assert told["bbox_2d"] == answer["object_1"]["bbox_2d"]


def test_every_geometry_example_of_the_page_is_accepted() -> None:
    examples = [json.loads(text) for text in re.findall(r"`(\{\"(?:bbox_2d|quad|poly|line_points)[^`]*\})`", PAGE)]
    assert len(examples) == 4
    assert breaches({"images": ["a.jpg"], "width": 640, "height": 480, "objects": examples}) == []


def test_every_chat_image_form_of_the_page_is_accepted() -> None:
    forms = [json.loads(text) for text in re.findall(r"^\| `(\{\"type\": \"image[^`]*\})`", PAGE, re.MULTILINE)]
    assert len(forms) == 3
    answer = {"role": "assistant", "content": "x"}
    for form in forms:
        assert breaches({"messages": [{"role": "user", "content": [form]}, answer]}) == []
    refused = {"type": "image", "url": "a.jpg"}
    assert breaches({"messages": [{"role": "user", "content": [refused]}, answer]}) != []


def test_every_finding_code_is_documented() -> None:
    folder = Path(sys.modules["plumbline.data.contract"].__file__ or "").parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    codes = set(re.findall(r'found\.add\(\s*"([a-z0-9-]+)"', source)) | {"image-missing", "image-unreadable"}
    assert len(codes) > 30
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_bytes_become_a_data_url() -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    raw = {"images": [{"bytes": pixel}], "summary": "x"}
    assert breaches(raw) == []
    (image,) = build_record(raw, "page", 1).images
    assert image == f"data:image/png;base64,{pixel}"
    assert load_image(image).size == (1, 1)


def test_an_empty_record_is_written_as_little() -> None:
    assert record_to_mapping(Record(images=("a.jpg",))) == {"schema": 1, "images": ["a.jpg"]}


def test_checking_data_imports_no_torch(tmp_path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"images": ["a.jpg"], "width": 9, "height": 9, "summary": "x"}\n')
    code = (
        "import sys; from plumbline.cli import app\n"
        f"assert app(['data', 'check', {str(path)!r}], result_action='return_value') == 0\n"
        f"assert app(['data', 'stats', {str(path)!r}], result_action='return_value') == 0\n"
        "import plumbline.batch.measure\n"
        "sys.exit(bool({'torch', 'transformers', 'swift'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    ("item", "codes"),
    [
        ({"poly": [0, 0, 9, 0, 9, 9], "poly_points": 3, "desc": "x"}, []),
        ({"poly": [0, 0, 9, 0, 9, 9], "poly_points": 4, "desc": "x"}, ["poly-points"]),
        ({"poly": [0, 0, 9, 0, 9, 9], "poly_points": True, "desc": "x"}, ["poly-points"]),
        ({"line": [0, 0, 9, 9], "poly_points": 2, "desc": "x"}, ["poly-points"]),
    ],
)
def test_a_stated_count_of_corners_must_agree(item, codes):
    found = Findings("a.jsonl", 1)
    raw = {"images": ["a.png"], "width": 10, "height": 10, "objects": [item]}
    find_breaches(raw, found)
    check_content(raw, found)
    assert [finding.code for finding in found] == codes
