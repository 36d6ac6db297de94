"""Tokens of a dense answer from its objects, without writing it.

With a tokenizer that sets every digit apart, an answer costs the digits of its coordinates plus what stands between
them, and that depends on each object's kind, number of points and description alone. Neither the order of the vertices
nor that of the objects changes the sum, except for which object comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from plumbline.augment.plan import Told
from plumbline.batch.tokens import TokenCounter
from plumbline.data.answer import object_text, rounded_numbers
from plumbline.data.messages import control_text
from plumbline.data.record import DataObject
from plumbline.geometry.order import last_in_order
from plumbline.geometry.shapes import Points

END = "<|im_end|>\n"
_TENS = np.array([10.0**power for power in range(1, 8)])


@lru_cache(1024)
def _digits_up_to(count: int) -> int:
    """Digits of the numbers from 1 to `count`."""
    return sum(len(str(number)) for number in range(1, count + 1))


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
        parts = [(item.shape.kind, len(item.shape.points), item.desc) for item in objects]
        digits = _digits(np.concatenate([shape.points for shape in shapes]), width, height, emit_norm)
        return self._sum(parts, int(digits.sum()), lambda: last_in_order(shapes, ordering))

    def count_told(self, told: Told, width: int, height: int, emit_norm: str, ordering: str) -> int | None:
        """`count` of what a plan tells, without making its objects unless which one comes last makes a difference."""
        if not told.items or not self._counter.cuts_at_digits:
            return None
        group, objects = told.group, told.record.objects
        places = [item for item in told.items if not isinstance(item, DataObject)]
        made = [item for item in told.items if isinstance(item, DataObject)]
        parts = [(*group.forms[place], objects[place].desc) for place in places]
        if len(places) == len(group):
            digits = _digits(group.points, width, height, emit_norm)
            total = int(digits.sum())
            if group.upright:
                total -= int(digits[group.boxes].sum()) // 2  # of the four corners of a box two are told
        else:
            total = int(_digits(group.told_points(places), width, height, emit_norm).sum()) if places else 0
        for item in made:
            parts.append((item.shape.kind, len(item.shape.points), item.desc))
            total += int(_digits(item.shape.points, width, height, emit_norm).sum())

        def last() -> int:
            shapes = [*map(group.shape, places), *(item.shape for item in made)]
            return last_in_order(shapes, ordering)

        return self._sum(parts, total, last)

    def _sum(self, parts: Sequence[tuple[str, int, str]], digits: int, last: Callable[[], int]) -> int | None:
        """Tokens of objects given as (kind, number of points, desc). digits: of all their coordinates."""
        total = self._opening + _digits_up_to(len(parts)) + digits
        ends = set()
        for part in parts:
            tokens = self._between(*part)
            if tokens is None:
                return None
            total += tokens[0]
            ends.add(tokens[1])
        if len(ends) == 1:
            return total + ends.pop()
        tokens = self._between(*parts[last()])
        assert tokens is not None
        return total + tokens[1]

    def _count_between(self, kind: str, points: int, desc: str) -> tuple[int, int] | None:
        """Tokens from an object's number to the next one's without the digits of its coordinates; how many more or
        fewer there are when the answer ends behind it.
        """
        if control_text(desc):
            return None
        numbers = [0] * (2 * points)
        told = f'0": {{{object_text(kind, numbers, desc)}}}'
        followed = self._counter.count(f'{told}, "object_0') - len(numbers) - 2
        return followed, self._counter.count(f"{told}}}{END}") - len(numbers) - 1 - followed


def _digits(points: Points, width: int, height: int, emit_norm: str) -> NDArray[np.intp]:
    """Digits of each coordinate as the answer writes it, [N, 2]."""
    numbers = rounded_numbers(points, width, height, emit_norm)
    return np.searchsorted(_TENS, numbers, side="right") + 1
