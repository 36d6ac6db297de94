"""A small Stage-B run with photos, for the tests of the review page and its report: simulated, not a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from plumbline.stage_b.config import DecodeConfig, EngineConfig, OutputConfig, SamplerConfig, StageBConfig
from plumbline.stage_b.edit_trial import Budget
from plumbline.stage_b.guidance import Edit, apply_edit
from plumbline.stage_b.loop import run_mission
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.mission_data import MissionData
from plumbline.stage_b.simulation import FOCUS, RULE, SimulatedModel, simulate_tickets
from plumbline.stage_b.tickets import Ticket, Tickets

SIZE = (640, 420)
BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium with chromedriver here (apt-get install chromium chromium-driver)"
)


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless chromium whose page is 1280 x 800."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        driver.set_window_size(1280, 800 + FRAME)
        yield driver
    finally:
        driver.quit()


FRAME = 143
"""Pixels of a window's height that are not the page's."""


def made_run(
    folder: Path,
    *,
    count: int = 40,
    change: Callable[[Ticket], Ticket] = lambda ticket: ticket,
    engine: Any = None,
    label_noise: float = 0.1,
    rules: tuple[str, ...] = (),
) -> MissionRun:
    """A finished run of one epoch with four candidates a ticket."""
    run = planned(folder, count=count, change=change, label_noise=label_noise)
    guidance = run.first_guidance()
    for text in rules:
        guidance = apply_edit(guidance, Edit("add", text), 16)
        run.store.guidance.write(guidance)
    run_mission(run, lambda: engine or Citing(), Budget())
    return run


def planned(
    folder: Path,
    *,
    count: int = 40,
    change: Callable[[Ticket], Ticket] = lambda ticket: ticket,
    label_noise: float = 0.1,
) -> MissionRun:
    """The same run without touching its folder."""
    config = StageBConfig(
        stage_a_paths=(str(folder / "tickets.jsonl"),),
        engine=EngineConfig(kind="replay", replies="none.jsonl"),
        sampler=SamplerConfig(grid=(DecodeConfig(temperature=0.7),), samples_per_decode=4),
        output=OutputConfig(root=str(folder / "output")),
    )
    made = simulate_tickets(count, seed=4, label_noise=label_noise)
    tickets = Tickets.of(change(each.ticket) for each in made)
    return MissionRun(config, MissionData(tickets[0].mission, FOCUS, tickets))


class Citing(SimulatedModel):
    """Cites photos and rules too, as a model would."""

    def _answer(self, request: Any) -> str:
        text = super()._answer(request)
        return text if "理由" not in text else f"{text}；图1和image_2可以看清，第3张光线不足[R1]"


def add_rule(run: MissionRun, text: str = RULE) -> None:
    """A rule that the gate took, and one that it did not, as rows of edits.jsonl."""
    before = run.store.guidance.read()
    assert before is not None
    tried = ((Edit("add", text, (), ("SIM-4-000001",)), "accept"), (Edit("add", text + "。"), "reject"))
    for number, (edit, outcome) in enumerate(tried):
        after = apply_edit(before, edit, 16)
        if outcome == "accept":
            run.store.guidance.write(after)
        run.store.keep_edit(edit_row(edit, before, after, outcome, number))


def edit_row(edit: Edit, before: Any, after: Any, outcome: str, number: int = 0) -> dict[str, Any]:
    counts = {"tickets": 120, "fails": 58, "fixed": 14, "broken": 2, "new_false_passes": 1, "cured_false_passes": 6}
    told = {"outcome": outcome, "why": "it fixes 14 and breaks 2 of 120 tickets", "alpha": 0.01, "p_value": 0.0021}
    told |= {"veto_p_value": 0.012, "tickets_needed": None, "counts": counts}
    head = {"key": f"{before.hash}/{edit.id}/{number}", "status": "ok", "edit": edit.as_dict(), "source": "by hand"}
    made = {"before": before.hash, "after": after.hash, "step": after.step if outcome == "accept" else None}
    return head | made | {"tried_at": "2026-11-20T08:00:00Z"} | told


def draw_photos(root: Path, run: MissionRun) -> None:
    """A photo of a made rack for every image of every ticket."""
    for number, ticket in enumerate(run.data.tickets):
        for place, image in enumerate(ticket.images):
            path = root / image
            path.parent.mkdir(parents=True, exist_ok=True)
            _photo(100 * number + place).save(path, quality=85)


def _photo(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    wide, high = SIZE
    shade = np.linspace(70, 150, high)[:, None, None] + rng.normal(0, 6, (high, wide, 1))
    image = Image.fromarray(np.clip(shade * (1.0, 1.02, 1.05), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.rectangle((80, 40, 560, 390), fill=(52, 56, 64), outline=(30, 32, 38), width=6)
    for row in range(6):
        top = 56 + 54 * row
        draw.rectangle((100, top, 540, top + 44), fill=(82 + int(rng.integers(40)), 90, 100))
        for port in range(10):
            left = 120 + 40 * port
            draw.rectangle((left, top + 14, left + 22, top + 32), fill=(24, 26, 30))
    for cable in range(4):
        left = 130 + 100 * cable + int(rng.integers(30))
        draw.line((left, 90, left - 40, 240, left + 20, 388), fill=(200, 160 - 30 * cable, 40), width=6)
    return image


def caption_row(image: str, *, desc: str = "BBU设备/品牌:华为", **change: Any) -> Mapping[str, Any]:
    objects = [
        {"bbox_2d": [80, 40, 560, 390], "desc": desc},
        {"line": [130, 90, 90, 240, 150, 388], "line_points": 3, "desc": "电线"},
    ]
    row = {
        "key": image,
        "image": image,
        "width": SIZE[0],
        "height": SIZE[1],
        "objects": objects,
        "text": "",
        "status": "ok",
    }
    return row | {"problems": []} | change


def write_captions(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
