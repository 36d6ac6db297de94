"""Order of objects in the answer: top to bottom, then left to right."""

from __future__ import annotations

from collections.abc import Sequence

from plumbline.geometry.shapes import Shape

Points = Sequence[Sequence[float]]


def _top_left(points: Points) -> tuple[float, float]:
    """(y, x) of a box's corner, or of the first vertex of any other kind in canonical order."""
    x, y = points[0]
    return y, x


def _center(points: Points) -> tuple[float, float]:
    """(y, x) of the middle of the bounds."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(ys) + max(ys)) / 2, (min(xs) + max(xs)) / 2


_KEYS = {"top_left": _top_left, "center": _center}
ORDERINGS: tuple[str, ...] = tuple(_KEYS)


def order_objects(shapes: Sequence[Shape], policy: str = "top_left") -> list[int]:
    """Indices of `shapes` in the order of `policy`; equal places keep the given order.

    Raises ValueError for an unknown policy.
    """
    return order_points([shape.canonical_points() for shape in shapes], policy)


def order_points(points: Sequence[Points], policy: str = "top_left") -> list[int]:
    """The same for shapes given by their canonical points."""
    if policy not in _KEYS:
        raise ValueError(f"unknown object ordering {policy!r}: one of {', '.join(ORDERINGS)}")
    keys = list(map(_KEYS[policy], points))
    return sorted(range(len(points)), key=keys.__getitem__)


def last_in_order(shapes: Sequence[Shape], policy: str = "top_left") -> int:
    """`order_objects(shapes, policy)[-1]` without the order of the others."""
    if policy == "top_left":
        keys = [_first_vertex(shape) for shape in shapes]
    else:
        keys = [_KEYS[policy](shape.canonical_points()) for shape in shapes]
    return max(range(len(shapes)), key=lambda index: (keys[index], index))


def _first_vertex(shape: Shape) -> tuple[float, float]:
    """(y, x) of the first canonical vertex, which is a smallest one of the corners, or of a line's two ends."""
    if shape.kind == "bbox_2d":
        x1, y1, _, _ = shape.bounds()
        return y1, x1
    points = shape.points.tolist()
    return min((y, x) for x, y in ((points[0], points[-1]) if shape.kind == "line" else points))
