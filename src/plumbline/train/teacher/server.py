"""A teacher behind an OpenAI-compatible server, which returns its most likely tokens for every token of a sample.

The server is given the whole chat, answer included, and `prompt_logprobs`, as vLLM, SGLang and `swift deploy` take it.
Its answer is used only where its tokens are ours: the supervised token of every place must be among those that the
server names there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from plumbline.errors import Problem, UserError
from plumbline.model.server import ChatServer
from plumbline.train.identity import Chat
from plumbline.train.objective.top_tokens import TopTokens

AT_ONCE = 16


class TeacherServer:
    """The teacher at `url`. model: its name there, None for the only one; top: tokens requested at every place."""

    def __init__(self, url: str, model: str | None, top: int):
        self.top = top
        self._server = ChatServer(url)
        self.model = self._server.chosen(model, "rlhf.teacher_model")
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="teacher")

    def top_tokens(self, chats: Sequence[Chat]) -> TopTokens:
        """The teacher's most likely tokens at the supervised places of a batch, in its order.

        Raises ServerError when the server fails for good, UserError when it reads other tokens than we do.
        """
        returned = [place for found in self._pool.map(self._ask, chats) for place in found]
        width = max((len(place) for place in returned), default=1)
        ids = torch.full((len(returned), width), TopTokens.NONE, dtype=torch.long)
        log_probs = torch.full((len(returned), width), -math.inf)
        for row, place in enumerate(returned):
            ids[row, : len(place)] = torch.tensor(list(place))
            log_probs[row, : len(place)] = torch.tensor(list(place.values()))
        return TopTokens(ids, log_probs)

    def _ask(self, chat: Chat) -> list[dict[int, float]]:
        """Token -> log-probability at each supervised place of a sample."""
        answer = self._server.chat(
            {
                "model": self.model,
                "messages": chat.messages,
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": self.top,
                "add_generation_prompt": False,
            }
        )
        returned = answer.get("prompt_logprobs")
        if not isinstance(returned, list):
            what = "gives no prompt_logprobs"
            raise UserError(Problem(self._server.url, what, "use vLLM, or another server that knows them"))
        return [self._place(returned, place, token) for place, token in zip(chat.places, chat.ids, strict=True)]

    def _place(self, returned: list[Any], place: int, token: int) -> dict[int, float]:
        try:
            named = {int(name): float(entry["logprob"]) for name, entry in returned[place].items()}
        except (IndexError, AttributeError, KeyError, TypeError, ValueError):
            named = {}
        if token not in named or any(math.isnan(value) or value > 1e-3 for value in named.values()):
            what = f"reads other tokens than training: token {place} of {len(returned)} is not {token} there"
            fix = "serve a model of the same family, with its own chat template and the same limits of pixels"
            raise UserError(Problem(self._server.url, what, fix))
        return named
