"""The engine protocol: a request goes in, a reply comes out, and an error is a reply too.

Engines: `local` (transformers in this process), `served` (OpenAI-compatible servers), `replay` (recorded replies).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from plumbline.infer.config import Sampling

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Request:
    """One question, about pictures (8-bit RGB) or about text alone. `key` comes back with the reply.

    schema: JSON schema that the reply must keep, for engines that can bind it.
    """

    key: str
    images: tuple[Image.Image, ...]
    system: str
    user: str
    sampling: Sampling = field(default_factory=Sampling)
    schema: Mapping[str, Any] | None = None


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
    content = [identity, request.system, request.user, asdict(request.sampling), request.schema]
    digest.update(json.dumps(content, sort_keys=True, ensure_ascii=True).encode())
    for image in request.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
