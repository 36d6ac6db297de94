"""The review page over HTTP: what it shows, what it refuses, what it writes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from plumbline.errors import UserError
from plumbline.report.review import POLICY, review_app
from plumbline.report.review_desk import Desk, reasons_for_review
from plumbline.report.review_queue import queue_numbers
from plumbline.report.serving import HEADERS
from plumbline.report.stage_b import write_stage_b_report
from plumbline.stage_b.certify import setting_of
from plumbline.stage_b.decisions import DECISIONS, read_decisions
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.mission_store import CERTIFICATE
from plumbline.stage_b.risk import Certificate
from plumbline.stage_b.simulation import RULE
from reviewing import add_rule, caption_row, draw_photos, made_run, write_captions

BASE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MissionRun:
    """Forty tickets with photos and captions, one rule; tests leave decisions and a certificate behind at most."""
    folder = tmp_path_factory.mktemp("stage_b")
    run = made_run(folder, rules=(RULE,))
    draw_photos(folder / "photos", run)
    write_captions(
        folder / "captions.jsonl", *(caption_row(image) for each in run.data.tickets for image in each.images[:2])
    )
    return run


@pytest.fixture
def run(made: MissionRun) -> Iterator[MissionRun]:
    yield made
    for name in (DECISIONS, CERTIFICATE):
        (made.store.folder / name).unlink(missing_ok=True)


def folder_of(run: MissionRun) -> Path:
    return Path(run.config.output.root).parent


@pytest.fixture
def client(run: MissionRun) -> TestClient:
    return client_of(run)


def client_of(run: MissionRun) -> TestClient:
    folder = folder_of(run)
    app = review_app(run, image_root=folder / "photos", captions=folder / "captions.jsonl", reviewer="li")
    return TestClient(app, base_url=BASE, follow_redirects=False)


def decide(client: TestClient, number: int, decision: str, **change: Any) -> Any:
    """Post what the page's own form would, with changes."""
    headers = {"Origin": BASE} | change.pop("headers", {})
    token = re.search(r'name="token" value="([^"]+)"', client.get(f"/ticket/{number}").text)
    assert token is not None
    form = {"token": token[1], "ticket": str(number), "epoch": "1", "queue": "review", "decision": decision} | change
    return client.post("/decisions", data=form, headers=headers)


def rows(run: MissionRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.store.folder / DECISIONS).read_text(encoding="utf-8").splitlines()]


# -------------------------------------------------------------------------------------------------------- what it shows
def test_the_queue_holds_what_does_not_pass_by_itself(run: MissionRun, client: TestClient) -> None:
    page = client.get("/").text
    assert page.count("/ticket/") == 40 + 1, "each ticket and the first one to go on with"
    assert "no threshold is certified" in page
    assert "sealed: its labels stay unseen" in page
    rows = [entry.row["result"] for entry in Desk(run).found().queue]
    ranks = [0 if row["summary_confidence"] != "ok" else 1 if row["verdict"] == "通过" else 2 for row in rows]
    assert ranks == sorted(ranks)


def test_a_certificate_lets_clear_passes_through_until_the_guidance_changes(run: MissionRun) -> None:
    certificate = Certificate(0.6, 0.01, 0.02, 0.95, 300, 200, 0, setting_of(run))
    (run.store.folder / CERTIFICATE).write_text(json.dumps(asdict(certificate)), encoding="utf-8")
    desk = Desk(run)
    found = desk.found()
    assert 5 < found.automatic < 25 and found.automatic + len(found.queue) == 40
    assert any("is below the certified threshold 0.600" in why for entry in found.queue for why in entry.why)
    assert "At a score of 0.600 and more a pass stands by itself" in client_of(run).get("/").text
    other = asdict(certificate) | {"setting": asdict(certificate.setting) | {"guidance_hash": "x"}}
    (run.store.folder / CERTIFICATE).write_text(json.dumps(other), encoding="utf-8")
    assert desk.found().automatic == 0, "read again because the file changed"
    assert any("the certificate is void" in why for entry in desk.found().queue for why in entry.why)


def test_reasons_tell_doubts_first() -> None:
    result = {
        "verdict": "不通过",
        "summary_confidence": "needs_review",
        "doubts": ["the votes are tied"],
        "confidence": 0.5,
    }
    told = reasons_for_review({"result": result}, None, "none")
    assert told == ("the votes are tied", "the verdict is 不通过: only a pass needs no person")
    assert reasons_for_review({"result": result | {"doubts": []}}, None, "none")[0] == "the verdict needs a review"


def test_a_ticket_shows_everything(run: MissionRun, client: TestClient) -> None:
    number = queue_numbers(Desk(run), "review")[-1]
    ticket = run.data.tickets[number - 1]
    page = client.get(f"/ticket/{number}").text
    assert ticket.group_id in page and all(text in page for text in ticket.summaries.values())
    assert page.count('<figure id="photo-') == 3
    assert page.count('class="candidate') == 4 and page.count("speaks for the verdict") == 1
    assert '<a class="cite" href="#photo-1">图1</a>' in page and '<a class="cite" href="#photo-2">image_2</a>' in page
    assert 'data-cites="1 2 3"' in page
    assert '<a class="cite" href="#rule-R1">[R1]</a>' in page
    assert re.search(rf'<li id="rule-R1" class="fired">.*{RULE} <span class="badge">cited by [1-4]</span>', page)
    assert page.count("data-drawn") == 2, "the third photo has no caption"
    assert "2 objects" in page and "<li>BBU设备/品牌:华为</li>" in page
    assert "only a pass needs no person" in page


def test_without_photos_the_summaries_are_reviewed(run: MissionRun) -> None:
    captions = folder_of(run) / "captions.jsonl"
    app = review_app(run, image_root=None, captions=captions, reviewer="li")
    client = TestClient(app, base_url=BASE, follow_redirects=False)
    page = client.get("/ticket/1").text
    assert all(text in page for text in run.data.tickets[0].summaries.values())
    assert "/photo/" not in page and page.count('<figure id="photo-') == 3 and "2 objects" in page
    assert 'class="photos texts' in page
    assert "no folder of photos was named" in client.get("/photo/1/1/page").text
    assert decide(client, 1, "pass").status_code == 303


def test_what_is_not_there_is_not_found(client: TestClient) -> None:
    for path in (
        "/ticket/0",
        "/ticket/41",
        "/ticket/1?queue=x",
        "/photo/1/4/page",
        "/photo/1/1/huge",
        "/photo/0/1/page",
    ):
        assert client.get(path).status_code == 404, path
    for path in ("/static/review.html", "/static/../review.py", "/docs", "/openapi.json", "/favicon.ico"):
        assert client.get(path).status_code == 404, path
    assert client.get("/ticket/x").status_code == 422


def test_files_have_their_types_and_every_reply_its_policy(client: TestClient) -> None:
    for path, kind in {
        "/": "text/html",
        "/static/review.js": "text/javascript",
        "/static/review.css": "text/css",
        "/photo/1/1/page": "image/jpeg",
        "/ticket/999": "text/plain",
    }.items():
        headers = client.get(path).headers
        assert headers["content-type"].startswith(kind)
        expected = {name: value for name, value in HEADERS.items() if name != "Cache-Control"}
        expected["Content-Security-Policy"] = POLICY
        assert {name: headers[name] for name in expected} == expected
    assert "unsafe" not in POLICY


def test_guidance_history_tells_the_measured_effect(tmp_path: Path) -> None:
    run = made_run(tmp_path, count=6)
    add_rule(run)
    app = review_app(run, image_root=tmp_path, captions=None, reviewer="li")
    page = TestClient(app, base_url=BASE).get("/guidance").text
    assert f"<ins>{RULE}</ins>" in page
    assert "<b>14</b> fixed" in page and "<b>0.0021 against 0.01</b> p-value" in page
    turned_down = page[page.index("Turned down") :]
    assert ">reject</span>" in turned_down and f"{RULE}。" in turned_down


# --------------------------------------------------------------------------------------------------------------- photos
def picture(client: TestClient, path: str) -> np.ndarray:
    reply = client.get(path)
    assert reply.status_code == 200, reply.text
    return np.asarray(Image.open(io.BytesIO(reply.content)))


def test_photos_are_downscaled_and_drawn_over(run: MissionRun, client: TestClient) -> None:
    wide = np.random.default_rng(0).integers(0, 255, (900, 3000, 3), dtype=np.uint8)
    Image.fromarray(wide).save(folder_of(run) / "photos" / run.data.tickets[5].images[2])
    assert picture(client, "/photo/6/3/page").shape == (420, 1400, 3)
    assert picture(client, "/photo/6/3/full").shape == (780, 2600, 3)
    plain, drawn = picture(client, "/photo/1/1/page"), picture(client, "/photo/1/1/page?drawn=true")
    assert plain.shape == drawn.shape and np.abs(plain.astype(int) - drawn).mean() > 3
    assert np.array_equal(picture(client, "/photo/1/3/page"), picture(client, "/photo/1/3/page?drawn=true"))


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "link.png", "http://127.0.0.1:1/a.png", "data:,x", "a\0b"]
)
def test_no_photo_outside_the_root_is_shown(tmp_path: Path, name: str) -> None:
    from dataclasses import replace

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.png")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    run = made_run(tmp_path, count=2, change=lambda ticket: replace(ticket, images=(name, "b", "c")))
    client = TestClient(review_app(run, image_root=tmp_path / "photos", captions=None, reviewer="li"), base_url=BASE)
    reply = client.get("/photo/1/1/page")
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "image/svg+xml"
    assert "This photo cannot be shown" in reply.text
    assert client.get("/ticket/1").status_code == 200


def test_a_caption_that_does_not_fit_is_told_and_not_drawn(run: MissionRun) -> None:
    first = run.data.tickets[0].images
    folder = folder_of(run)
    captions = [
        caption_row(first[0], width=99),
        caption_row(first[1], objects=[{"bbox_2d": [1, "x"], "desc": "标签"}]),
        caption_row(first[2], objects=[]),
    ]
    file = write_captions(folder / "odd.jsonl", *captions)
    app = review_app(run, image_root=folder / "photos", captions=file, reviewer="li")
    page = TestClient(app, base_url=BASE).get("/ticket/1").text
    assert "the caption is of a picture of 99 x 420 pixels, not 640 x 420" in page
    assert "the caption&#39;s objects cannot be drawn: objects[0]" in page
    assert "the caption has no objects" in page
    assert "data-drawn" not in page
    with pytest.raises(UserError, match="no such file"):
        review_app(run, image_root=folder, captions=folder / "none.jsonl", reviewer="li")


# ------------------------------------------------------------------------------------------------------------ decisions
def test_a_decision_is_appended_and_leads_on(run: MissionRun, client: TestClient) -> None:
    order = queue_numbers(Desk(run), "review")
    first = decide(client, order[0], "pass")
    assert (first.status_code, first.headers["location"]) == (303, f"/ticket/{order[1]}?queue=review")
    noted = decide(client, order[1], "note", note="第2张看不清\r\n重拍")
    assert noted.headers["location"] == f"/ticket/{order[1]}?queue=review", "a note decides nothing"
    decide(client, order[1], "relabel", label="fail")
    last = decide(client, order[-1], "fail")
    assert last.headers["location"] == f"/ticket/{order[2]}?queue=review", "from the end on to what was left open"
    kept = rows(run)
    assert [row["decision"] for row in kept] == ["pass", "note", "relabel", "fail"]
    selection = Desk(run).found().selections[kept[0]["ticket"]]
    assert kept[0]["who"] == "li" and kept[0]["guidance_hash"] == selection["guidance_hash"]
    assert kept[0]["verdict"] == selection["result"]["verdict"]
    assert kept[1]["note"] == "第2张看不清\n重拍"
    page = client.get(f"/ticket/{order[1]}").text
    assert "Decided: relabel to fail" in page and "第2张看不清\n重拍" in page
    assert "<b>3</b><span>decided" in client.get("/").text


def test_undo_takes_back_this_ticket_s_or_the_last_decision(run: MissionRun, client: TestClient) -> None:
    decide(client, 3, "pass")
    decide(client, 4, "fail")
    assert f'Undo fail <span class="which">of {run.data.tickets[3].group_id}' in client.get("/ticket/9").text
    assert "Undo pass <kbd>" in client.get("/ticket/3").text
    back = decide(client, 4, "undo")
    assert back.headers["location"] == "/ticket/4?queue=review"
    assert list(read_decisions(run)) == [run.data.tickets[2].key]
    assert decide(client, 4, "undo").status_code == 422


def test_what_is_no_decision_of_this_page_is_refused(run: MissionRun, client: TestClient) -> None:
    refused = [
        ({"headers": {"Origin": "http://evil.example"}}, 403),
        ({"headers": {"Origin": "null"}}, 403),
        ({"headers": {"Origin": "http://127.0.0.1:9999"}}, 403),
        ({"token": ""}, 403),
        ({"token": "é"}, 403),
        ({"ticket": "0"}, 400),
        ({"ticket": "99"}, 400),
        ({"ticket": "-1"}, 400),
        ({"queue": "../"}, 400),
        ({"epoch": "2"}, 409),
        ({"decision": "delete"}, 422),
        ({"decision": "relabel"}, 422),
        ({"decision": "note", "note": " "}, 422),
        ({"decision": "note", "note": "x" * 3000}, 422),
        ({"note": "x" * 70_000}, 413),
    ]
    for change, status in refused:
        reply = decide(client, 1, change.pop("decision", "pass"), **change)
        assert reply.status_code == status, change
    assert client.post("/decisions", data={"decision": "pass"}).status_code == 403, "without an origin"
    assert not (run.store.folder / DECISIONS).exists()


def test_only_this_machine_s_names_are_served(client: TestClient) -> None:
    for host in ("127.0.0.1", "127.0.0.1:8000", "localhost:8000"):
        assert client.get("/", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example:8000", "evil@127.0.0.1", "127.0.0.1/x", "", "[::1", "0.0.0.0"):
        assert client.get("/", headers={"Host": host}).status_code == 400, host


# -------------------------------------------------------------------------------------------------- suspects and sealed
def test_suspects_are_listed_until_their_label_is_corrected(run: MissionRun, client: TestClient) -> None:
    numbers = queue_numbers(Desk(run), "suspects")
    assert numbers
    page = client.get("/suspects").text
    assert page.count("<tr>") == len(numbers) + 1 + 9, "the head, and the table of keys"
    ticket = run.data.tickets[numbers[0] - 1]
    other = "fail" if ticket.label == "pass" else "pass"
    reply = decide(client, numbers[0], "relabel", label=other, queue="suspects")
    onward = f"/ticket/{numbers[1]}?queue=suspects" if len(numbers) > 1 else "/"
    assert reply.headers["location"] == onward
    assert numbers[0] not in queue_numbers(Desk(run), "suspects")


def test_labels_of_the_sealed_test_stay_unseen(run: MissionRun, client: TestClient) -> None:
    splits = run.split_store.read()
    sealed = [number for number, ticket in enumerate(run.data.tickets, 1) if splits[ticket.key] == "test"]
    assert sealed
    for number in sealed:
        page = client.get(f"/ticket/{number}").text
        assert "label: <b>sealed</b>" in page
        assert "which says" not in page and f"/{run.data.tickets[number - 1].label}/" not in page
    shown = next(number for number in range(1, 41) if number not in sealed)
    assert f"label: <b>{run.data.tickets[shown - 1].label}</b>" in client.get(f"/ticket/{shown}").text
    assert not {*queue_numbers(Desk(run), "suspects")} & {*sealed}


# --------------------------------------------------------------------------------------------------------------- report
def test_the_report_holds_the_same_in_one_file(run: MissionRun, client: TestClient, tmp_path: Path) -> None:
    decide(client, 1, "pass")
    page = write_stage_b_report(run, tmp_path / "new" / "r.html", image_root=folder_of(run) / "photos").read_text(
        "utf-8"
    )
    assert "<script" not in page and 'src="/' not in page
    assert page.count("data:image/jpeg") == 40 * 3
    assert all(ticket.group_id in page for ticket in run.data.tickets)
    for title in ("Automatic passes", "How the verdicts agree", "Queue", "Labels that look wrong", "How it came to be"):
        assert title in page
    assert "sealed: its labels stay unseen" in page
    bare = write_stage_b_report(run, tmp_path / "bare.html").read_text("utf-8")
    assert "data:image" not in bare


def test_a_run_without_verdicts_says_so(tmp_path: Path) -> None:
    run = made_run(tmp_path, count=2)
    (run.store.folder / "selections.jsonl").unlink()
    with pytest.raises(UserError, match="has no verdicts yet"):
        review_app(run, image_root=tmp_path, captions=None, reviewer="li")
    with pytest.raises(UserError, match="has no verdicts yet"):
        write_stage_b_report(run, tmp_path / "r.html")


def test_a_damaged_file_is_an_error_on_the_page(run: MissionRun, client: TestClient) -> None:
    (run.store.folder / DECISIONS).write_text('{"key": "a"}\n', encoding="utf-8")
    reply = client.get("/")
    assert reply.status_code == 500
    assert "decisions.jsonl:1" in reply.text and "is not a row" in reply.text
