"""Case 19: URLs of records, from hosts that lie, redirect, change their address, send too much or too slowly."""

import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from plumbline.data import fetch
from plumbline.data.fetch import check_url, fetch_picture, is_public
from plumbline.data.images import ImagePolicy, load_image
from plumbline.errors import DataError


def png():
    stream = io.BytesIO()
    Image.fromarray(np.full((3, 5, 3), 77, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self.path)
        port = self.server.server_port
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/").replace("PORT", str(port)))
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(307)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        status, length, parts = {
            "/good.png": (200, None, [png()]),
            "/large": (200, None, [b"x" * 4096] * 50),
            "/said_large": (200, 10**12, []),
            "/short": (200, 5000, [b"x" * 10]),
            "/drip": (200, 10**5, [b"x"] * 200),
            "/text": (200, None, [b"this is no picture"]),
        }.get(self.path, (404, 0, []))
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        try:
            for part in parts:
                self.wfile.write(part)
                self.wfile.flush()
                if self.path == "/drip":
                    time.sleep(0.02)
        except OSError:
            self.close_connection = True

    def log_message(self, *args):
        """Silent."""


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen = []
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def reachable(server, monkeypatch):
    """(address of the server under an allowed name, the allowed names); loopback counts as public."""
    resolve = socket.getaddrinfo

    def known(host, port, *args, **kwargs):
        return resolve("127.0.0.1" if host.endswith(".example") else host, port, *args, **kwargs)

    monkeypatch.setattr(fetch.socket, "getaddrinfo", known)
    monkeypatch.setattr(fetch, "is_public", lambda address: True)
    name = f"photos.example:{server.server_port}"
    return f"http://{name}", (name,)


def test_off_by_default_and_told_by_the_key(server):
    with pytest.raises(DataError, match="image_url_allow"):
        ImagePolicy().reference(f"http://127.0.0.1:{server.server_port}/good.png", ".")
    assert server.seen == []


def test_a_picture_of_an_allowed_host_is_read(reachable):
    address, allowed = reachable
    policy = ImagePolicy(url_allow=allowed)
    assert load_image(policy.reference(f"{address}/good.png", ".")).size == (5, 3)
    with pytest.raises(DataError, match="is not a picture"):
        load_image(policy.reference(f"{address}/text", "."))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "ff02::1",
        "192.0.2.1",
        "2001:db8::1",
    ],
)
def test_addresses_of_the_inside_are_not_public(address):
    assert not is_public(address)


def test_addresses_of_the_outside_are():
    assert is_public("93.184.215.14") and is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_an_allowed_name_with_an_inner_address_is_not_connected_to(server, monkeypatch):
    """Rebinding: whatever the name said before, the address of this connection is judged."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda host, *a, **k: resolve("127.0.0.1", *a, **k))
    name = f"photos.example:{server.server_port}"
    with pytest.raises(DataError, match=r"127\.0\.0\.1 is not public"):
        fetch_picture(f"http://{name}/good.png", (name,))
    assert server.seen == []


def test_every_hop_must_be_allowed(server, reachable):
    address, allowed = reachable
    for target in (
        "http://other.example:PORT/good.png",
        "http://127.0.0.1:PORT/good.png",
        "file:///etc/passwd",
        "ftp://x/y",
    ):
        with pytest.raises(DataError, match=r"not allowed|not an http"):
            fetch_picture(f"{address}/to/{target}", allowed)
    assert all(path.startswith("/to/") for path in server.seen)
    assert fetch_picture(f"{address}/to/http://photos.example:PORT/good.png", allowed) == png()
    with pytest.raises(DataError, match="more than 3 redirects"):
        fetch_picture(f"{address}/loop", allowed)
    assert server.seen.count("/loop") == 4


def test_size_time_and_truth_of_the_answer(reachable, monkeypatch):
    address, allowed = reachable
    monkeypatch.setattr(fetch, "MAX_BYTES", 100_000)
    monkeypatch.setattr(fetch, "MAX_SECONDS", 0.5)
    for path, what in (
        ("large", "more than the 100,000 bytes"),
        ("said_large", "are more than the 100,000 allowed"),
        ("short", "broke off"),
        ("drip", "not finished after"),
        ("nowhere", "HTTP 404"),
    ):
        with pytest.raises(DataError, match=what):
            fetch_picture(f"{address}/{path}", allowed)


@pytest.mark.parametrize(
    "url",
    [
        "http://good.example@evil.example/x",
        "http://user:pw@good.example/x",
        "http://good.example:8080/x",
        "http:///x",
        "http://good.example.evil.example/x",
        "https://good.example:99999/x",
        "http://[::1/x",
        "ftp://good.example/x",
        "http://good.example\\@evil.example/x",
    ],
)
def test_names_that_only_look_allowed(url):
    with pytest.raises(DataError):
        check_url(url, ("good.example",))
    check_url("https://GOOD.example/x", ("Good.example",))
