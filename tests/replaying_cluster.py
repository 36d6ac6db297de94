"""What processes of a cluster load in tests: things to ask about, and engines that answer in known ways."""

import os
from dataclasses import dataclass
from pathlib import Path

from plumbline.infer.engine import Reply, Request


@dataclass(frozen=True)
class Thing:
    key: str


class Notes:
    def ask(self, item):
        return Request(item.key, (), "system", "user")

    def row(self, item, request, reply):
        status = f"error:{reply.error}" if reply.error else "ok"
        return {"key": item.key, "status": status, "text": reply.text}


class Mortal:
    """Its process dies once, in the middle of a window; `grave`: a file that tells that it has happened."""

    identity = "mortal"

    def __init__(self, grave: Path):
        self.grave = grave

    def stream(self, requests):
        for number, request in enumerate(requests):
            if number == 5 and not self.grave.exists():
                self.grave.touch()
                os._exit(9)
            yield Reply(request.key, f"said {request.key}")


class Refusing:
    identity = "refusing"

    def stream(self, requests):
        for request in requests:
            yield Reply(request.key, error="http_500", detail="it is down", is_transient=True)
