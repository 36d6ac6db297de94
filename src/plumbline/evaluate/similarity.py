"""How alike two shapes are: IoU of areas, agreement of lines within a tolerance; 0 between an area and a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from plumbline.geometry import Box, Polyline, Shape

Matrix = NDArray[np.float64]

LEAST = 0.1
"""A similarity of areas that cannot reach this is given as 0."""
TUBE = 0.01
"""Half the width of the tube around a line, as a share of the picture's diagonal."""


def similarities(truth: Sequence[Shape], found: Sequence[Shape], diagonal: float) -> Matrix:
    """Similarity in [0, 1] of each true shape with each found one.

    Two areas (boxes, quads, polygons, in any mix) have the IoU of what they enclose; an outline that crosses itself
    encloses what its parts do. Of two lines it is the F-measure of two shares: the length of the found line within
    `TUBE * diagonal` of the true one, and the other way round. Which way a line or an outline is drawn does not matter.

    Args:
        truth: T shapes, in pixels.
        found: F shapes, in pixels.
        diagonal: Of the picture, in pixels.

    Returns:
        float64 [T, F].
    """
    values = np.zeros((len(truth), len(found)))
    if not values.size:
        return values
    bounds_t, bounds_f = _bounds(truth), _bounds(found)
    common = _common(bounds_t, bounds_f)
    boxes = _of_kind(truth, Box)[:, None] & _of_kind(found, Box)[None, :]
    lines_t, lines_f = _of_kind(truth, Polyline), _of_kind(found, Polyline)
    if boxes.any():
        values[boxes] = _box_iou(bounds_t, bounds_f, common)[boxes]
    areas = ~lines_t[:, None] & ~lines_f[None, :] & ~boxes & (common > 0)
    if areas.any():
        values[areas] = _polygon_iou(_Candidates.of(truth, found, areas, _polygons), common[areas])
    tube = TUBE * diagonal
    lines = lines_t[:, None] & lines_f[None, :] & _near(bounds_t, bounds_f, tube)
    if lines.any():
        values[lines] = _line_agreement(_Candidates.of(truth, found, lines, _lines), tube)
    return values


class _Candidates(NamedTuple):
    """The shapes that take part in some pairs, each once, and which of them each pair is made of."""

    truth: NDArray[np.object_]
    found: NDArray[np.object_]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    @classmethod
    def of(
        cls,
        truth: Sequence[Shape],
        found: Sequence[Shape],
        wanted: NDArray[np.bool_],
        make: Callable[[Sequence[Shape]], NDArray[np.object_]],
    ) -> _Candidates:
        """wanted: bool [T, F]; make: shapes to shapely's."""
        rows, columns = np.nonzero(wanted)
        parts_t, at_t = np.unique(rows, return_inverse=True)
        parts_f, at_f = np.unique(columns, return_inverse=True)
        first = make([truth[index] for index in parts_t.tolist()])
        return cls(first, make([found[index] for index in parts_f.tolist()]), at_t, at_f)


def _of_kind(shapes: Sequence[Shape], kind: type[Shape]) -> NDArray[np.bool_]:
    return np.array([isinstance(shape, kind) for shape in shapes], dtype=np.bool_)


def _bounds(shapes: Sequence[Shape]) -> Matrix:
    """float64 [N, 4] of (x1, y1, x2, y2)."""
    return np.array([shape.bounds() for shape in shapes], dtype=np.float64)


def _common(truth: Matrix, found: Matrix) -> Matrix:
    """Area that the boxes around two shapes share, in square pixels [T, F]."""
    low = np.maximum(truth[:, None, :2], found[None, :, :2])
    high = np.minimum(truth[:, None, 2:], found[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2))


def _box_iou(truth: Matrix, found: Matrix, common: Matrix) -> Matrix:
    size_t, size_f = ((side[:, 2:] - side[:, :2]).prod(axis=1) for side in (truth, found))
    union = size_t[:, None] + size_f[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _near(truth: Matrix, found: Matrix, reach: float) -> NDArray[np.bool_]:
    """Whether the boxes around two shapes are within `reach` of each other."""
    apart = np.maximum(truth[:, None, :2] - found[None, :, 2:], found[None, :, :2] - truth[:, None, 2:])
    return np.asarray((apart <= reach).all(axis=2), dtype=np.bool_)


def _polygon_iou(sides: _Candidates, most: Matrix) -> Matrix:
    """most: what the boxes around the two have in common, in square pixels: no more can the shapes."""
    truth, found, rows, columns = sides
    area_t, area_f = shapely.area(truth)[rows], shapely.area(found)[columns]
    able = most >= LEAST * np.maximum(area_t, area_f)
    common = np.zeros_like(most)
    common[able] = shapely.area(shapely.intersection(truth[rows[able]], found[columns[able]]))
    union = area_t + area_f - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _polygons(shapes: Sequence[Shape]) -> NDArray[np.object_]:
    rings = [_corners(shape) for shape in shapes]
    indices = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    made = shapely.polygons(shapely.linearrings(np.concatenate(rings), indices=indices))
    is_crossing = ~shapely.is_valid(made)
    if is_crossing.any():
        made[is_crossing] = shapely.make_valid(made[is_crossing])
    return made


def _corners(shape: Shape) -> Matrix:
    if isinstance(shape, Box):
        x1, y1, x2, y2 = shape.bounds()
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    return shape.points


def _line_agreement(sides: _Candidates, tube: float) -> Matrix:
    truth, found, rows, columns = sides
    covered = _share_inside(truth[rows], shapely.buffer(found, tube, quad_segs=4)[columns])
    right = _share_inside(found[columns], shapely.buffer(truth, tube, quad_segs=4)[rows])
    both = covered + right
    return np.divide(2 * covered * right, both, out=np.zeros_like(both), where=both > 0)


def _lines(shapes: Sequence[Shape]) -> NDArray[np.object_]:
    indices = np.repeat(np.arange(len(shapes)), [len(shape.points) for shape in shapes])
    return shapely.linestrings(np.concatenate([shape.points for shape in shapes]), indices=indices)


def _share_inside(lines: NDArray[np.object_], tubes: NDArray[np.object_]) -> Matrix:
    """Share of each line's length that lies in its tube; a line without length has none."""
    inside, length = shapely.length(shapely.intersection(lines, tubes)), shapely.length(lines)
    return np.divide(inside, length, out=np.zeros_like(length), where=length > 0)
