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
_OLD_VERDICT = re.compile(r"verdict[ \u3000]*[:：]", re.IGNORECASE)
_OLD_REASON = re.compile(r"reason[ \u3000]*[:：]", re.IGNORECASE)
_OLD_CONFIDENCE = re.compile(r"confidence[ \u3000]*[:：][ \u3000]*\d+(?:\.\d+)?[ \u3000]*%?", re.IGNORECASE)
_SAYS_FAIL = re.compile(r"\bfail\b|verdict[ \u3000]*[:：]", re.IGNORECASE)
_REPEATS = re.compile(r"(.{1,64}?)\1{7,}", re.DOTALL)
_SPACES = " \t\u3000"


@dataclass(frozen=True)
class Verdict:
    """What a reply says. verdict: None where it cannot be read, then `problems` says why and `reason` is empty."""

    verdict: str | None
    reason: str = ""
    problems: tuple[str, ...] = ()

    @property
    def format_ok(self) -> bool:
        return self.verdict is not None


def read_verdict(text: str) -> Verdict:
    """Read a reply of two lines: `通过` or `不通过`, then `理由: ...` (either colon).

    Forgiven: spaces around, a full stop behind the verdict, blank lines behind the reason. Replies of earlier versions
    are read too: `Verdict: ...`, `Reason: ...` and, if it is there, `Confidence: ...` on a line each. Never raises.
    """
    lines = [line.strip(_SPACES) for line in text.replace("\r\n", "\n").rstrip().split("\n")]
    if _OLD_VERDICT.match(lines[0]):
        return _read_old(lines)
    verdict = re.sub(r"[.。．]$", "", lines[0]).rstrip(_SPACES)
    problems = tuple(_problems(verdict, lines[1:]))
    if problems:
        return Verdict(None, problems=problems)
    return Verdict(verdict, _REASON.sub("", lines[1], count=1).strip(_SPACES))


def _read_old(lines: list[str]) -> Verdict:
    """A reply in the form of earlier versions; its confidence is looked at and left."""
    said = _OLD_VERDICT.sub("", lines[0], count=1).strip(_SPACES)
    verdict = VERDICT_OF_LABEL.get(said.lower(), said)
    reason = _OLD_REASON.sub("", lines[1], count=1).strip(_SPACES) if len(lines) > 1 else ""
    problems = list(_old_problems(verdict, lines, reason))
    return Verdict(None, problems=tuple(problems)) if problems else Verdict(verdict, reason)


def _old_problems(verdict: str, lines: list[str], reason: str) -> list[str]:
    if verdict not in (PASS, FAIL):
        return [f"the verdict is not {PASS}, {FAIL}, pass or fail"]
    if len(lines) < 2 or not _OLD_REASON.match(lines[1]):
        return ["the second line is not Reason: ..."]
    if len(lines) > 3 or (len(lines) == 3 and not _OLD_CONFIDENCE.fullmatch(lines[2])):
        return ["there is text after the reason"]
    if verdict == PASS and _SAYS_FAIL.search(reason):
        return [f"the reason of a {PASS} says fail"]
    return _reason_problems(verdict, reason)


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
