"""A plan to pixels: one warp, then colour.

OpenCV counts pixel centres from 0, the project from 0.5: maps are moved by half a pixel at this edge and nowhere else.
"""

from __future__ import annotations

import numpy as np

from plumbline.augment.plan import AugmentationPlan, Patch
from plumbline.geometry.maps import (
    IDENTITY,
    Map,
    canvas_corners,
    is_affine,
    local_scale,
    map_points,
    scaling,
    translation,
)

FILL = (127, 127, 127)
"""What lies outside the source: the middle grey, which the image processor maps to about zero."""


def render(image: np.ndarray, plan: AugmentationPlan, size: tuple[int, int] | None = None) -> np.ndarray:
    """The picture that `plan` describes.

    image: uint8 RGB [H, W, 3], the source with EXIF applied; never written to. size: (width, height) of the result when
    the canvas is to be brought onto the model's grid by the same single warp; None keeps the canvas. Raises ValueError
    for another dtype or form, and for a picture of another size than the plan was made for.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the picture must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if (image.shape[1], image.shape[0]) != tuple(plan.source):
        wanted = "{} x {}".format(*plan.source)
        raise ValueError(f"the picture is {image.shape[1]} x {image.shape[0]}, the plan is for one of {wanted}")
    width, height = size or (plan.width, plan.height)
    to_grid = scaling(width / plan.width, height / plan.height)
    picture = _warped(image, to_grid @ plan.matrix, width, height)
    for patch in plan.patches:
        picture = _pasted(picture, image, patch, to_grid)
    return coloured(picture, plan)


def coloured(picture: np.ndarray, plan: AugmentationPlan) -> np.ndarray:
    """The plan's colour operations alone, on a picture that is in its final place already; uint8 RGB [H, W, 3]."""
    for operation, values in plan.colour:
        picture = operation.apply(picture, values)
    return picture


def _warped(image: np.ndarray, matrix: Map, width: int, height: int) -> np.ndarray:
    """The picture under `matrix` on a canvas of width x height; whole-pixel moves and flips copy exactly."""
    if np.array_equal(matrix, IDENTITY) and image.shape[:2] == (height, width):
        return image
    exact = _copied(image, matrix, width, height)
    return _interpolated(image, matrix, width, height) if exact is None else exact


def _copied(image: np.ndarray, matrix: Map, width: int, height: int) -> np.ndarray | None:
    """Moves by whole pixels and flips without interpolation; None for any other map."""
    if not is_affine(matrix) or matrix[0, 1] != 0 or matrix[1, 0] != 0:
        return None
    if abs(matrix[0, 0]) != 1 or abs(matrix[1, 1]) != 1:
        return None
    dx, dy = float(matrix[0, 2]), float(matrix[1, 2])
    if not (dx.is_integer() and dy.is_integer()):
        return None
    tall, wide = image.shape[:2]
    if matrix[0, 0] < 0:
        image, dx = image[:, ::-1], dx - wide
    if matrix[1, 1] < 0:
        image, dy = image[::-1], dy - tall
    left, top = int(dx), int(dy)
    out = np.empty((height, width, 3), np.uint8)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + wide, width), min(top + tall, height)
    if x1 > 0 or y1 > 0 or x2 < width or y2 < height:
        out[:] = FILL
    if x1 < x2 and y1 < y2:
        out[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
    return out


def _interpolated(image: np.ndarray, matrix: Map, width: int, height: int) -> np.ndarray:
    import cv2

    small, from_small = _halved(image, matrix)
    pixels = translation(-0.5, -0.5) @ from_small @ translation(0.5, 0.5)
    if is_affine(matrix):
        affine = pixels[:2] / pixels[2, 2]
        picture = cv2.warpAffine(small, affine, (width, height), flags=cv2.INTER_LINEAR, borderValue=FILL)
    else:
        picture = cv2.warpPerspective(small, pixels, (width, height), flags=cv2.INTER_LINEAR, borderValue=FILL)
    if small is image:
        return picture
    return _resharpened(picture, image.shape[0] / small.shape[0], local_scale(from_small, *small.shape[1::-1]))


def _halved(image: np.ndarray, matrix: Map) -> tuple[np.ndarray, Map]:
    """Average 2x2 pixels as often as the map shrinks by two or more: bilinear sampling alone would skip pixels."""
    import cv2

    tall, wide = image.shape[:2]
    while min(tall, wide) > 1 and local_scale(matrix, wide, tall) <= 0.5:
        # Two is the one factor for which OpenCV's averaging is fast.
        image = cv2.resize(image, (wide // 2, tall // 2), interpolation=cv2.INTER_AREA)
        matrix = matrix @ scaling(wide / (wide // 2), tall / (tall // 2))
        tall, wide = image.shape[:2]
    return image, matrix


def _resharpened(picture: np.ndarray, blocks: float, scale: float) -> np.ndarray:
    """Undo, to the second order, the mean blur of averaging `blocks` pixels along each axis and interpolating there.

    scale: pixels of `picture` per averaged pixel. By Taylor's series a blur of variance v dampens a wave of frequency w
    by v w^2 / 2, and the kernel (-a, 1 + 2a, -a) raises it by a w^2. In averaged pixels the variance of the mean is
    (1 - 1 / blocks^2) / 12, that of bilinear sampling at places spread evenly 1 / 6.
    """
    import cv2

    a = scale**2 * ((1 - blocks**-2) / 12 + 1 / 6) / 2
    kernel = np.array([-a, 1 + 2 * a, -a])
    return cv2.sepFilter2D(picture, -1, kernel, kernel)


def _pasted(picture: np.ndarray, source: np.ndarray, patch: Patch, to_grid: Map) -> np.ndarray:
    """`picture` with a piece of the source over it; only pixels whose centre lies inside the moved piece change."""
    import cv2

    x1, y1 = (int(np.floor(value)) for value in patch.rect[:2])
    x2, y2 = (int(np.ceil(value)) for value in patch.rect[2:])
    piece = source[max(y1, 0) : y2, max(x1, 0) : x2]
    matrix = to_grid @ patch.matrix @ translation(max(x1, 0), max(y1, 0))
    height, width = picture.shape[:2]
    corners = canvas_corners(patch.rect[2] - patch.rect[0], patch.rect[3] - patch.rect[1]) + patch.rect[:2]
    outline = map_points(corners, to_grid @ patch.matrix)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, np.round((outline - 0.5) * 16).astype(np.int32), 1, shift=4)
    shown = _interpolated_piece(piece, matrix, width, height)
    return np.where(mask[:, :, None] > 0, shown, picture)


def _interpolated_piece(piece: np.ndarray, matrix: Map, width: int, height: int) -> np.ndarray:
    """The piece on the whole canvas, its border pixels continued so that the cut shows no grey rim."""
    import cv2

    pixels = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    return cv2.warpPerspective(piece, pixels, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
