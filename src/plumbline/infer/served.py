"""Models behind OpenAI-compatible servers: as many requests under way as each of them bears.

How many that is, is not known, so it is measured: a server that answers is given one more after every round, one that
is overloaded (429, 503, time-out) half as many (additive increase, multiplicative decrease). A request that one
server fails on goes to another before it is given up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from plumbline.batch.lengths import PixelLimits, resize_to_grid
from plumbline.errors import ConfigError, Problem
from plumbline.infer.engine import Reply, Request
from plumbline.model.server import ChatServer, ServerError, as_server_content
from plumbline.storage.objects import JsonObject

FIRST_AT_ONCE = 4
MOST_AT_ONCE = 64


class OpenAIEngine:
    """The model `model` (None: the only one) behind the servers at `urls`.

    limits: by which pictures are brought onto the patch grid, as training does it; without them the server's own
    processor decides. most_at_once: requests under way per server at most; timeout: seconds without a byte from a
    server; tries: of one request per server.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None = None,
        *,
        limits: PixelLimits | None = None,
        most_at_once: int = MOST_AT_ONCE,
        timeout: float = 300.0,
        tries: int = 4,
    ):
        if not urls:
            raise ConfigError(Problem("--server", "no address is given", "e.g. http://localhost:8000"))
        self._lanes = [_Lane(url, most_at_once, timeout, tries) for url in urls]
        self._limits = limits
        self._free = threading.Condition()
        self.model = _common_model(self._lanes, model)
        self._pool = ThreadPoolExecutor(most_at_once * len(self._lanes), thread_name_prefix="request")

    @property
    def identity(self) -> str:
        return f"served {self.model} {self._limits}"

    @property
    def at_once(self) -> dict[str, int]:
        """How many requests each server is given at a time now."""
        return {lane.server.url: int(lane.limit) for lane in self._lanes}

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Replies as the servers give them."""
        futures = [self._pool.submit(self._answer, request) for request in requests]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    def _answer(self, request: Request) -> Reply:
        try:
            body = self._body(request)
        except (ValueError, OSError) as error:
            return Reply(request.key, error="image", detail=str(error))
        failed: list[_Lane] = []
        while True:
            lane = self._take(failed)
            try:
                reply = _read_reply(request.key, lane.server.chat(body))
                lane.did_well()
                return reply
            except ServerError as error:
                failed.append(lane)
                if not error.is_transient or len(failed) == len(self._lanes):
                    detail = "; ".join(problem.what for problem in error.problems)
                    return Reply(request.key, error=error.kind, detail=detail, is_transient=error.is_transient)
            finally:
                self._give_back(lane)

    def _take(self, failed: Sequence[_Lane]) -> _Lane:
        """The least busy server that has a place and has not failed on this request; waits for one."""
        with self._free:
            while True:
                able = [lane for lane in self._lanes if lane not in failed and lane.under_way < int(lane.limit)]
                if able:
                    lane = min(able, key=lambda lane: lane.under_way / lane.limit)
                    lane.under_way += 1
                    return lane
                self._free.wait()

    def _give_back(self, lane: _Lane) -> None:
        with self._free:
            lane.under_way -= 1
            self._free.notify_all()

    def _body(self, request: Request) -> JsonObject:
        """The request as servers take it; guidance and pictures come first, so that a prefix can be shared."""
        limits = self._limits
        pictures = iter([image if limits is None else resize_to_grid(image, limits) for image in request.images])
        sent = []
        for message in request.messages():
            content = message["content"]
            if not isinstance(content, str):
                filled = [{**part, "image": next(pictures)} if part["type"] == "image" else part for part in content]
                content = as_server_content(filled)
            sent.append({**message, "content": content})
        sampling = request.sampling
        body: JsonObject = {
            "model": self.model,
            "messages": sent,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature > 0:
            body["top_p"] = sampling.top_p
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if request.schema is not None:
            schema = {"name": "reply", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


class _Lane:
    """A server and how much it bears."""

    def __init__(self, url: str, most: int, timeout: float, tries: int):
        self.server = ChatServer(url, timeout=timeout, tries=tries, on_retry=self._had_trouble)
        self.under_way = 0
        self.limit = float(min(FIRST_AT_ONCE, most))
        self._most = most

    def did_well(self) -> None:
        """One more after as many answers as are under way."""
        self.limit = min(self._most, self.limit + 1.0 / self.limit)

    def _had_trouble(self, error: ServerError) -> None:
        if error.overloaded:
            self.limit = max(1.0, self.limit / 2)


def _common_model(lanes: Sequence[_Lane], model: str | None) -> str:
    """The model's name on every server; UserError where one does not have it."""
    for lane in lanes:
        model = lane.server.chosen(model, "--served-model")
    assert model is not None
    return model


def _read_reply(key: str, answer: JsonObject) -> Reply:
    choice = answer["choices"][0]
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        return Reply(key, error="damaged", detail="the answer holds no text", is_transient=True)
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(
        key, text, tokens=tokens if isinstance(tokens, int) else 0, is_finished=choice.get("finish_reason") != "length"
    )
