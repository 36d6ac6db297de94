"""Checks of a server before work is given to it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from PIL import Image

from plumbline.errors import EXIT_FAILURE, EXIT_OK, UserError
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Reply, Request
from plumbline.infer.served import OpenAIEngine
from plumbline.model.server import ChatServer
from plumbline.storage.text import printable

PASSED, FAILED = "ok", "failed"
QUESTION = "用一句话描述这张图片。"


@dataclass(frozen=True)
class ServerFinding:
    """One check. state: `ok`, `failed`, or `info` for what is neither good nor bad."""

    name: str
    state: str
    what: str


def doctor(url: str, model: str | None, *, as_json: bool) -> int:
    """Print the findings; 0, or 1 when a check failed."""
    findings = examine(url, model)
    if as_json:
        print(json.dumps({"server": url, "checks": [asdict(finding) for finding in findings]}, ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{finding.state:7} {finding.name}: {printable(finding.what)}")
    return EXIT_FAILURE if any(finding.state == FAILED for finding in findings) else EXIT_OK


def examine(url: str, model: str | None = None) -> list[ServerFinding]:
    """The checks, until one fails on which the rest depend. Raises ConfigError for an address that is none."""
    with ChatServer(url, timeout=60.0, tries=2) as server:
        try:
            models = server.models()
        except UserError as error:
            return [ServerFinding("models", FAILED, str(error.problems[0]))]
    findings = [ServerFinding("models", PASSED, ", ".join(str(entry["id"]) for entry in models))]
    for entry in models:
        if isinstance(entry.get("max_model_len"), int):
            findings.append(ServerFinding("length limit", "info", f"{entry['id']}: {entry['max_model_len']:,} tokens"))
    try:
        engine = OpenAIEngine([url], model, most_at_once=1, timeout=60.0, tries=2)
    except UserError as error:
        return [*findings, ServerFinding("model", FAILED, str(error.problems[0]))]
    red, blue = (_ask(engine, name, Image.new("RGB", (256, 256), name)) for name in ("red", "blue"))
    findings.append(_sees(red, blue))
    if not red.error:
        again = _ask(engine, "again", Image.new("RGB", (256, 256), "red"))
        same = not again.error and again.text == red.text
        what = "the same greedy reply twice" if same else f"{red.text[:60]!r}, then {again.text[:60]!r}"
        findings.append(ServerFinding("determinism", PASSED if same else FAILED, what))
    return findings


def _ask(engine: OpenAIEngine, key: str, picture: Image.Image) -> Reply:
    (reply,) = engine.stream([Request(key, (picture,), "", QUESTION, Sampling(32))])
    return reply


def _sees(red: Reply, blue: Reply) -> ServerFinding:
    """Whether pictures are taken, and whether they make a difference."""
    name = "pictures"
    if red.error or blue.error:
        return ServerFinding(name, FAILED, f"{red.error or blue.error}: {red.detail or blue.detail}")
    if red.text == blue.text:
        return ServerFinding(name, "info", f"a red and a blue one get the same reply: {red.text[:80]!r}")
    return ServerFinding(name, PASSED, "a red and a blue one get different replies")
