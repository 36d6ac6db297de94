"""Addresses of servers, checked before anything is sent to them."""

from __future__ import annotations

from urllib.parse import urlsplit

from plumbline.errors import ConfigError, Problem


def checked_url(url: str, key: str) -> str:
    """The server's address without `/v1`; ConfigError under `key` when it is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(Problem(key, f"{url!r} is not an http(s) address", "e.g. http://localhost:8000"))
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
