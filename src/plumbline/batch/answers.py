"""Tokens of a dense answer from its objects, without writing it.

With a tokenizer that sets every digit apart, an answer costs the digits of its coordinates plus what stands between
them, and that depends on each object's kind, number of points and description alone. Neither the order of the vertices
nor that of the objects changes the sum, except for which object comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from plumbline.augment.plan import Told
from plumbline.batch.tokens import TokenCounter
from plumbline.data.answer import object_text, rounded_numbers
from plumbline.data.messages import control_text
from plumbline.data.record import DataObject
from plumbline.geometry.order import first_vertex, last_in_order

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
        numbers = rounded_numbers(np.concatenate([shape.points for shape in shapes]), width, height, emit_norm)
        return self._sum(parts, last_in_order(shapes, ordering), numbers)

    def count_told(self, told: Told, width: int, height: int, emit_norm: str, ordering: str) -> int | None:
        """`count` of what a plan tells, without making its objects where a look at their tops says which comes last."""
        if not told.items or not self._counter.cuts_at_digits:
            return None
        places = [item for item in told.items if not isinstance(item, DataObject)]
        made = [item for item in told.items if isinstance(item, DataObject)]
        tops = told.group.tops(places) + [first_vertex(item.shape)[0] for item in made]
        lowest = max(tops)
        if ordering != "top_left" or tops.count(lowest) > 1:
            return self.count(told.on_canvas(width, height).objects, width, height, emit_norm, ordering)
        objects, forms = told.record.objects, told.group.forms
        parts = [(*forms[place], objects[place].desc) for place in places]
        parts += [(item.shape.kind, len(item.shape.points), item.desc) for item in made]
        points = told.group.told_points(places) + [item.shape.points for item in made]
        return self._sum(parts, tops.index(lowest), rounded_numbers(np.concatenate(points), width, height, emit_norm))

    def _sum(self, parts: Sequence[tuple[str, int, str]], last: int, numbers: NDArray[np.float64]) -> int | None:
        """Tokens of objects given as (kind, number of points, desc). numbers: all their coordinates as written."""
        total = self._opening + _digits_up_to(len(parts))
        for index, part in enumerate(parts):
            tokens = self._between(*part, index == last)
            if tokens is None:
                return None
            total += tokens
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
