"""The order in which objects are told: top to bottom, then left to right."""

from __future__ import annotations

from collections.abc import Sequence

from plumbline.geometry.shapes import Shape


def _top_left(shape: Shape) -> tuple[float, float]:
    """(y, x) of a box's corner, or of the first vertex of any other kind in canonical order."""
    x, y = shape.canonical().points[0].tolist()
    return y, x


def _center(shape: Shape) -> tuple[float, float]:
    """(y, x) of the middle of the bounds."""
    x1, y1, x2, y2 = shape.bounds()
    return (y1 + y2) / 2, (x1 + x2) / 2


_KEYS = {"top_left": _top_left, "center": _center}
ORDERINGS: tuple[str, ...] = tuple(_KEYS)


def order_objects(shapes: Sequence[Shape], policy: str = "top_left") -> list[int]:
    """Indices of `shapes` in the order of `policy`; equal places keep the given order.

    Raises ValueError for an unknown policy.
    """
    if policy not in _KEYS:
        raise ValueError(f"unknown object ordering {policy!r}: one of {', '.join(ORDERINGS)}")
    keys = [_KEYS[policy](shape) for shape in shapes]
    return sorted(range(len(shapes)), key=keys.__getitem__)
