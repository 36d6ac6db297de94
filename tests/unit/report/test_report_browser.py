"""Pages in a real browser: a phone's width, and the dark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.report.run import write_run_report
from plumbline.report.stage_b import write_stage_b_report
from reviewing import made_run, needs_browser, open_browser

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    rows = [
        {"train/loss": 0.00972 / step, "train/token_count": 9.0, "global_step/max_steps": f"{step}/9"}
        for step in range(1, 10)
    ]
    (folder / "logging.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [write_run_report(folder), write_stage_b_report(made_run(folder / "stage_b"), folder / "stage_b.html")]


def test_no_page_is_wider_than_a_phone_and_each_is_dark_in_the_dark(pages: list[Path]) -> None:
    with open_browser() as browser:
        for page in pages:
            for scheme, is_dark in (("light", False), ("dark", True)):
                feature = {"name": "prefers-color-scheme", "value": scheme}
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
                size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                browser.get(page.as_uri())
                assert browser.execute_script("return document.documentElement.scrollWidth") == 390, page
                colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
                levels = [int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
                assert (max(levels) < 60) is is_dark, (page, scheme, colour)
