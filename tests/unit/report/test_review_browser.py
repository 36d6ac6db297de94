"""The review page in a real browser: keys, decisions on disk, nothing but our own script."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.report.review_desk import Desk
from plumbline.report.review_queue import queue_numbers
from plumbline.stage_b.decisions import DECISIONS
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.simulation import RULE
from reviewing import FRAME, caption_row, draw_photos, made_run, needs_browser, open_browser, write_captions

pytestmark = [pytest.mark.slow, needs_browser]
SERVE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from reviewing import planned
from plumbline.report.review import serve_review
folder = Path(sys.argv[2])
captions = folder / "captions.jsonl"
serve_review(planned(folder, count=24), image_root=folder / "photos", captions=captions, reviewer="li", port=0)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MissionRun:
    folder = tmp_path_factory.mktemp("browser")
    made = made_run(folder, count=24, rules=(RULE,))
    draw_photos(folder / "photos", made)
    write_captions(folder / "captions.jsonl", *(caption_row(ticket.images[0]) for ticket in made.data.tickets))
    return made


@pytest.fixture(scope="module")
def address(run: MissionRun) -> Iterator[str]:
    """Of a server in a process of its own, as a person would start it; interrupted at the end."""
    folder = Path(run.config.output.root).parent
    words = [sys.executable, "-c", SERVE, str(Path(__file__).parents[2]), str(folder)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as server:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert found is not None
        yield found[0]
        server.send_signal(signal.SIGINT)
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as driver:
        yield driver


def rows(run: MissionRun) -> list[dict[str, Any]]:
    path = run.store.folder / DECISIONS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def until(holds: Callable[[], Any]) -> None:
    """Wait for something that comes soon."""
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def press(browser: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    # A key that comes before the page has the focus is lost, as on a machine that is busy.
    until(lambda: browser.execute_script("return document.readyState === 'complete' && document.hasFocus()"))
    ActionChains(browser).send_keys(key).perform()


def test_an_inspector_works_through_the_queue_by_keyboard(run: MissionRun, address: str, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def at(number: int) -> None:
        until(lambda: browser.current_url == f"{address}ticket/{number}?queue=review")
        until(lambda: browser.execute_script("return document.readyState") == "complete")

    order = queue_numbers(Desk(run), "review")
    names = {number: run.data.tickets[number - 1].key for number in order}
    browser.get(address)
    press(browser, "j")
    at(order[0])
    press(browser, Keys.ARROW_RIGHT)
    at(order[1])
    press(browser, "k")
    at(order[0])
    press(browser, "p")
    at(order[1])
    press(browser, "f")
    at(order[2])
    press(browser, "r")
    until(lambda: browser.find_elements("css selector", "#relabel[open]"))
    press(browser, "f")
    at(order[3])
    press(browser, "n")
    until(lambda: browser.find_elements("css selector", "#note[open]"))
    press(browser, "第2张 p f u 看不清")
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    until(lambda: len(rows(run)) == 4)
    until(lambda: "看不清" in browser.find_element("css selector", ".standing").text)
    press(browser, "u")
    until(lambda: len(rows(run)) == 5)
    at(order[3])
    kept = [(row["ticket"], row["decision"], row["label"], row["note"], row["who"]) for row in rows(run)]
    assert kept == [
        (names[order[0]], "pass", "", "", "li"),
        (names[order[1]], "fail", "", "", "li"),
        (names[order[2]], "relabel", "fail", "", "li"),
        (names[order[3]], "note", "", "第2张 p f u 看不清", "li"),
        (names[order[3]], "undo", "", "", "li"),
    ]
    no_script_but_ours(browser)


def test_photos_help_and_objects_open_by_key(run: MissionRun, address: str, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def shown() -> str:
        return str(browser.execute_script("return document.querySelector('#photo[open] img')?.src"))

    browser.get(f"{address}ticket/2")
    press(browser, "1")
    until(lambda: shown().endswith("/photo/2/1/full?drawn=true"))
    press(browser, Keys.ARROW_RIGHT)
    until(lambda: shown().endswith("/photo/2/2/full"))
    press(browser, Keys.ESCAPE)
    until(lambda: shown() == "None")
    press(browser, "?")
    until(lambda: browser.find_elements("css selector", "#help[open]"))
    count = len(rows(run))
    press(browser, "p")  # a dialog is open: no decision
    press(browser, Keys.ESCAPE)
    press(browser, "o")
    until(lambda: browser.execute_script("return document.querySelector('img[data-drawn]').src").endswith("/2/1/page"))
    cited = "document.querySelector('[data-cites]').dispatchEvent(new Event('mouseenter')); "
    cited += "return document.querySelectorAll('figure.cited').length"
    assert browser.execute_script(cited) == 3
    assert len(rows(run)) == count
    no_script_but_ours(browser)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (430, 860)])
def test_the_page_fits_its_window(address: str, browser: Any, tmp_path: Path, width: int, height: int) -> None:
    browser.set_window_size(width, height + FRAME)
    for path in ("", "ticket/2", "suspects", "guidance"):
        browser.get(address + path)
        until(lambda: browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"))
    browser.get(f"{address}ticket/2")
    loaded = (
        "return [...document.images].filter(each => each.src).every(each => each.complete && each.naturalWidth > 200)"
    )
    until(lambda: browser.execute_script(loaded))
    assert browser.save_screenshot(str(tmp_path / "page.png"))
    photo = browser.execute_script("return document.querySelector('figure img').getBoundingClientRect().width")
    assert photo > 0.3 * width, "photos are what an inspector looks at"
    bar = browser.execute_script("return document.querySelector('.bar').getBoundingClientRect().bottom - innerHeight")
    assert abs(bar) < 1


def no_script_but_ours(browser: Any) -> None:
    told = [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
    assert told == []
