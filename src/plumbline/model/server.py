"""A patient client of one OpenAI-compatible server: bounded tries, Retry-After, no answer half read.

vLLM, SGLang, `swift deploy` and others speak this protocol. Whoever asks gets the decoded answer or a `ServerError`
with a kind; how many questions are under way at once is the caller's business (a `ChatServer` may be shared by
threads).
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

from plumbline.errors import EXIT_FAILURE, Problem, UserError
from plumbline.model.address import checked_url

if TYPE_CHECKING:
    from PIL import Image

KEY_VARIABLE = "OPENAI_API_KEY"
MAX_ANSWER_BYTES = 512 * 1024 * 1024
_FIRST_WAIT = 0.5
_BUSY = re.compile(
    r"overload|busy|rate.?limit|too many|capacity|unavailable|try again|timed? ?out|\b(?:429|503)\b", re.IGNORECASE
)
"""What servers say that have too much to do."""
_TRANSIENT = frozenset((408, 409, 425, 429, 500, 502, 503, 504))


class ServerError(UserError):
    """A server gave no usable answer.

    kind: `unreachable` (no connection), `timeout`, `reset` (the answer broke off), `http_<status>`, `damaged` (not the
    requested JSON), or, where it answers HTTP 200 with an error in the place of choices, `overloaded` or
    `refused`. is_transient: whether asking again may help; wait: seconds that the server wants;
    overloaded: whether it has too much to do.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, url: str, kind: str, what: str, *, is_transient: bool, wait: float | None = None):
        self.kind = kind
        self.is_transient = is_transient
        self.wait = wait
        super().__init__(Problem(url, what, _ADVICE.get(kind, "")))

    @property
    def overloaded(self) -> bool:
        return self.kind in ("http_429", "http_503", "timeout", "overloaded")


_ADVICE = {
    "unreachable": "is the server running, and is this its address?",
    "http_401": f"set {KEY_VARIABLE}",
    "http_404": "give the address without /v1 behind it, and a model that the server has",
}


class ChatServer:
    """The server at `url` (with or without `/v1`). A context manager.

    timeout: seconds without a byte from the server; tries: for one question; most_wait: seconds between two of them,
    also where the server wants more. on_retry hears of every failure that is tried again.
    Raises ConfigError for an address that is not http(s).
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 300.0,
        tries: int = 5,
        most_wait: float = 60.0,
        on_retry: Callable[[ServerError], Any] = lambda error: None,
    ):
        self.url = checked_url(url, "server")
        self.tries = tries
        self.most_wait = most_wait
        self._on_retry = on_retry
        key = os.environ.get(KEY_VARIABLE)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self._client = httpx.Client(
            base_url=f"{self.url}/v1/",
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=limits,
            follow_redirects=False,
        )

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def models(self) -> list[dict[str, Any]]:
        """What the server can run: `id` and what else it reports of each."""
        found = self._patiently("GET", "models", None).get("data")
        if not isinstance(found, list) or not all(isinstance(model, dict) and "id" in model for model in found):
            raise ServerError(self.url, "damaged", "its list of models has no `data` with ids", is_transient=False)
        return found

    def chosen(self, model: str | None, key: str) -> str:
        """`model`, or the only one where it is None; UserError under `key` for one that is not there."""
        names = [str(entry["id"]) for entry in self.models()]
        if model is None and len(names) == 1:
            return names[0]
        if model is None or model not in names:
            what = f"has no model {model!r}" if model else "has several models"
            raise UserError(Problem(self.url, what, f"{key}: one of {', '.join(names)}"))
        return model

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a chat completion."""
        answer = self._patiently("POST", "chat/completions", body)
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ServerError(self.url, "damaged", "its answer has no choices", is_transient=False)
        return answer

    def _patiently(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        for attempt in range(1, self.tries + 1):
            try:
                return self._once(method, path, body)
            except ServerError as error:
                if not error.is_transient or attempt == self.tries:
                    raise
                self._on_retry(error)
                # A share of chance keeps many clients of one server from coming back all at once.
                wait = _FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                time.sleep(min(self.most_wait, wait if error.wait is None else error.wait))
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            with self._client.stream(method, path, json=body) as response:
                content = _read(response)
                status, headers = response.status_code, response.headers
        except httpx.TimeoutException as error:
            what = f"no answer in time ({type(error).__name__})"
            raise ServerError(self.url, "timeout", what, is_transient=True) from error
        except httpx.ConnectError as error:
            raise ServerError(self.url, "unreachable", f"cannot be reached: {error}", is_transient=True) from error
        except httpx.HTTPError as error:
            what = f"the answer broke off: {error or type(error).__name__}"
            raise ServerError(self.url, "reset", what, is_transient=True) from error
        if status != 200:
            what = f"HTTP {status}: {_error_text(content)}"
            wait = retry_after(headers.get("retry-after"))
            raise ServerError(self.url, f"http_{status}", what, is_transient=status in _TRANSIENT, wait=wait)
        try:
            answer = httpx.Response(200, content=content).json()
        except ValueError as error:
            raise ServerError(self.url, "damaged", f"answers no JSON: {error}", is_transient=True) from error
        if not isinstance(answer, dict):
            raise ServerError(self.url, "damaged", "answers JSON that is not an object", is_transient=False)
        if (said := _own_words(answer)) and not answer.get("choices"):
            is_busy = bool(_BUSY.search(said))
            kind = "overloaded" if is_busy else "refused"
            raise ServerError(self.url, kind, f"answers with an error: {said}", is_transient=is_busy)
        return answer


def as_server_content(content: str | Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    """A message's content as servers take it: pictures (8-bit RGB, under `image`) become PNG data URLs."""
    if isinstance(content, str):
        return content
    return [
        {"type": "image_url", "image_url": {"url": _png_url(part["image"])}} if part["type"] == "image" else dict(part)
        for part in content
    ]


def _png_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as seconds or as a date; None where it says nothing."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if value.strip().replace(".", "", 1).isdigit() else _until(value)
    except (ValueError, TypeError):
        return None


def _until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return max(0.0, (moment - datetime.now(moment.tzinfo or UTC)).total_seconds())


def _read(response: httpx.Response) -> bytes:
    """The whole body; an answer that never ends is not read to its end."""
    content = bytearray()
    for part in response.iter_bytes():
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            raise httpx.ReadError(f"more than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)


def _own_words(answer: Mapping[str, Any]) -> str:
    """The error that an answer of HTTP 200 holds, with its code, on one line; empty where there is none."""
    error = answer.get("error")
    if not error:
        return ""
    parts = [error.get("message"), error.get("code")] if isinstance(error, Mapping) else [error, answer.get("code")]
    reported = [str(part) for part in parts if part not in (None, "")] or [json.dumps(error, ensure_ascii=False)]
    return _error_text(" ".join(reported).encode("utf-8", "replace"))


def _error_text(content: bytes) -> str:
    """The beginning of an error's body, on one line."""
    return " ".join(content[:400].decode("utf-8", "replace").split())[:300]
