"""The review page: a person works through the tickets that do not pass by themselves; served on this machine only.

Everything that models and strangers wrote is escaped; the page's policy runs no script but its own file.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from plumbline.errors import DataError, UserError
from plumbline.report.guidance_history import read_history
from plumbline.report.html import render_page
from plumbline.report.review_desk import Desk, Found, captions_by_image
from plumbline.report.review_photos import SIDES, Photos
from plumbline.report.review_queue import QUEUES, neighbours, overview, suspect_lines
from plumbline.report.review_ticket import view_ticket
from plumbline.report.serving import guard_of, plain, serve_app
from plumbline.stage_b.decisions import MAX_NOTE, NOTE, UNDO, Decision, keep_decision
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.splits import SEALED
from plumbline.stage_b.tickets import Ticket
from plumbline.storage.text import printable

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
LARGEST_FORM = 64 * 1024
"""Bytes of a decision."""
_STATIC = {"review.js": "text/javascript", "review.css": "text/css"}


def review_app(run: MissionRun, *, image_root: Path | None, captions: Path | None, reviewer: str) -> FastAPI:
    """The page of one run. image_root: no photo outside it is shown, and none without it.

    captions: JSONL of `plumbline infer` with objects.

    reviewer: who decides. Raises UserError for a run without verdicts and for captions that are not there.
    """
    desk = Desk(run)
    desk.found()
    photos = Photos(image_root, None if captions is None else captions_by_image(captions))
    token = secrets.token_urlsafe(32)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard_of({"Content-Security-Policy": POLICY}))
    app.exception_handler(UserError)(_show_error)
    _add_pages(app, desk, photos, {"mission": run.data.mission, "reviewer": reviewer, "token": token})
    _add_files(app, desk, photos)
    _add_decisions(app, desk, reviewer, token)
    return app


def _page(template: str, context: Mapping[str, Any], status: int = 200) -> Response:
    """Characters that UTF-8 cannot hold become question marks."""
    return Response(render_page(template, context).encode("utf-8", "replace"), status, media_type="text/html")


def _show_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    problems = [(each.where, each.what, each.fix) for each in error.problems]
    return _page("review_error.html", {"problems": problems}, 500)


# --------------------------------------------------------------------------------------------------------------- pages
def _add_pages(app: FastAPI, desk: Desk, photos: Photos, shared: Mapping[str, Any]) -> None:
    def page(template: str, here: str, context: Mapping[str, Any], status: int = 200) -> Response:
        return _page(template, {**shared, "here": here, **context}, status)

    @app.get("/")
    def queue(start: int = 1) -> Response:
        return page("review_queue.html", "review", overview(desk, start))

    @app.get("/suspects")
    def suspects() -> Response:
        return page("review_suspects.html", "suspects", {"lines": suspect_lines(desk), "sealed": SEALED})

    @app.get("/guidance")
    def guidance() -> Response:
        return page("review_guidance.html", "guidance", {"history": read_history(desk.run)})

    @app.get("/ticket/{number}")
    def ticket(number: int, queue: str = QUEUES[0]) -> Response:
        found = desk.found()
        known = 1 <= number <= len(desk.run.data.tickets) and queue in QUEUES
        view = view_ticket(desk, found, number, photos) if known else None
        if view is None:
            return plain(404, "there is no such ticket with a verdict")
        around = neighbours(desk, queue, number)
        context = {"ticket": view, "queue": queue, "around": around, "most": MAX_NOTE}
        return page("review_ticket.html", queue, context)


def _add_files(app: FastAPI, desk: Desk, photos: Photos) -> None:
    @app.get("/photo/{number}/{place}/{size}")
    def photo(number: int, place: int, size: str, drawn: bool = False) -> Response:
        tickets = desk.run.data.tickets
        if not (1 <= number <= len(tickets) and 1 <= place <= len(tickets[number - 1].images) and size in SIDES):
            return plain(404, "there is no such photo")
        try:
            content = photos.jpeg(tickets[number - 1].images[place - 1], size, drawn)
        except (DataError, OSError) as error:
            return _placeholder(error)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in _STATIC:
            return plain(404, "there is no such file")
        content = (files("plumbline.report") / "templates" / name).read_bytes()
        return Response(content, media_type=f"{_STATIC[name]}; charset=utf-8")


def _placeholder(error: DataError | OSError) -> Response:
    """A picture that says why there is none; where the file lies is not shown."""
    what = error.problems[0].what if isinstance(error, DataError) else "cannot be read"
    drawn = render_page("review_no_photo.svg", {"what": what[:90]}).encode("utf-8", "replace")
    return Response(drawn, 404, media_type="image/svg+xml")


# ----------------------------------------------------------------------------------------------------------- decisions
def _add_decisions(app: FastAPI, desk: Desk, reviewer: str, token: str) -> None:
    @app.post("/decisions")
    async def decide(request: Request) -> Response:
        size = request.headers.get("content-length", "")
        if not size.isdecimal() or int(size) > LARGEST_FORM:
            return plain(413, "that is more than a decision")
        form = _read_form(await request.body())
        if not secrets.compare_digest(form.get("token", "").encode(), token.encode()):
            return plain(403, "this page is of an earlier start: load it again")
        return await run_in_threadpool(_decide, desk, reviewer, form)


def _read_form(body: bytes) -> dict[str, str]:
    fields = parse_qs(body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=20, errors="replace")
    return {name: values[0] for name, values in fields.items()}


def _decide(desk: Desk, reviewer: str, form: Mapping[str, str]) -> Response:
    """Keep what a form says, and show what comes next."""
    found, queue, number = desk.found(), form.get("queue", ""), form.get("ticket", "")
    if queue not in QUEUES or not number.isdecimal() or not 1 <= int(number) <= len(desk.run.data.tickets):
        return plain(400, "that names no ticket")
    ticket, kind = desk.run.data.tickets[int(number) - 1], form.get("decision", "")
    result = found.selections.get(ticket.key, {}).get("result", {})
    if kind != UNDO and str(result.get("epoch")) != form.get("epoch"):
        return plain(409, "the verdict is another one by now: go back and load the ticket again")
    onward = int(number) if kind in (NOTE, UNDO) else neighbours(desk, queue, int(number)).next_open
    try:
        keep_decision(desk.run, _decision(form, ticket, found, reviewer))
    except UserError as error:
        return plain(422, error.problems[0].what)
    return RedirectResponse(f"/ticket/{onward}?queue={queue}" if onward else "/", 303)


def _decision(form: Mapping[str, str], ticket: Ticket, found: Found, reviewer: str) -> Decision:
    """What a form says, with the verdict that it is about."""
    row = found.selections.get(ticket.key)
    seen = ("", "") if row is None else (row["guidance_hash"], row["result"]["verdict"] or "")
    note = form.get("note", "").replace("\r\n", "\n").strip()
    kind, label = form.get("decision", ""), form.get("label", "")
    return Decision(ticket.key, kind, label, note, reviewer, guidance_hash=seen[0], verdict=seen[1])


# -------------------------------------------------------------------------------------------------------------- serving
def serve_review(
    run: MissionRun,
    *,
    image_root: Path | None,
    captions: Path | None,
    reviewer: str,
    port: int = 0,
) -> None:
    """Serve the page on 127.0.0.1 until interrupted. port: 0 for any free one. UserError for one that is taken."""
    app = review_app(run, image_root=image_root, captions=captions, reviewer=reviewer)
    serve_app(app, port, f"review of {printable(run.data.mission)} by {reviewer}")
