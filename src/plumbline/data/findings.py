"""One thing that is wrong with a line of JSONL: the reader raises it, `data check` lists it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from plumbline.errors import DataError, Problem


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` names the rule; `line` is 1-based (0: the file itself); `where` is the place in the record."""

    code: str
    file: str
    line: int
    where: str
    what: str
    fix: str = ""

    def problem(self) -> Problem:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return Problem(f"{place}: {self.where}" if self.where else place, self.what, self.fix)

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)


class Findings(list[Finding]):
    """The findings of one line, in the order in which they were met."""

    def __init__(self, file: str, line: int):
        super().__init__()
        self.file = file
        self.line = line

    def add(self, code: str, where: str, what: str, fix: str = "") -> None:
        self.append(Finding(code, self.file, self.line, where, what, fix))


def data_error(findings: Iterable[Finding]) -> DataError:
    """All findings as one error of the user."""
    return DataError([finding.problem() for finding in findings])
