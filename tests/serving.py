"""An OpenAI-compatible server on loopback whose answers and troubles a test decides."""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str) -> dict[str, Any]:
    """An answer as servers give it."""
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}


class Answering:
    """Answers `答` and the question, after trouble for the first requests. A context manager.

    trouble: a status, or "reset", "half", "slow" (0.6 s); takes: seconds per answer; most: requests at a time, others
    get 429; answers: given in this order before any other. asked: the bodies; peak, refused: what happened.
    """

    def __init__(
        self,
        *,
        trouble: int | str = 200,
        for_first: int = 0,
        takes: float = 0.0,
        most: int | None = None,
        answers: list[dict[str, Any]] | None = None,
        names: tuple[str, ...] = ("tiny",),
    ):
        self.asked: list[dict[str, Any]] = []
        self.peak = self.refused = self._now = 0
        lock, prepared = threading.Lock(), list(answers or [])
        outer = self

        def leave() -> None:
            with lock:
                outer._now -= 1

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(200, {"data": [{"id": name} for name in names]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.asked.append(body)
                    number = len(outer.asked)
                    outer._now += 1
                    outer.peak = max(outer.peak, outer._now)
                    full = most is not None and outer._now > most
                    outer.refused += full
                    given = prepared.pop(0) if prepared else None
                if full:
                    leave()
                    self.answer(429, {"error": "busy"})
                elif number <= for_first:
                    leave()
                    self.misbehave()
                else:
                    time.sleep(takes)
                    leave()  # before the answer: the client may ask again as soon as it has it
                    told = [part.get("text", "") for part in body["messages"][-1]["content"]]
                    self.answer(200, given or completion(f"答{''.join(told)}"))

            def misbehave(self) -> None:
                if trouble == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    self.connection.close()
                elif trouble == "half":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"choices": [')
                    self.close_connection = True
                elif trouble == "slow":
                    time.sleep(0.6)
                    self.answer(200, completion("late"))
                else:
                    self.answer(int(trouble), {"error": "trouble"})

            def answer(self, status: int, content: Any) -> None:
                data = json.dumps(content).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True  # the other side has given up

            def log_message(self, *args: Any) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *args: Any) -> None:
                """A connection that we broke ourselves."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Answering:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
