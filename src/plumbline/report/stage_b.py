"""The report of a Stage-B run: one file that holds what the review page shows, without its photos in full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plumbline.errors import DataError
from plumbline.report.guidance_history import read_history
from plumbline.report.html import data_url, render_page, write_page
from plumbline.report.review_desk import Desk, DeskEntry
from plumbline.report.review_photos import Photos
from plumbline.report.review_queue import overview, queue_line, suspect_lines
from plumbline.stage_b.decisions import DecisionsInForce
from plumbline.stage_b.mission import MissionRun
from plumbline.storage.objects import JsonObject

REPORT_FILE = "report.html"
MOST_LINES = 200
MOST_WITH_PHOTOS = 60
"""Tickets that are shown with thumbnails: the file stays small enough to be sent."""
PHOTOS_EACH = 3


def write_stage_b_report(run: MissionRun, path: Path, *, image_root: Path | None = None) -> Path:
    """Write the page; it appears whole or not at all. image_root: where thumbnails come from; none without it.

    Raises UserError for a run without verdicts.
    """
    desk = Desk(run)
    found, decisions = desk.found(), desk.decisions()
    photos = None if image_root is None else Photos(image_root)
    shown = found.queue[:MOST_LINES]
    lines = [_line(entry, decisions, photos if n < MOST_WITH_PHOTOS else None) for n, entry in enumerate(shown)]
    suspects = suspect_lines(desk)
    summary = overview(desk, 1)
    context = {
        name: summary[name]
        for name in ("decided", "automatic", "no_verdict", "unjudged", "certificate", "why_uncertified")
    }
    context |= {"mission": run.data.mission, "run": run.config.output.run, "tickets": len(run.data.tickets)}
    context |= {"splits": summary["splits"], "test_uses": run.store.read_state().get("test_uses", 0)}
    context |= {"queue_count": len(found.queue), "lines": lines, "history": read_history(run)}
    context |= {"suspects": suspects[:MOST_LINES], "suspect_count": len(suspects)}
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_page(path, render_page("stage_b.html", context))


def _line(entry: DeskEntry, decisions: Mapping[str, DecisionsInForce], photos: Photos | None) -> JsonObject:
    """A ticket of the queue with its first photos, and how many of those cannot be shown."""
    thumbs, unshown = [], 0
    for image in entry.ticket.images[:PHOTOS_EACH] if photos is not None else ():
        assert photos is not None
        try:
            thumbs.append(data_url(photos.small(image), quality=70))
        except (DataError, OSError):
            unshown += 1
    return queue_line(entry, decisions) | {"thumbs": thumbs, "unshown": unshown}
