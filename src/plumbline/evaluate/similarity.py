"""How alike two shapes are: IoU of areas, agreement of lines within a tolerance; 0 between an area and a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from plumbline.geometry import Box, Polyline, Shape

Matrix = NDArray[np.float64]

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
    _put_boxes(values, bounds_t, bounds_f)
    is_line_t, is_line_f = (np.array([isinstance(each, Polyline) for each in side]) for side in (truth, found))
    is_box_t, is_box_f = (np.array([isinstance(each, Box) for each in side]) for side in (truth, found))
    tube = TUBE * diagonal
    lines = is_line_t[:, None] & is_line_f[None, :]
    boxes = is_box_t[:, None] & is_box_f[None, :]
    areas = ~is_line_t[:, None] & ~is_line_f[None, :] & ~boxes & (values > 0)
    values[~boxes] = 0.0
    rows, columns = np.nonzero(areas)
    if len(rows):
        values[rows, columns] = _polygon_iou(*_picked(truth, found, rows, columns))
    rows, columns = np.nonzero(lines & _near(bounds_t, bounds_f, tube))
    if len(rows):
        values[rows, columns] = _line_agreement(*_picked(truth, found, rows, columns), tube)
    return values


def _picked(
    truth: Sequence[Shape], found: Sequence[Shape], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> tuple[list[Shape], list[Shape]]:
    """The shapes of every pair."""
    return [truth[row] for row in rows.tolist()], [found[column] for column in columns.tolist()]


def _bounds(shapes: Sequence[Shape]) -> Matrix:
    """float64 [N, 4] of (x1, y1, x2, y2)."""
    return np.array([shape.bounds() for shape in shapes], dtype=np.float64)


def _put_boxes(values: Matrix, truth: Matrix, found: Matrix) -> None:
    """IoU of the boxes around all shapes, in place: right for two boxes, above 0 wherever areas can meet."""
    low = np.maximum(truth[:, None, :2], found[None, :, :2])
    high = np.minimum(truth[:, None, 2:], found[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    size_t, size_f = ((side[:, 2:] - side[:, :2]).prod(axis=1) for side in (truth, found))
    union = size_t[:, None] + size_f[None, :] - common
    np.divide(common, union, out=values, where=union > 0)


def _near(truth: Matrix, found: Matrix, reach: float) -> NDArray[np.bool_]:
    """Whether the boxes around two shapes are within `reach` of each other."""
    apart = np.maximum(truth[:, None, :2] - found[None, :, 2:], found[None, :, :2] - truth[:, None, 2:])
    return np.asarray((apart <= reach).all(axis=2), dtype=np.bool_)


def _polygon_iou(one: Sequence[Shape], two: Sequence[Shape]) -> Matrix:
    first, second = _polygons(one), _polygons(two)
    common = shapely.area(shapely.intersection(first, second))
    union = shapely.area(first) + shapely.area(second) - common
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


def _line_agreement(one: Sequence[Shape], two: Sequence[Shape], tube: float) -> Matrix:
    first, second = _lines(one), _lines(two)
    covered = _share_inside(first, second, tube)
    right = _share_inside(second, first, tube)
    both = covered + right
    return np.divide(2 * covered * right, both, out=np.zeros_like(both), where=both > 0)


def _lines(shapes: Sequence[Shape]) -> NDArray[np.object_]:
    indices = np.repeat(np.arange(len(shapes)), [len(shape.points) for shape in shapes])
    return shapely.linestrings(np.concatenate([shape.points for shape in shapes]), indices=indices)


def _share_inside(lines: NDArray[np.object_], others: NDArray[np.object_], tube: float) -> Matrix:
    """Share of each line's length that lies within `tube` of the other; a line without length has none."""
    inside = shapely.length(shapely.intersection(lines, shapely.buffer(others, tube)))
    length = shapely.length(lines)
    return np.divide(inside, length, out=np.zeros_like(length), where=length > 0)
