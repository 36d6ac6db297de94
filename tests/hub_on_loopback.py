"""A hub on loopback: what Hugging Face's client asks of a hub when it downloads a model, answered from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(name: str, folder: Path, lost: str = "") -> Iterator[tuple[str, list[str]]]:
    """(address, files asked for) of a hub with the one model `name`; lost: a file that is listed and not there."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_words: object) -> None:
            """Nothing on the terminal."""

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{name}"):
                files = [{"rfilename": file.name, "size": file.stat().st_size} for file in sorted(folder.iterdir())]
                listing = path.endswith(("/tree/main", f"/tree/{COMMIT}"))
                tree = [{"type": "file", "path": f["rfilename"], "size": f["size"], "oid": "0" * 40} for f in files]
                facts = {"id": name, "sha": COMMIT, "siblings": files, "private": False, "tags": [], "downloads": 0}
                self.send(200, json.dumps(tree if listing else facts).encode(), with_body=with_body)
                return
            file = folder / path.rsplit("/", 1)[-1]
            if not path.startswith(f"/{name}/resolve/") or not file.is_file() or file.name == lost:
                self.send(404, b"{}", with_body=with_body)
                return
            if with_body:
                asked.append(file.name)
            content = file.read_bytes()
            self.send(200, content, with_body=with_body, etag=hashlib.sha256(content).hexdigest())

        def send(self, status: int, body: bytes, *, with_body: bool, etag: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", COMMIT)
            if etag:
                self.send_header("ETag", f'"{etag}"')
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
