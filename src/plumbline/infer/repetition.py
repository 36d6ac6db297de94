"""Replies that have begun to repeat themselves and would go on until the token limit."""

from __future__ import annotations

from collections.abc import Sequence

MOST_PERIOD = 64
LEAST_REPEATS = 6
LEAST_TOKENS = 96


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether the end of `tokens` is one block over and over: at least 6 times and over at least 96 tokens.

    Blocks of up to 64 tokens; time is linear in 64 times the longest stretch looked at.
    """
    for period in range(1, MOST_PERIOD + 1):
        stretch = max(LEAST_TOKENS, LEAST_REPEATS * period)
        if len(tokens) < stretch or tokens[-1] != tokens[-1 - period]:
            continue
        tail = tokens[-stretch:]
        if tail[period:] == tail[:-period]:
            return True
    return False
