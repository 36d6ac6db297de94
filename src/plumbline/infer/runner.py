"""The resumable runner: items -> requests -> replies -> rows, appended as they come.

Captions, Stage-A and Stage-B rollouts share it. An item is identified by its key, never by its content. Every item is
sent at least once and has exactly one row; a row that is an error leaves when the run is resumed, and its item is
sent again. While the engine works on one window of items, the next one is prepared.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from plumbline.errors import EXIT_BUDGET, EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK, DataError, Problem, UserError
from plumbline.infer.engine import Engine, Reply, Request, request_id
from plumbline.storage.files import write_atomically, write_lines
from plumbline.storage.locks import locked
from plumbline.storage.objects import JsonObject, read_json_object
from plumbline.storage.rows import RowFile, Statuses, drop_rows, read_heads, read_rows, set_torn_line_aside

OK, INVALID, ERROR = "ok", "invalid", "error:"
IDENTITY_SUFFIX = ".run.json"
QUARANTINE_SUFFIX = ".quarantine.jsonl"
JUDGED_AFTER = 20
"""Rows of a run before its share of errors says anything."""


class Item(Protocol):
    """Anything with an identity."""

    @property
    def key(self) -> str: ...


ItemT = TypeVar("ItemT", bound=Item)
_AskedT = TypeVar("_AskedT", bound=Item, contravariant=True)


class Work(Protocol[_AskedT]):
    """What a kind of run does with an item."""

    def ask(self, item: _AskedT) -> Request:
        """The question, under the item's key; DataError for an item without a possible request. Called in a thread."""
        ...

    def row(self, item: _AskedT, request: Request | None, reply: Reply) -> Mapping[str, Any]:
        """The row, with `key` and `status`. request: None for an item without one."""
        ...


@dataclass(frozen=True)
class RunOptions:
    """How a run goes.

    output: JSONL of the rows; resume: go on where it ends, else start over. window: items prepared at a time; tries:
    how often an item is sent when the failure may pass. max_error_rate: share of rows that may be errors before
    the run stops, None for any. shard: (number from 1, of how many): only these items, into a file of their own.
    replies: file in which replies are kept by content, so that the same question is never sent twice. most: items sent
    before the run stops, None for all. ends: hears of every item and says when the run is over its budget.
    """

    output: Path
    resume: bool = True
    window: int = 32
    tries: int = 2
    max_error_rate: float | None = None
    shard: tuple[int, int] | None = None
    replies: Path | None = None
    most: int | None = None
    ends: Callable[[Answered], bool] | None = None

    @property
    def rows_path(self) -> Path:
        """Where this run's rows go."""
        return self.output if self.shard is None else shard_path(self.output, *self.shard)

    def own(self, items: Sequence[ItemT]) -> Sequence[ItemT]:
        """The items of this run's shard."""
        return items if self.shard is None else items[self.shard[0] - 1 :: self.shard[1]]


@dataclass
class RunReport:
    """What a run did. statuses: of every row of the output, earlier runs included; written: rows of this run.

    unreadable: the most common reason, where there are replies and none of them could be read. needs_all: a reply that
    cannot be read is a finding.
    """

    items: int
    output: Path
    statuses: Counter[str]
    written: int = 0
    cached: int = 0
    errors_now: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    over_budget: bool = False
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unreadable: str = ""
    needs_all: bool = False

    @property
    def errors(self) -> int:
        """Items without a reply."""
        return sum(count for status, count in self.statuses.items() if status.startswith(ERROR))

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.over_budget:
            return EXIT_BUDGET
        is_lacking = self.errors or self.unreadable or (self.needs_all and self.statuses[INVALID])
        return EXIT_FINDINGS if is_lacking else EXIT_OK

    def as_dict(self) -> JsonObject:
        content = asdict(self) | {"output": str(self.output), "statuses": dict(self.statuses), "errors": self.errors}
        return content | {"seconds": round(self.seconds, 3), "exit_code": self.exit_code}


SHOWN_FAILURES = 5

OnRow = Callable[[Any, "Request | None", Mapping[str, Any]], None]


class Answered(NamedTuple):
    """An item with its row. request: None where there is none, or another process sent it.

    reason: why there is no reply, or empty; tokens: of the reply; is_known: it came out of the cache.
    """

    item: Any
    request: Request | None
    row: Mapping[str, Any]
    reason: str = ""
    tokens: int = 0
    is_known: bool = False


Runner = Callable[["Work[Any]", Callable[[], Engine], RunOptions, Iterable[Any]], Generator[Answered, None, None]]
"""(work, engine, options, items) -> their rows, as they come."""


def run_work(
    items: Sequence[ItemT],
    work: Work[ItemT],
    engine: Callable[[], Engine],
    options: RunOptions,
    identity: Mapping[str, Any],
    on_row: OnRow | None = None,
    progress: Callable[[int], None] = lambda count: None,
    runner: Runner | None = None,
) -> RunReport:
    """Bring the output to one row per item; an item that fails costs itself alone.

    items: of all shards; engine: made when there is something to ask; identity: what makes rows comparable. on_row:
    called before a row is written: a run that is stopped in between does it again. progress: called with the number
    of rows written each time. runner: who asks; this process where None. An interrupt ends the run between rows, and
    says so in the report.
    Raises UserError when another process writes to the output, or its rows were made in another way.
    """
    path, mine = options.rows_path, options.own(items)
    report = RunReport(len(mine), path, Counter())
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(locked(path))
        done = _prepare(path, options, identity, report)
        if options.shard is None:
            _adopt_shards(options.output, identity, done, report)
        report.statuses = Counter(status for item in mine if (status := done.find(item.key)) is not None)
        waiting = len(mine) - report.statuses.total()
        if waiting and options.most != 0:
            todo = islice((item for item in mine if done.find(item.key) is None), options.most)
            rows = stack.enter_context(RowFile(path))
            answered = stack.enter_context(closing((runner or in_process)(work, engine, options, todo)))
            _write_rows(answered, rows, options, report, on_row, progress)
        report.over_budget |= options.most is not None and options.most < waiting and not report.interrupted
        _write_quarantine(path, report)
    if report.statuses[INVALID] and not report.statuses[OK]:
        report.unreadable = _why_unreadable(path, {item.key for item in mine})
    report.seconds = time.perf_counter() - began
    return report


def _why_unreadable(path: Path, keys: Set[str]) -> str:
    """What most of the replies that cannot be read have wrong with them."""
    invalid = (row for row in read_rows(path) if row["status"] == INVALID and row["key"] in keys)
    (why, count), *_ = Counter(map(_first_problem, invalid)).most_common(1)
    return f"{why} ({count} times)"


def _first_problem(row: Mapping[str, Any]) -> str:
    result = row.get("result")
    problems = row.get("problems") or ([result["reason"]] if isinstance(result, Mapping) else [])
    return str(problems[0]) if problems else "no reason is known"


def _write_rows(
    answered: Iterator[Answered],
    rows: RowFile,
    options: RunOptions,
    report: RunReport,
    on_row: OnRow | None,
    progress: Callable[[int], None],
) -> None:
    most = options.max_error_rate
    try:
        for found in answered:
            if on_row is not None:
                on_row(found.item, found.request, found.row)
            rows.append(found.row)
            report.written += 1
            report.cached += found.is_known
            report.statuses[found.row["status"]] += 1
            if found.row["status"].startswith(ERROR):
                report.errors_now += 1
                if len(report.failures) <= SHOWN_FAILURES:
                    report.failures.append(f"{found.item.key}: {found.reason}")
                if most is not None and report.written >= JUDGED_AFTER and report.errors_now > most * report.written:
                    report.over_budget = True
            progress(1)
            if options.ends is not None and options.ends(found):
                report.over_budget |= report.statuses.total() < report.items
            if report.over_budget:
                return
    except KeyboardInterrupt:
        report.interrupted = True


def in_process(
    work: Work[Any], engine: Callable[[], Engine], options: RunOptions, todo: Iterable[Any]
) -> Generator[Answered, None, None]:
    """The runner of this process: window by window, the next one prepared meanwhile."""
    windows = _windows(todo, options.window)
    with ExitStack() as stack:
        cache = stack.enter_context(ReplyCache(options.replies)) if options.replies else None
        asking = Asking(work, engine(), options.tries, cache)
        ahead = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="prepare"))
        upcoming = ahead.submit(asking.prepared, next(windows, ()))
        try:
            while window := upcoming.result():
                upcoming = ahead.submit(asking.prepared, next(windows, ()))
                yield from asking.answers(window)
        finally:
            upcoming.cancel()


@dataclass
class Asking(Generic[ItemT]):
    """From items to rows. tries: how often an item is sent when the failure may pass; cache: known replies."""

    work: Work[ItemT]
    engine: Engine
    tries: int
    cache: ReplyCache | None = None

    def prepared(self, items: Sequence[ItemT]) -> list[tuple[ItemT, Request | DataError]]:
        """The items with their questions, or why there is none."""
        return [(item, self._request_of(item)) for item in items]

    def _request_of(self, item: ItemT) -> Request | DataError:
        try:
            return self.work.ask(item)
        except DataError as error:
            return error

    def answers(self, window: Sequence[tuple[ItemT, Request | DataError]]) -> Iterator[Answered]:
        """One per item, in any order."""
        pending: dict[str, tuple[ItemT, Request, str]] = {}
        for item, request in window:
            if isinstance(request, DataError):
                yield self._answered(item, None, Reply(item.key, error="image", detail=str(request)))
                continue
            known, name = None, ""
            if self.cache is not None:
                name = request_id(self.engine.identity, request)
                known = self.cache.find(name, request.key)
            if known is None:
                pending[item.key] = item, request, name
            else:
                yield self._answered(item, request, known)._replace(is_known=True)
        for attempt in range(1, self.tries + 1):
            again = {}
            for reply in self.engine.stream([request for _, request, _ in pending.values()]):
                item, request, name = pending[reply.key]
                if reply.error and reply.is_transient and attempt < self.tries:
                    again[reply.key] = pending[reply.key]
                    continue
                if self.cache is not None and not reply.error:
                    self.cache.keep(name, reply)
                yield self._answered(item, request, reply)
            if not again:
                return
            pending = again

    def _answered(self, item: ItemT, request: Request | None, reply: Reply) -> Answered:
        return Answered(item, request, self.work.row(item, request, reply), reply.detail or reply.error, reply.tokens)


def _windows(items: Iterable[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    remaining = iter(items)
    while window := list(islice(remaining, size)):
        yield window


# ------------------------------------------------------------------------------------------------------- the folder
def identity_path(output: Path) -> Path:
    """The small file next to an output that records what made it."""
    return output.with_name(output.name + IDENTITY_SUFFIX)


def shard_path(output: Path, number: int, of: int) -> Path:
    """Where one shard of an output goes."""
    return output.with_name(f"{output.stem}.shard-{number}-of-{of}{output.suffix}")


def check_ours(output: Path) -> None:
    """Raise UserError for a file that no run wrote: it is neither continued nor replaced."""
    if output.exists() and not identity_path(output).is_file():
        what = f"exists, and no {identity_path(output).name} records what made it"
        raise UserError(Problem(str(output), what, "name another --output, or remove it"))


def check_identity(output: Path, identity: Mapping[str, Any]) -> None:
    """Raise UserError when the rows that are there were made in another way."""
    before, now = read_json_object(identity_path(output)), json.loads(json.dumps(identity))
    if different := sorted(name for name in now if before.get(name) != now[name]):
        what = f"was made with another {', '.join(different)}"
        raise UserError(Problem(str(output), what, "name another --output, or start over with --no-resume"))


def _prepare(path: Path, options: RunOptions, identity: Mapping[str, Any], report: RunReport) -> Statuses:
    """Start over, or mend what is there: a torn last line is set aside, rows that are errors leave. What stays."""
    check_ours(path)
    if not options.resume:
        path.unlink(missing_ok=True)
    done = Statuses()
    if path.exists():
        check_identity(path, identity)
        if torn := set_torn_line_aside(path):
            report.warnings.append(f"{path}: its last line was cut short; it is set aside in {torn.name}")
        has_errors = False
        for key, status in read_heads(path):
            if status.startswith(ERROR):
                has_errors = True
            else:
                done.keep(key, status)
        if has_errors:
            drop_rows(path, lambda status: status.startswith(ERROR))
    write_atomically(identity_path(path), json.dumps(identity, ensure_ascii=False, indent=1) + "\n")
    return done


def _adopt_shards(output: Path, identity: Mapping[str, Any], done: Statuses, report: RunReport) -> None:
    """Take over the rows of finished shards that lie next to the output."""
    for path in sorted(output.parent.glob(f"{output.stem}.shard-*-of-*{output.suffix}")):
        check_identity(path, identity)
        with locked(path), RowFile(output) as rows:
            taken = 0
            for row in read_rows(path):
                if done.find(row["key"]) is None and not row["status"].startswith(ERROR):
                    rows.append(row)
                    done.keep(row["key"], row["status"])
                    taken += 1
        if taken:
            report.warnings.append(f"{taken} rows taken over from {path.name}")


def _write_quarantine(path: Path, report: RunReport) -> None:
    """The rows without a reply, in a file of their own; none where there are none."""
    quarantine = path.with_name(path.name + QUARANTINE_SUFFIX)
    if report.errors:
        rows: Iterable[JsonObject] = (row for row in read_rows(path) if row["status"].startswith(ERROR))
        write_lines(quarantine, (json.dumps(row, ensure_ascii=False) for row in rows))
    else:
        quarantine.unlink(missing_ok=True)


class ReplyCache:
    """Replies by what they depend on (`engine.request_id`), in an SQLite file. A context manager.

    Several processes may share it. Errors are not kept.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS replies (id TEXT PRIMARY KEY, reply BLOB NOT NULL)")
        except sqlite3.DatabaseError as error:
            what = f"is no file of replies: {error}"
            raise UserError(Problem(str(path), what, "delete it, or name another file")) from error

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def find(self, name: str, key: str) -> Reply | None:
        """The reply to an equal request (`name`: its id), under `key`."""
        found = self._database.execute("SELECT reply FROM replies WHERE id = ?", (name,)).fetchone()
        if found is None:
            return None
        text, tokens, is_finished, detail = msgspec.json.decode(found[0])
        return Reply(key, text, tokens, is_finished, detail=detail)

    def keep(self, name: str, reply: Reply) -> None:
        """Keep a reply."""
        content = msgspec.json.encode([reply.text, reply.tokens, reply.is_finished, reply.detail])
        self._database.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (name, content))
