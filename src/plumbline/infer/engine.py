"""The engine protocol: a request goes in, a reply comes out, and an error is a reply too.

Engines: `local` (transformers in this process), `served` (OpenAI-compatible servers), `replay` (recorded replies).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from plumbline.data.messages import ask_messages, with_images
from plumbline.infer.config import Sampling
from plumbline.storage.objects import JsonObject

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Request:
    """One question, about pictures (8-bit RGB) or about text alone.

    Attributes:
        key: Comes back with the reply.
        images: Of all turns, in order.
        system: System text; empty for none.
        user: The question; all pictures come before it.
        sampling: How tokens are chosen.
        schema: JSON schema that the reply must keep, for engines that can bind it.
        turns: A chat of its own that ends with the user's turn, in place of `system` and `user`; its image items are
            `images`, in order.
    """

    key: str
    images: tuple[Image.Image, ...]
    system: str
    user: str
    sampling: Sampling = field(default_factory=Sampling)
    schema: Mapping[str, Any] | None = None
    turns: tuple[Mapping[str, Any], ...] = ()

    def messages(self) -> list[JsonObject]:
        """The turns as the chat template takes them, each picture under a name that no template reads."""
        names = [f"image {number}" for number in range(len(self.images))]
        if self.turns:
            return list(with_images({"messages": self.turns}, names)["messages"])
        return list(ask_messages(names, self.system, self.user)["messages"])


@dataclass(frozen=True)
class Reply:
    """What came back.

    error: empty, or the kind of failure (`image`, `memory`, `timeout`, `http_429`, ...), then `text` is empty. detail:
    more about it, or why a reply was stopped. tokens: number of new tokens, the end mark included. is_finished: the
    model ended the reply itself. is_transient: asking again may help.
    """

    key: str
    text: str = ""
    tokens: int = 0
    is_finished: bool = True
    error: str = ""
    detail: str = ""
    is_transient: bool = False


class Engine(Protocol):
    """Anything that answers requests. identity: what its replies depend on besides the request, as text."""

    @property
    def identity(self) -> str: ...

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply per request, as they are ready, in any order. Never raises for a single request's sake."""
        ...


def request_id(identity: str, request: Request) -> str:
    """What a reply depends on, as 32 hex digits: model, prompt, pictures, sampling. Not the key: equal photos occur."""
    digest = hashlib.blake2b(digest_size=16)
    content: list[Any] = [identity, request.system, request.user, asdict(request.sampling), request.schema]
    if request.turns:
        content.append(request.messages())
    digest.update(json.dumps(content, sort_keys=True, ensure_ascii=True).encode())
    for image in request.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
