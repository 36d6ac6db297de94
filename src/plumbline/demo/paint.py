"""How the parts of a rendered rack scene look: small painters on an oversampled canvas.

A painter draws exactly the geometry it is given, in the pixel convention of the whole project: the image is the
rectangle [0, W] x [0, H] and a pixel's centre lies at +0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Colour = tuple[int, int, int]  # RGB

_OVERSAMPLE = 4
_SUBPIXEL_BITS = 4


class Canvas:
    """An RGB picture painted at four times its size and reduced at the end, so that every edge is smooth."""

    def __init__(self, width: int, height: int, colour: Colour):
        self.width, self.height = width, height
        self._pixels = np.full((height * _OVERSAMPLE, width * _OVERSAMPLE, 3), colour, np.uint8)

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fill a polygon [N, 2] in image pixels."""
        cv2.fillPoly(self._pixels, [self._fixed(points)], colour, shift=_SUBPIXEL_BITS)

    def polyline(self, points: Points, colour: Colour, width: float) -> None:
        """Stroke a line [N, 2] in image pixels, `width` pixels wide, with round joints."""
        thickness = max(1, round(width * _OVERSAMPLE))
        cv2.polylines(self._pixels, [self._fixed(points)], False, colour, thickness, shift=_SUBPIXEL_BITS)

    def circle(self, centre: Points, radius: float, colour: Colour) -> None:
        """Fill a circle; centre [2] and radius in image pixels."""
        (middle,) = self._fixed(centre[None])
        size = round(radius * _OVERSAMPLE * 2**_SUBPIXEL_BITS)
        cv2.circle(self._pixels, tuple(int(v) for v in middle), size, colour, -1, shift=_SUBPIXEL_BITS)

    def text(self, frame: Frame, text: str, colour: Colour) -> None:
        """Write one line of text that fills the frame, turned with it."""
        patch = np.zeros((64, 1024), np.uint8)
        (right, _), _ = cv2.putText(patch, text, (4, 46), (255,), cv2.FontFace("sans"), 40)
        high, wide = patch.shape[0], right + 4
        target = frame.corners * _OVERSAMPLE
        left, top = np.maximum(np.floor(target.min(axis=0)).astype(int), 0)
        right, bottom = np.ceil(target.max(axis=0)).astype(int)
        window = self._pixels[top:bottom, left:right]
        source = np.array([[0, 0], [wide, 0], [0, high]], np.float32)
        matrix = cv2.getAffineTransform(source, (target[[0, 1, 3]] - (left, top)).astype(np.float32))
        mask = cv2.warpAffine(patch[:, :wide], matrix, window.shape[1::-1], flags=cv2.INTER_AREA)[..., None] / 255.0
        window[:] = np.rint(window * (1 - mask) + np.array(colour) * mask).astype(np.uint8)

    def picture(self) -> NDArray[np.uint8]:
        """The finished picture, uint8 RGB [height, width, 3]."""
        return cv2.resize(self._pixels, (self.width, self.height), interpolation=cv2.INTER_AREA).astype(np.uint8)

    def _fixed(self, points: Points) -> NDArray[np.int32]:
        # OpenCV counts from the centre of the first pixel, the project from its corner
        scaled = np.asarray(points, np.float64) * _OVERSAMPLE - 0.5
        return np.rint(scaled * 2**_SUBPIXEL_BITS).astype(np.int32)


def shade(picture: NDArray[np.uint8], towards: tuple[float, float], strength: float) -> NDArray[np.uint8]:
    """The picture darkened linearly along a direction, by `strength` (0..1) at the far end."""
    high, wide = picture.shape[:2]
    ramp = np.linspace(0, towards[0], wide)[None, :] + np.linspace(0, towards[1], high)[:, None]
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-9)
    return np.rint(picture * (1 - strength * ramp)[..., None]).astype(np.uint8)


@dataclass(frozen=True)
class Frame:
    """A parallelogram with its own coordinates: (0, 0) is its first corner, (1, 1) the opposite one."""

    corners: Points  # [4, 2], clockwise on screen from the part's own top-left

    def at(self, uv: Points) -> Points:
        """Image points [N, 2] of points [N, 2] given in the frame's coordinates."""
        origin, right, _, down = self.corners
        uv = np.asarray(uv, np.float64)
        return origin + uv[:, :1] * (right - origin) + uv[:, 1:] * (down - origin)

    def part(self, left: float, top: float, right: float, bottom: float) -> Frame:
        """A smaller frame inside, its sides given in the frame's coordinates."""
        return Frame(self.at(np.array([[left, top], [right, top], [right, bottom], [left, bottom]])))


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """The four corners [4, 2] of an upright rectangle, clockwise from the top-left."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def paint_bbu(canvas: Canvas, points: Points, face: Colour, badge: Colour) -> None:
    """A baseband unit: face, bevel, brand badge, two rows of ports and status lights."""
    frame = Frame(points)
    canvas.polygon(points, (52, 56, 62))
    canvas.polygon(frame.part(0.012, 0.05, 0.988, 0.95).corners, face)
    canvas.polygon(frame.part(0.05, 0.16, 0.17, 0.44).corners, badge)
    for row in range(2):
        for column in range(6):
            left, top = 0.24 + 0.075 * column, 0.18 + 0.38 * row
            canvas.polygon(frame.part(left, top, left + 0.055, top + 0.26).corners, (24, 26, 30))
            canvas.polygon(frame.part(left + 0.012, top + 0.16, left + 0.043, top + 0.26).corners, (92, 96, 104))
    for column in range(3):
        canvas.polygon(frame.part(0.055 + 0.045 * column, 0.62, 0.08 + 0.045 * column, 0.74).corners, (80, 220, 120))


def paint_shield(canvas: Canvas, points: Points, arrow_up: bool) -> None:
    """An air baffle: a plate with one cut corner (five points), slats, and the arrow that must point up."""
    top_left, _, _, bottom_right, bottom_left = points
    frame = Frame(np.array([top_left, top_left + bottom_right - bottom_left, bottom_right, bottom_left]))
    canvas.polygon(points, (78, 104, 128))
    for slat in range(4):
        top = 0.16 + 0.2 * slat
        canvas.polygon(frame.part(0.05, top, 0.62, top + 0.09).corners, (150, 178, 200))
    tip, base = (0.14, 0.56) if arrow_up else (0.88, 0.46)
    canvas.polygon(frame.at(np.array([[0.76, tip], [0.86, base], [0.66, base]])), (250, 214, 70))
    top, bottom = sorted((base, 1.02 - tip))
    canvas.polygon(frame.part(0.73, top, 0.79, bottom).corners, (250, 214, 70))


def paint_screw(canvas: Canvas, points: Points, rusty: bool) -> None:
    """A round screw head that touches all four sides of its box."""
    centre, radius = points.mean(axis=0), float(points[2, 0] - points[0, 0]) / 2
    canvas.circle(centre, radius, (104, 58, 24) if rusty else (70, 74, 80))
    canvas.circle(centre, radius * 0.84, (176, 98, 40) if rusty else (206, 210, 216))
    arm = radius * 0.52
    for across in (np.array([arm, 0.0]), np.array([0.0, arm])):
        stroke = (78, 40, 16) if rusty else (84, 88, 96)
        canvas.polyline(np.stack([centre - across, centre + across]), stroke, max(1.0, radius * 0.26))


def paint_label(canvas: Canvas, points: Points, text: str) -> None:
    """A sticker with its text, or with a smear where the text cannot be read (empty `text`)."""
    frame = Frame(points)
    canvas.polygon(points, (150, 146, 130))
    canvas.polygon(frame.part(0.025, 0.05, 0.975, 0.95).corners, (250, 248, 236))
    if text:
        canvas.text(frame.part(0.08, 0.1, 0.92, 0.9), text, (20, 24, 40))
        return
    for row, (left, right) in enumerate([(0.1, 0.8), (0.16, 0.92), (0.08, 0.6)]):
        top = 0.2 + 0.23 * row
        canvas.polygon(frame.part(left, top, right, top + 0.13).corners, (196, 192, 180))


def paint_fibre(canvas: Canvas, points: Points, guarded: bool, width: float) -> None:
    """A fibre: thin and yellow, or inside a pale corrugated tube."""
    if not guarded:
        canvas.polyline(points, (150, 110, 10), width * 0.62)
        canvas.polyline(points, (252, 206, 40), width * 0.4)
        return
    canvas.polyline(points, (112, 116, 122), width)
    canvas.polyline(points, (228, 230, 232), width * 0.72)
    for start, end in pairwise(points):
        along = end - start
        across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9) * width * 0.42
        for step in np.arange(0.5, np.hypot(*along) / width * 1.6):
            middle = start + along * step * width / 1.6 / np.hypot(*along)
            canvas.polyline(np.stack([middle - across, middle + across]), (146, 150, 156), 1.0)


def paint_wire(canvas: Canvas, points: Points, tied: bool, width: float) -> None:
    """An earth wire: yellow-green with cable ties when it is tidy, loose and dark red when it is not."""
    canvas.polyline(points, (26, 64, 30) if tied else (70, 12, 16), width)
    canvas.polyline(points, (84, 176, 70) if tied else (190, 40, 44), width * 0.66)
    if not tied:
        return
    for start, end in pairwise(points):
        along = (end - start) / max(float(np.hypot(*(end - start))), 1e-9)
        middle = (start + end) / 2
        canvas.polyline(np.stack([middle - along * width * 0.3, middle + along * width * 0.3]), (244, 244, 244), width)


PAINTERS: dict[str, Callable[[Canvas, Points, float], None]] = {
    "BBU设备/品牌:华为": lambda canvas, points, _: paint_bbu(canvas, points, (132, 140, 152), (206, 32, 42)),
    "BBU设备/品牌:中兴": lambda canvas, points, _: paint_bbu(canvas, points, (214, 219, 226), (24, 92, 190)),
    "挡风板/方向:正确": lambda canvas, points, _: paint_shield(canvas, points, arrow_up=True),
    "挡风板/方向:错误": lambda canvas, points, _: paint_shield(canvas, points, arrow_up=False),
    "螺丝/符合要求": lambda canvas, points, _: paint_screw(canvas, points, rusty=False),
    "螺丝/不符合要求,生锈": lambda canvas, points, _: paint_screw(canvas, points, rusty=True),
    "标签/文字:BBU-1": lambda canvas, points, _: paint_label(canvas, points, "BBU-1"),
    "标签/无法识别": lambda canvas, points, _: paint_label(canvas, points, ""),
    "光纤/有保护措施": lambda canvas, points, width: paint_fibre(canvas, points, guarded=True, width=width),
    "光纤/无保护措施": lambda canvas, points, width: paint_fibre(canvas, points, guarded=False, width=width),
    "电线/捆扎整齐": lambda canvas, points, width: paint_wire(canvas, points, tied=True, width=width),
    "电线/分布散乱": lambda canvas, points, width: paint_wire(canvas, points, tied=False, width=width),
}
