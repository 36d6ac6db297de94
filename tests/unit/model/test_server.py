"""A server that misbehaves in every way that servers do, on loopback."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plumbline.errors import ConfigError
from plumbline.model.server import ChatServer, ServerError, as_server_content, retry_after

GOOD = {"choices": [{"message": {"content": "通过"}}]}


@contextmanager
def scripted(*script):
    """A server that answers by its script, then well. An entry: (status, headers, body) or "slow", "reset", "half"."""
    entries, seen = list(script), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((time.monotonic(), dict(self.headers)))
            entry = entries.pop(0) if entries else (200, {}, GOOD)
            if entry == "slow":
                time.sleep(1.0)
                entry = (200, {}, GOOD)
            if entry == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.connection.close()
                return
            if entry == "half":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
                return
            status, headers, body = entry
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *args):
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("plumbline.model.server._FIRST_WAIT", 0.01)


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        ((429, {}, {"error": "slow down"}), "http_429"),
        ((500, {}, b"<html>oops</html>"), "http_500"),
        ((503, {}, b""), "http_503"),
        ("slow", "timeout"),
        ("reset", "reset"),
        ("half", "reset"),
        ((200, {}, b'{"choices": [tr'), "damaged"),
    ],
)
def test_what_passes_is_tried_again_and_what_stays_is_told(trouble, kind):
    heard = []
    with (
        scripted(trouble, trouble) as (url, seen),
        ChatServer(url, timeout=0.3, most_wait=0.05, on_retry=heard.append) as server,
    ):
        assert server.chat({"model": "m"}) == GOOD
        assert len(seen) == 3 and [error.kind for error in heard] == [kind, kind]
    with scripted(*[trouble] * 9) as (url, seen), ChatServer(url, timeout=0.3, most_wait=0.05, tries=3) as server:
        with pytest.raises(ServerError) as caught:
            server.chat({"model": "m"})
        assert caught.value.kind == kind and len(seen) == 3 and url in str(caught.value)


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        ((400, {}, {"error": "no such parameter\nreally"}), "http_400"),
        ((404, {}, {"error": "no such model"}), "http_404"),
        ((200, {}, {"choices": []}), "damaged"),
        ((200, {}, [1]), "damaged"),
        ((200, {}, {"error": {"message": "no such adapter", "code": 1}}), "refused"),
        ((200, {}, {"error": "context\nreally too long", "choices": []}), "refused"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "http_302"),
    ],
)
def test_what_will_not_pass_is_told_at_once(trouble, kind):
    with scripted(trouble) as (url, seen), ChatServer(url) as server:
        with pytest.raises(ServerError) as caught:
            server.chat({"model": "m"})
        assert caught.value.kind == kind and len(seen) == 1 and "\nreally" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": {"message": "overloaded"}}, "overloaded"),
        ({"error": {"code": 429}, "choices": None}, "429"),
        ({"error": "Rate limit reached", "choices": []}, "Rate limit reached"),
        ({"error": "the queue is full, try again", "code": "x"}, "the queue is full, try again x"),
    ],
)
def test_an_overload_that_calls_itself_200_is_asked_again(answer, words):
    with scripted((200, {}, answer)) as (url, seen):
        heard = []
        with ChatServer(url, most_wait=0.05, on_retry=heard.append) as server:
            assert server.chat({}) == GOOD
        assert len(seen) == 2 and heard[0].overloaded and words in str(heard[0])


def test_choices_with_an_error_beside_them_are_taken():
    with scripted((200, {}, GOOD | {"error": None})) as (url, seen), ChatServer(url) as server:
        assert server.chat({})["choices"] == GOOD["choices"] and len(seen) == 1


def test_the_server_says_how_long_to_wait():
    with scripted((429, {"Retry-After": "0.4"}, b"")) as (url, seen), ChatServer(url) as server:
        server.chat({})
        assert seen[1][0] - seen[0][0] >= 0.4
    with scripted((429, {"Retry-After": "9999"}, b"")) as (url, seen), ChatServer(url, most_wait=0.05) as server:
        server.chat({})
        assert len(seen) == 2
    assert retry_after("3") == 3 and retry_after(None) is None and retry_after("soon") is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_nobody_there_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with ChatServer(f"http://127.0.0.1:{port}", tries=2) as server, pytest.raises(ServerError, match="running"):
        server.models()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "", "http://host:port"])
def test_an_address_that_is_none(url):
    with pytest.raises(ConfigError, match="is not an http"):
        ChatServer(url)


def test_the_key_travels_and_v1_may_be_written(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with scripted((200, {}, {"data": [{"id": "m"}]})) as (url, seen), ChatServer(f"{url}/v1/") as server:
        assert server.models() == [{"id": "m"}]
        assert seen[0][1]["Authorization"] == "Bearer secret"


def test_pictures_travel_as_they_are():
    import numpy as np
    from PIL import Image

    from plumbline.data.images import load_image

    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    told = as_server_content([{"type": "image", "image": Image.fromarray(pixels)}, {"type": "text", "text": "?"}])
    assert told[1] == {"type": "text", "text": "?"} and as_server_content("x") == "x"
    assert (np.asarray(load_image(told[0]["image_url"]["url"])) == pixels).all()
