"""One vocabulary of user errors: where it is, what is wrong, what to do.

A mistake of the user is a `UserError`: the command line prints it without a traceback and leaves with its exit code.
Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_FINDINGS = 3
EXIT_GATE = 4
"""A gate refused: an edit of the guidance, a threshold that cannot be certified."""
EXIT_BUDGET = 5
"""Stopped because a budget (of errors, calls, tokens, money) is spent; the same command goes on."""
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: `file:line:col`, a key path such as `custom.train_jsonl`, or a file path.
        what: The fact, with the offending value.
        fix: What to do about it; empty when `what` already says so.
    """

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        tail = f"\n    -> {self.fix}" if self.fix else ""
        return f"{self.where}: {self.what}{tail}"


class UserError(Exception):
    """One or several problems that the user can mend.

    Attributes:
        problems: Where, what, and what to do.
        exit_code: What the process returns.
    """

    exit_code = EXIT_USAGE

    def __init__(self, problems: Problem | Iterable[Problem]):
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[tuple[Problem, ...]]]:
        """Problems survive the way from another process."""
        return type(self), (self.problems,)


class ConfigError(UserError):
    """A configuration that cannot be used: wrong key, type, range, or an impossible combination."""


class DataError(UserError):
    """A record or a file of records that breaks the contract (exit 2: nothing was started)."""


class OutputError(UserError):
    """A file that cannot be written: a full disk, no permission."""

    exit_code = EXIT_FAILURE


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MISPLACED = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENOENT})


def disk_error(error: OSError, path: str | Path | None = None) -> OutputError | None:
    """What a full or read-only disk, a missing permission or an impossible path is to the user.

    path: the file that was being written, where that is known. Returns None for another kind of error: a bug of ours.
    """
    if error.errno not in _FULL | _FORBIDDEN | _MISPLACED:
        return None
    where = str(path or error.filename or "a file")
    verb = "cannot be written" if path else "cannot be read or written"
    if error.errno in _FULL:
        fix = "make room, or name a place on another disk; what was written before is whole"
    elif error.errno in _FORBIDDEN:
        fix = "name a place that you may write to, or change its permissions"
    else:
        fix = "name another path"
    return OutputError(Problem(where, f"{verb}: {error.strerror}", fix))


@contextmanager
def writing(path: str | Path, *, unless_named: bool = False) -> Iterator[None]:
    """Inside the block a file is written: what the disk refuses becomes an OutputError that names `path`.

    unless_named: name the file that the system names, where it does.
    """
    try:
        yield
    except OSError as error:
        named = unless_named and error.filename
        if (refused := disk_error(error, None if named else path)) is None:
            raise
        raise refused from error


class DamagedFileError(UserError):
    """A file that should be whole and is not: a checkpoint, an output, a cache."""

    exit_code = EXIT_FAILURE
