"""`plumbline watch`: the reports of training runs while they train, served on this machine only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

from plumbline.errors import EXIT_OK, Problem, UserError
from plumbline.report.compare import render_comparison
from plumbline.report.html import write_page
from plumbline.report.run import render_run_report
from plumbline.report.runs import find_runs, run_folders
from plumbline.report.serving import guard_of, plain, serve_app
from plumbline.storage.text import printable

REFRESH = 15
"""Seconds after which a browser loads a page again."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"


def watch(folders: Sequence[Path], output: Path | None, port: int) -> int:
    """Serve the runs below some folders until interrupted, or write the page that compares them."""
    lines, notes = find_runs(folders)
    for note in notes:
        print(f"note: {printable(note)}")
    if output is not None:
        if not lines:
            raise UserError(Problem(", ".join(map(str, folders)), "holds no run", "name the folder of a run"))
        output.parent.mkdir(parents=True, exist_ok=True)
        print(f"written: {write_page(output, render_comparison(lines))}")
        return EXIT_OK
    with suppress(KeyboardInterrupt):
        serve_app(watch_app(folders), port, f"{len(lines)} run{'' if len(lines) == 1 else 's'}")
    return EXIT_OK


def watch_app(folders: Sequence[Path]) -> FastAPI:
    """The server: runs that begin later are found at the next look."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard_of({"Content-Security-Policy": POLICY, "Refresh": str(REFRESH)}))
    app.exception_handler(UserError)(_show_error)

    @app.get("/")
    def overview() -> Response:
        lines, _ = find_runs(folders)
        if not lines:
            return plain(200, "no run yet: this page looks again by itself")
        return _html(render_comparison(lines, {line.folder: f"/run/{_name(line.folder)}" for line in lines}))

    @app.get("/run/{name}")
    def report(name: str) -> Response:
        found = next((folder for folder in run_folders(folders) if _name(str(folder)) == name), None)
        return plain(404, "there is no such run") if found is None else _html(render_run_report(found))

    return app


def _name(folder: str) -> str:
    """A name for a folder that an address can hold; only folders that were found are ever opened."""
    return hashlib.blake2b(str(Path(folder).resolve()).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _html(text: str) -> Response:
    return Response(text.encode("utf-8", "replace"), media_type="text/html; charset=utf-8")


def _show_error(request: Request, error: Exception) -> Response:
    return plain(500, printable(str(error), keep="\n"))
