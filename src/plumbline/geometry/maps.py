"""3x3 maps of the plane: one matrix moves the pixels and the points.

A map is float64 [3, 3] and acts on column vectors (x, y, 1) in the picture's convention: pixels cover
[0, W] x [0, H], y runs down. `then(a, b)` is "first a, then b". Angles are degrees counter-clockwise on screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plumbline.geometry.shapes import Box, Points, Quad, Shape

Map = NDArray[np.float64]

IDENTITY: Map = np.eye(3)
IDENTITY.setflags(write=False)


def then(first: Map, second: Map) -> Map:
    """The map that does `first`, then `second`."""
    return second @ first


def inverse(matrix: Map) -> Map:
    """The map that undoes `matrix`; ValueError when nothing can."""
    try:
        undone = np.linalg.inv(matrix)
    except np.linalg.LinAlgError as error:
        raise ValueError("the map flattens the plane: it has no inverse") from error
    return undone / undone[2, 2]


def affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Map:
    """x' = a x + b y + c, y' = d x + e y + f."""
    return np.array((a, b, c, d, e, f, 0.0, 0.0, 1.0)).reshape(3, 3)  # half the price of nested rows


def translation(dx: float, dy: float) -> Map:
    """Move by (dx, dy) pixels."""
    return affine(1, 0, dx, 0, 1, dy)


def scaling(sx: float, sy: float) -> Map:
    """Stretch from the picture's corner (0, 0)."""
    return affine(sx, 0, 0, 0, sy, 0)


def horizontal_flip(width: float) -> Map:
    """x to width - x."""
    return affine(-1, 0, width, 0, 1, 0)


def vertical_flip(height: float) -> Map:
    """y to height - y."""
    return affine(1, 0, 0, 0, -1, height)


def about(center: tuple[float, float], matrix: Map) -> Map:
    """An affine `matrix` without a move, with `center` (pixels) in the place of the origin."""
    x, y = center
    (a, b, _), (d, e, _), _ = matrix.tolist()
    return affine(a, b, x - a * x - b * y, d, e, y - d * x - e * y)


def rotation(degrees: float) -> Map:
    """Turn about the origin, counter-clockwise on screen; multiples of 90 degrees are exact."""
    quarter = degrees / 90
    if quarter.is_integer():
        cos, sin = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarter) % 4]
    else:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return affine(cos, sin, 0, -sin, cos, 0)


def shear(x_degrees: float, y_degrees: float) -> Map:
    """Slant: x moves by tan(x_degrees) per pixel of y, y by tan(y_degrees) per pixel of x."""
    return affine(1, math.tan(math.radians(x_degrees)), 0, math.tan(math.radians(y_degrees)), 1, 0)


def rectangle_to_quad(width: float, height: float, corners: Sequence[Sequence[float]]) -> Map:
    """The perspective map that takes [0, width] x [0, height] to four corners (from the top-left, clockwise on screen).

    Closed form of Heckbert 1989, "Fundamentals of Texture Mapping and Image Warping", section 2.2.3.
    Raises ValueError when three of the corners lie on a line.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners
    dx1, dx2, dx3 = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, dy3 = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    det = dx1 * dy2 - dx2 * dy1
    if det == 0:
        raise ValueError("three of the four corners lie on one line")
    g, h = (dx3 * dy2 - dx2 * dy3) / det, (dx1 * dy3 - dx3 * dy1) / det
    return np.array(
        [
            [(x1 - x0 + g * x1) / width, (x3 - x0 + h * x3) / height, x0],
            [(y1 - y0 + g * y1) / width, (y3 - y0 + h * y3) / height, y0],
            [g / width, h / height, 1.0],
        ]
    )


def is_affine(matrix: Map) -> bool:
    """Whether the map keeps parallels parallel."""
    return bool(matrix[2, 0] == 0 and matrix[2, 1] == 0)


def is_upright(matrix: Map) -> bool:
    """Whether upright boxes stay upright boxes: stretches, flips, moves and quarter turns."""
    (a, b, _), (d, e, _), (g, h, _) = matrix.tolist()
    return g == h == 0 and (b == d == 0 or a == e == 0)


def map_points(points: Points, matrix: Map) -> Points:
    """Points [N, 2] under the map; ValueError when one lies on or behind the horizon of a perspective map."""
    return map_pieces(points, [len(points)], [matrix])


def map_pieces(points: Points, ends: Sequence[int], matrices: Sequence[Map]) -> Points:
    """`map_points` for points [N, 2] in consecutive pieces, each under its own map. ends: where each piece ends."""
    homogeneous = np.empty((len(points), 3))
    homogeneous[:, :2] = points
    homogeneous[:, 2] = 1.0
    moved = np.empty_like(homogeneous)
    start = 0
    for end, matrix in zip(ends, matrices, strict=True):
        piece = moved[start:end]
        np.dot(homogeneous[start:end], matrix.T, out=piece)  # the product of @, at half its price for so few points
        g, h, one = matrix[2].tolist()
        if not (g == h == 0 and one == 1):
            depth = piece[:, 2:]
            if depth.size and depth.min() <= 0:
                raise ValueError("a point lies behind the horizon of the perspective map")
            piece[:, :2] /= depth
        start = end
    return moved[:, :2]


def corners_of_box(box: Points) -> Points:
    """[2, 2] corners to the four corners [4, 2], clockwise on screen from the top-left of an ordered box."""
    (x1, y1), (x2, y2) = box.tolist()
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def map_shape(shape: Shape, matrix: Map) -> Shape:
    """The shape under the map: a box stays a box where the map keeps it upright, otherwise it becomes a quad."""
    if isinstance(shape, Box) and not is_upright(matrix):
        return Quad(map_points(corners_of_box(shape.points), matrix))
    moved = shape.with_points(map_points(shape.points, matrix))
    return moved.canonical() if isinstance(moved, Box) else moved


def canvas_corners(width: float, height: float) -> Points:
    """The four corners [4, 2] of the picture [0, width] x [0, height]."""
    return np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])


def local_scale(matrix: Map, width: float, height: float) -> float:
    """Length of the image of one pixel at the middle of a width x height picture: square root of |det J| there."""
    x, y = width / 2, height / 2
    depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    return math.sqrt(abs(float(np.linalg.det(matrix)) / depth**3))
