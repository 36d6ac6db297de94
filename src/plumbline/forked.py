"""Work on many small items in every core, in order, with a bounded number of items on their way."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4
"""Items per process that are handed over before their results are taken."""
_WORK: list[Callable[[Any], Any]] = []


def cores() -> int:
    """Cores for this process: those it may use, shared with the other ranks of the same machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def forked_map(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """`function` of every item, in the items' order; in this process when `processes` is below 2.

    The processes are forked, so that what `function` refers to is shared and not copied; call it before any thread is
    started. Raises what `function` raises, and BrokenProcessPool when a process is killed.
    """
    if processes < 2:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_take, initargs=(function,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_work, item))
            if len(waiting) > _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def paused_collection() -> Iterator[None]:
    """No search for cycles meanwhile: reading many small values that leave none, it costs a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _take(function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the terminal is the parent's to answer
    _WORK[:] = [function]
    # What was forked stays, and small items leave no cycles: a search for them at the usual pace costs 7 %.
    gc.freeze()
    gc.set_threshold(100_000)


def _work(item: Any) -> Any:
    return _WORK[0](item)
