"""Objects drawn over their picture: translucent shapes, numbered tags, labels in any script.

Text is drawn with the Unicode font that OpenCV carries, so Chinese labels need no installed fonts. Where that font is
missing the tags show the numbers alone, and the list next to the picture explains them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plumbline.data.record import DataObject
from plumbline.geometry import Shape

Pixels = NDArray[np.uint8]
Rgb = tuple[int, int, int]

_SUBPIXEL_BITS = 4
_FAR = 1e5  # pixels; what lies further out is pulled in to here before drawing, far outside any picture
_MAX_LABEL = 28
_FILL = 0.13
_COLOUR_SALT = b"6175"  # chosen so that the classes of the demonstration look clearly different


def draw_objects(
    image: Image.Image, objects: Sequence[DataObject], *, scale: float = 1.0, labels: bool = True
) -> Image.Image:
    """The picture, `scale` times as large, with every object drawn and numbered from 1 in the order given.

    labels: write the description next to the number; otherwise the tag is the number alone. Coordinates are pixels of
    the original picture. What lies outside the picture is simply not seen. The input is left as it is.
    """
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.array(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    unit = max(1.0, max(size) / 640)
    outlines = [_fixed(item.shape, scale) for item in objects]
    for item, outline in zip(objects, outlines, strict=True):
        _draw_shape(pixels, outline, item.shape.kind != "line", class_colour(item.desc), unit)
    taken: list[_Area] = []
    for number, item in enumerate(objects, 1):
        text = f"{number} {drawable(item.desc)}" if labels and _draws_chinese() else str(number)
        _draw_tag(pixels, item.shape, scale, text, class_colour(item.desc), unit, taken)
    return Image.fromarray(pixels)


def class_name(desc: str) -> str:
    """The first level of a description: `BBU设备/品牌:华为` and `类别=BBU设备,品牌=华为` are both `BBU设备`."""
    first = desc.split(",")[0].split("/")[0]
    return first.rpartition("=")[2].strip() or desc.strip()


def class_colour(desc: str) -> Rgb:
    """A vivid colour that depends on the class alone, so that it is the same in every picture and every run."""
    digest = hashlib.blake2s(class_name(desc).encode("utf-8", "replace"), salt=_COLOUR_SALT).digest()
    hue = int.from_bytes(digest[:4], "big") / 2**32 * 2 * math.pi
    return _oklch_to_rgb(0.66 if digest[4] & 1 else 0.78, 0.19, hue)


def _oklch_to_rgb(lightness: float, chroma: float, hue: float) -> Rgb:
    """sRGB of a colour in Oklch, where equal steps of hue look equally large (B. Ottosson, 2020); clipped to sRGB."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (min(1.0, max(0.0, value)) ** (1 / 2.2) for value in linear)
    return round(red * 255), round(green * 255), round(blue * 255)


def drawable(desc: str) -> str:
    """The description as one short printable line."""
    clean = "".join(character if character.isprintable() else " " for character in desc)
    clean = " ".join(clean.split())
    return clean if len(clean) <= _MAX_LABEL else clean[: _MAX_LABEL - 1] + "…"


class _Area(NamedTuple):
    """A rectangle of the picture in whole pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def overlap(self, other: _Area) -> int:
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0, wide) * max(0, high)


def _fixed(shape: Shape, scale: float) -> NDArray[np.int32]:
    """Outline points for OpenCV: fixed point, counted from the centre of the first pixel."""
    points = shape.points
    if shape.kind == "bbox_2d":
        x1, y1, x2, y2 = shape.bounds()
        points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    return np.rint((np.clip(points * scale, -_FAR, _FAR) - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)


def _draw_shape(pixels: Pixels, outline: NDArray[np.int32], closed: bool, colour: Rgb, unit: float) -> None:
    if closed:
        filled = pixels.copy()
        cv2.fillPoly(filled, [outline], colour, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.addWeighted(filled, _FILL, pixels, 1 - _FILL, 0, pixels)
    # a dark rim under the coloured stroke keeps it visible on any background
    for stroke, width in (((16, 18, 22), 4.0), (colour, 2.2)):
        cv2.polylines(pixels, [outline], closed, stroke, max(1, round(width * unit)), cv2.LINE_AA, _SUBPIXEL_BITS)
    if not closed:
        for point in outline:
            centre = (int(point[0]), int(point[1]))
            cv2.circle(pixels, centre, round(3.2 * unit * 2**_SUBPIXEL_BITS), colour, -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_tag(
    pixels: Pixels, shape: Shape, scale: float, text: str, colour: Rgb, unit: float, taken: list[_Area]
) -> None:
    mask = np.pad(_letters(text, round(13 * unit)) / 255.0, round(3 * unit))[: pixels.shape[0], : pixels.shape[1], None]
    high, wide = mask.shape[:2]
    area = _place(shape, scale, wide, high, pixels.shape, taken)
    taken.append(area)
    patch = pixels[area.top : area.bottom, area.left : area.right]
    ink = (12, 14, 18) if _is_bright(colour) else (255, 255, 255)
    base = 0.88 * np.array(colour) + 0.12 * patch
    patch[:] = np.rint(base * (1 - mask) + np.array(ink) * mask).astype(np.uint8)


def _place(shape: Shape, scale: float, wide: int, high: int, size: tuple[int, ...], taken: Sequence[_Area]) -> _Area:
    """Where a tag covers the least of the tags already there: above, inside, below, or at the shape's other side."""
    x1, y1, x2, y2 = np.clip(np.array(shape.bounds()) * scale, -_FAR, _FAR)
    if shape.kind == "line":  # next to the line's first point, not at the corner of its empty box
        (x1, y1), (x2, y2) = (np.clip(shape.canonical().points[end] * scale, -_FAR, _FAR) for end in (0, -1))
    corners = [(x1, y1 - high), (x1, y1), (x1, y2), (x2 - wide, y1 - high), (x2 - wide, y2), (x1, y2 - high), (x2, y1)]
    corners += [(x1, y1 + step * high) for step in (-2, 1, 2, 3, 4)]
    best: tuple[int, _Area] | None = None
    for left, top in corners:
        left, top = int(np.clip(left, 0, size[1] - wide)), int(np.clip(top, 0, size[0] - high))
        area = _Area(left, top, left + wide, top + high)
        cost = sum(area.overlap(other) for other in taken)
        if best is None or cost < best[0]:
            best = (cost, area)
        if cost == 0:
            break
    assert best is not None
    return best[1]


@cache
def _font() -> cv2.FontFace:
    return cv2.FontFace("uni")


@cache
def _draws_chinese() -> bool:
    """Whether the built-in font has Chinese glyphs: a missing one is drawn as a question mark."""
    return not np.array_equal(_letters("光", 24), _letters("?", 24))


def _letters(text: str, size: int) -> Pixels:
    """Coverage 0..255 [rows, columns] of one line of text, `size` pixels high, cut to its width."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    strip = np.zeros((round(size * 1.5), size * (len(text) + 2)), np.uint8)
    cv2.putText(strip, text, (0, round(size * 1.12)), (255,), _font(), size, 500)
    used = np.flatnonzero(strip.any(axis=0))
    return strip[:, : int(used[-1]) + 2] if len(used) else strip[:, :1]


def _is_bright(colour: Rgb) -> bool:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
