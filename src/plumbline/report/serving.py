"""Pages served on this machine only: what every such server refuses, and how it listens."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from plumbline.errors import Problem, UserError

HOST = "127.0.0.1"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Next = Callable[[Request], Awaitable[Response]]
Guard = Callable[[Request, Next], Awaitable[Response]]


def guard_of(headers: Mapping[str, str]) -> Guard:
    """Only this machine's names are served (a foreign name could be rebound to it), and only our own page may write.

    headers: put on every response, in addition to `HEADERS`.
    """

    async def guard(request: Request, call_next: Next) -> Response:
        host = request.headers.get("host", "")
        if _name_of(host) not in (HOST, "localhost"):
            response = plain(400, "this page is served under 127.0.0.1 and localhost only")
        elif request.method not in ("GET", "HEAD") and request.headers.get("origin") != f"http://{host}":
            response = plain(403, "decisions are taken from this page only")
        else:
            response = await call_next(request)
        for name, value in {**HEADERS, **headers}.items():
            response.headers.setdefault(name, value)
        return response

    return guard


def _name_of(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.netloc == host and "@" not in host and not parts.path else None
    except ValueError:
        return None


def plain(status: int, text: str) -> Response:
    """A response of one sentence."""
    return Response(text, status, media_type="text/plain; charset=utf-8")


def serve_app(app: FastAPI, port: int, what: str) -> None:
    """Serve on 127.0.0.1 until interrupted, and print the address.

    port: 0 for any free one. what: printed before the address. Raises UserError for a port that is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UserError(Problem("--port", f"{port}: {error.strerror}", "0 takes any free one")) from error
        print(f"{what}: http://{HOST}:{listener.getsockname()[1]}/ (Ctrl+C ends it)", flush=True)
        config = uvicorn.Config(app, log_level="warning", server_header=False)
        uvicorn.Server(config).run(sockets=[listener])
