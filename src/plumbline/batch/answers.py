"""Tokens of a dense answer from its objects, without writing it.

With a tokenizer that sets every digit apart, an answer costs the digits of its coordinates plus what stands between
them, and that depends on each object's kind, number of points and description alone. Neither the order of the vertices
nor that of the objects changes the sum, except for which object comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from plumbline.batch.tokens import TokenCounter
from plumbline.data.answer import object_text, rounded_numbers
from plumbline.data.messages import control_text
from plumbline.data.record import DataObject
from plumbline.geometry.order import last_in_order

END = "<|im_end|>\n"
_TENS = np.array([10.0**power for power in range(1, 8)])


class AnswerCounter:
    """Counts `encode_answer(...)` and the end mark behind it."""

    def __init__(self, counter: TokenCounter):
        self._counter = counter
        self._between = lru_cache(65536)(self._count_between)
        self._opening = counter.count('{"object_0') - 1

    def count(
        self, objects: Sequence[DataObject], width: int, height: int, emit_norm: str, ordering: str
    ) -> int | None:
        """Tokens of the answer; None where only writing it can tell (no objects, control text, another tokenizer)."""
        if not objects or not self._counter.cuts_at_digits:
            return None
        shapes = [item.shape for item in objects]
        last = last_in_order(shapes, ordering)
        total = self._opening + sum(len(str(number)) for number in range(1, len(objects) + 1))
        for index, item in enumerate(objects):
            tokens = self._between(item.shape.kind, len(item.shape.points), item.desc, index == last)
            if tokens is None:
                return None
            total += tokens
        numbers = rounded_numbers(np.concatenate([shape.points for shape in shapes]), width, height, emit_norm)
        return total + numbers.size + int(np.searchsorted(_TENS, numbers.ravel(), side="right").sum())

    def _count_between(self, kind: str, points: int, desc: str, is_last: bool) -> int | None:
        """Tokens from an object's number to the next one's, or to the end, without the digits of its coordinates."""
        if control_text(desc):
            return None
        numbers = [0] * (2 * points)
        told = f'0": {{{object_text(kind, numbers, desc)}}}'
        if is_last:
            return self._counter.count(f"{told}}}{END}") - len(numbers) - 1
        return self._counter.count(f'{told}, "object_0') - len(numbers) - 2
