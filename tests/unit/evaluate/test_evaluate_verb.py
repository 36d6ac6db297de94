"""`plumbline evaluate` on the command line, and its page in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reviewing import needs_browser, open_browser

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Three pictures: one right, one with a hostile label that is missed, one whose file is not there."""
    noise = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(noise).save(tmp_path / name)
    box = {"bbox_2d": [10, 10, 60, 60], "desc": "箱子/颜色:红"}
    size = {"width": 120, "height": 80}
    truth = [
        {"images": ["a.png"], **size, "objects": [box]},
        {"images": ["b.png"], **size, "objects": [box, {"line": [5, 5, 100, 70], "desc": HOSTILE}]},
        {"images": ["gone.png"], "width": 60_000, "height": 50_000, "objects": [box]},
    ]
    found = [{"key": f"{name}.png", "image": f"{name}.png", **size, "objects": [box]} for name in ("a", "b")]
    found.append({"key": "gone.png", "objects": [{**box, "desc": "杯子"}]})
    for path, rows in ((tmp_path / "truth.jsonl", truth), (tmp_path / "found.jsonl", found)):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "truth.jsonl", tmp_path / "found.jsonl"


def test_the_json_holds_what_the_file_holds(files, plumbline, tmp_path):
    output = tmp_path / "out" / "evaluation.json"
    code, out, _ = plumbline("evaluate", *map(str, files), "--json", "--output", str(output), "--bootstraps", "50")
    result = json.loads(out)
    assert code == 0 and result == json.loads(output.read_text(encoding="utf-8"))
    assert result["figures"]["f1_50"]["value"] == pytest.approx(2 * 2 / (4 + 3))
    assert result["confusion"][0] == ["箱子", "箱子", 2]


def test_the_tables_name_the_errors(files, plumbline):
    code, out, _ = plumbline("evaluate", *map(str, files), "--against", str(files[1]))
    assert code == 0 and "missed" in out and "箱子" in out and "captions carry no confidence" in out
    assert "+0.0000" in out, "nothing differs from itself"


def test_the_page_beside_another_model_begins_with_what_became_worse(files, plumbline, tmp_path):
    """The earlier replies of the first picture were perfect: it comes first, with both answers drawn."""
    truth, captions = files
    rows = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
    records = [json.loads(line) for line in truth.read_text(encoding="utf-8").splitlines()]
    worse = [number for number, row in enumerate(rows) if row["objects"] != records[number]["objects"]][-1]
    rows[worse]["objects"] = records[worse]["objects"]
    earlier = tmp_path / "earlier.jsonl"
    earlier.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    page = tmp_path / "beside.html"
    words = ["evaluate", str(truth), str(captions), "--against", str(earlier), "--html", str(page)]
    assert plumbline(*words)[0] == 0
    html = page.read_text(encoding="utf-8")
    assert "those that became worst first" in html and html.count("predicted by the other") >= len(rows)
    assert html.index(f'id="p-{worse + 1}"') == html.index('id="p-')


def test_a_low_score_is_an_exit_code(files, plumbline):
    assert plumbline("evaluate", *map(str, files), "--min-f1", "0.5")[0] == 0
    code, _, err = plumbline("evaluate", *map(str, files), "--min-f1", "0.9")
    assert code == 3 and "0.5714 is below --min-f1 0.9" in err


def test_a_missing_file_is_said(files, plumbline):
    code, _, err = plumbline("evaluate", str(files[0]), "nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl: no such file" in err


@pytest.mark.slow
@needs_browser
def test_the_page_filters_steps_and_runs_nobody_elses_script(files, plumbline, tmp_path):
    page = tmp_path / "evaluation.html"
    assert plumbline("evaluate", *map(str, files), "--html", str(page))[0] == 0
    with open_browser() as browser:
        browser.get(page.as_uri())
        cards = "return [...document.querySelectorAll('figure.picture')].filter(c => !c.hidden).map(c => c.id)"
        assert browser.execute_script(cards) == ["p-2", "p-3", "p-1"], "the worst first"
        choose = "const s = document.querySelector('select[data-filter=error]');"
        choose += "s.value = 'class'; s.dispatchEvent(new Event('change'))"
        browser.execute_script(choose)
        assert browser.execute_script(cards) == ["p-3"]
        assert browser.execute_script("return document.getElementById('count').textContent") == "1 of 3 pictures"
        press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}))"
        browser.execute_script(press)
        assert browser.execute_script("return location.hash") == "#p-3"
        text = browser.execute_script("return document.querySelector('main').textContent")
        assert "the picture is not shown: no such file" in text
        assert HOSTILE[:40] in text and browser.title == f"Evaluation of {files[1]}"
        sizes = "return [...document.images].map(i => Math.max(i.naturalWidth, i.naturalHeight))"
        assert max(browser.execute_script(sizes)) <= 520, "what a record calls its size is never allocated"
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
