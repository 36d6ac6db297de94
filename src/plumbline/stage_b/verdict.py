"""A reply to a verdict. Whatever is not exactly a verdict and its reason is no verdict, and never a pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

PASS = "通过"
FAIL = "不通过"
MAX_REASON = 1000
"""Characters of a reason; a longer one has lost its thread."""

VERDICT_OF_LABEL = {"pass": PASS, "fail": FAIL}
_REASON = re.compile(r"理由[ \u3000]*[:：]")
_REPEATS = re.compile(r"(.{1,64}?)\1{7,}", re.DOTALL)
_SPACES = " \t\u3000"


@dataclass(frozen=True)
class Verdict:
    """What a reply says. verdict: None where it cannot be read, then `problems` tells why and `reason` is empty."""

    verdict: str | None
    reason: str = ""
    problems: tuple[str, ...] = ()

    @property
    def format_ok(self) -> bool:
        return self.verdict is not None


def read_verdict(text: str) -> Verdict:
    """Read a reply of two lines: `通过` or `不通过`, then `理由: ...` (either colon).

    Forgiven: spaces around, a full stop behind the verdict, blank lines behind the reason. Never raises.
    """
    lines = [line.strip(_SPACES) for line in text.replace("\r\n", "\n").rstrip().split("\n")]
    verdict = re.sub(r"[.。．]$", "", lines[0]).rstrip(_SPACES)
    problems = tuple(_problems(verdict, lines[1:]))
    if problems:
        return Verdict(None, problems=problems)
    return Verdict(verdict, _REASON.sub("", lines[1], count=1).strip(_SPACES))


def _problems(verdict: str, rest: list[str]) -> list[str]:
    if verdict not in (PASS, FAIL):
        return [f"the first line is not {PASS} or {FAIL}"]
    if not rest or not _REASON.match(rest[0]):
        return ["the second line is not 理由: ..."]
    if len(rest) > 1:
        return ["there is text after the reason"]
    return _reason_problems(verdict, _REASON.sub("", rest[0], count=1).strip(_SPACES))


def _reason_problems(verdict: str, reason: str) -> list[str]:
    problems = []
    if not reason:
        problems.append("the reason is empty")
    if len(reason) > MAX_REASON:
        problems.append(f"the reason is longer than {MAX_REASON} characters")
    if _REASON.search(reason):
        problems.append("there are several reasons")
    if _REPEATS.search(reason[:MAX_REASON]):
        problems.append("the reason repeats itself")
    if verdict == PASS and FAIL in reason:  # a pass must be unmistakable
        problems.append(f"the reason of a {PASS} says {FAIL}")
    return problems
