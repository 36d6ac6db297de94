"""Pictures behind URLs, from hosts that were allowed by name and never from inside the network.

A record is untrusted: its URL may lead to a machine that only this one can reach, directly, by a redirect, or by a name
whose address changes between the check and the connection. So every hop must be on the list, and the address is checked
on the very connection that is used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Collection
from urllib.parse import urljoin, urlsplit

from plumbline.errors import DataError, Problem
from plumbline.storage.text import shown

MAX_BYTES = 24 * 1024 * 1024
MAX_SECONDS = 30.0
CONNECT_SECONDS = 10.0
MAX_REDIRECTS = 3
KEY = "custom.image_url_allow"
_CHUNK = 1 << 16


def fetch_picture(url: str, allowed: Collection[str]) -> bytes:
    """The body behind an http(s) URL of an allowed host.

    allowed: `host`, or `host:port` for another port than 80 and 443. Raises DataError naming the URL: a host or a
    redirect that is not allowed, an address that is not public, too many redirects, too many bytes, too slow, not 200.
    """
    deadline = time.monotonic() + MAX_SECONDS
    here = url
    for _ in range(MAX_REDIRECTS + 1):
        check_url(here, allowed)
        try:
            found = _get(here, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _failed(url, f"cannot be fetched: {error or type(error).__name__}") from error
        if isinstance(found, bytes):
            return found
        here = urljoin(here, found)
    raise _failed(url, f"leads through more than {MAX_REDIRECTS} redirects")


def check_url(url: str, allowed: Collection[str]) -> None:
    """Raise DataError unless the URL's scheme, host and port are allowed; nothing is sent."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise _failed(url, f"is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise _failed(url, "is not an http(s) URL")
    if parts.username is not None or parts.password is not None:
        raise DataError(Problem(shown(url, 200), "carries a user's name or password", f"take it out; hosts: `{KEY}`"))
    usual = port in (None, 80 if parts.scheme == "http" else 443)
    if (host if usual else f"{host}:{port}") not in {name.lower() for name in allowed}:
        what = f"is a URL of a host that is not allowed ({host if usual else f'{host}:{port}'})"
        raise DataError(Problem(shown(url, 200), what, f"list it under `{KEY}`, for inference with --image-url-allow"))


def is_public(address: str) -> bool:
    """Whether an IP address lies outside: not private, loopback, link-local, reserved or multicast."""
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    parsed = mapped or parsed
    return parsed.is_global and not parsed.is_multicast


def _get(url: str, deadline: float) -> bytes | str:
    """The body, or where a redirect leads."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = _connection(parts.scheme, parts.hostname, parts.port)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "plumbline", "Accept": "image/*"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308):
            target = response.getheader("Location")
            if not target:
                raise ValueError("a redirect that leads nowhere")
            return target
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}")
        return _body(response, deadline)
    finally:
        connection.close()


def _body(response: http.client.HTTPResponse, deadline: float) -> bytes:
    stated = response.getheader("Content-Length")
    if stated is not None and stated.isdecimal() and int(stated) > MAX_BYTES:
        raise ValueError(f"{int(stated):,} bytes are more than the {MAX_BYTES:,} allowed")
    content = bytearray()
    # read1 gives what is there: a server that sends a byte now and then cannot hold a read open for ever.
    while part := response.read1(_CHUNK):
        content += part
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than the {MAX_BYTES:,} bytes allowed")
        if time.monotonic() > deadline:
            raise ValueError(f"not finished after {MAX_SECONDS:.0f} s")
    if response.length:
        raise ValueError(f"the answer broke off {response.length:,} bytes before its end")
    return bytes(content)


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    """A connection to a checked address; the environment's proxies are not used."""
    if scheme == "https":
        secure = http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS)
        raw = _judged_socket(host, port or 443)
        secure.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
        return secure
    plain = http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
    plain.sock = _judged_socket(host, port or 80)
    return plain


def _judged_socket(host: str, port: int) -> socket.socket:
    """Connected to a public address of `host`; the checked address is the one connected to."""
    refused: list[str] = []
    last: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not is_public(str(address[0])):
            refused.append(str(address[0]))
            continue
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(CONNECT_SECONDS)
            connected.connect(address)
            return connected
        except OSError as error:
            connected.close()
            last = error
    if last is not None:
        raise last
    raise ValueError(f"its address {', '.join(refused) or 'is unknown'} is not public")


def _failed(url: str, what: str) -> DataError:
    return DataError(Problem(shown(url, 200), what, "download the picture and give its path"))
