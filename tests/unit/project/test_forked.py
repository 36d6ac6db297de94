"""`forked_map`: the order of the items, errors and killed processes as exceptions, nothing left running."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from plumbline.forked import forked_map


def test_results_come_in_the_order_of_the_items_from_other_processes() -> None:
    results = list(forked_map(lambda n: (n * n, os.getpid()), range(50), 2))
    assert [square for square, _ in results] == [n * n for n in range(50)]
    assert os.getpid() not in {pid for _, pid in results}
    assert set(forked_map(lambda _: os.getpid(), range(3), 1)) == {os.getpid()}


def test_only_a_few_items_are_taken_ahead() -> None:
    taken: list[int] = []
    results = forked_map(abs, (taken.append(n) or n for n in range(1000)), 2)
    assert next(results) == 0
    assert len(taken) < 20
    results.close()
    assert not multiprocessing.active_children()


def test_an_error_in_a_process_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        list(forked_map(lambda n: 1 // n, [1, 0, 1], 2))
    assert not multiprocessing.active_children()


def test_a_killed_process_is_an_error_and_no_hang() -> None:
    with pytest.raises(BrokenProcessPool):
        list(forked_map(lambda n: os.kill(os.getpid(), signal.SIGKILL), [1, 2], 2))
