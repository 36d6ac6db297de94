"""Rendered rack scenes with exact geometry: a stand-in for site photographs that a tiny model can learn.

A scene is planned first (sizes, parts, points) and painted afterwards; the annotation is the plan itself, so a label
can never disagree with the picture. Everything is drawn from a generator keyed by (seed, index). Racks are built on a
coarse grid (three places, two slants, three formats): numbers that recur are what a tiny model can learn in minutes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from plumbline.data.record import DataObject, Record
from plumbline.demo.paint import PAINTERS, Canvas, Frame, Points, rectangle, shade
from plumbline.geometry import Box, Polygon, Polyline, Quad, Shape

_PURPOSE = 0x5CE7E  # keeps these draws apart from any other use of the same (seed, index)
_SIZES = (
    ((288, 224), (320, 256)),
    ((224, 288), (256, 320)),
    ((224, 224), (256, 256)),
)  # pixels, by format; about those that the small base was trained with
_SLANT = 0.12
_SLOTS = (0.06, 0.32, 0.58)  # tops of the three places in the rack, as parts of its height
_SLOT_HEIGHT = 0.2


@dataclass(frozen=True)
class Scene:
    """A planned scene: picture size in pixels and the parts back to front.

    slant: 0 for a rack seen from the front; otherwise how much higher its right side is, as a part of the picture's
    height over the picture's whole width (negative: lower).
    """

    width: int
    height: int
    slant: float
    wall: tuple[int, int, int]
    light: tuple[float, float]
    rack: Quad
    parts: tuple[DataObject, ...]


def plan_scene(seed: int, index: int) -> Scene:
    """Plan scene number `index`; the same (seed, index) gives the same scene everywhere."""
    draw = np.random.default_rng([seed, index, _PURPOSE])
    sizes = _SIZES[draw.integers(len(_SIZES))]
    width, height = sizes[draw.integers(len(sizes))]
    slant = float(draw.choice((-_SLANT, _SLANT))) if draw.random() < 0.3 else 0.0
    bench = _Bench(draw, width, height, slant)
    bench.furnish()
    red, green, blue = (int(value) for value in draw.integers(176, 206) + draw.integers(-9, 10, 3))
    light = (float(draw.uniform(-1, 1)), float(draw.uniform(0.2, 1)))
    return Scene(
        width, height, slant, (red, green, blue), light, Quad(bench.placed(rectangle(*bench.rack))), tuple(bench.parts)
    )


def render_scene(scene: Scene, parts: Iterable[DataObject] | None = None) -> NDArray[np.uint8]:
    """Paint a scene (or only some of its parts) as uint8 RGB [height, width, 3]."""
    canvas = Canvas(scene.width, scene.height, scene.wall)
    _paint_rack(canvas, scene.rack.points)
    for part in scene.parts if parts is None else parts:
        PAINTERS[part.desc](canvas, outline(part.shape), cable_width(scene))
    return shade(canvas.picture(), scene.light, 0.12)


def cable_width(scene: Scene) -> float:
    """Width of fibres and wires in pixels."""
    return min(scene.width, scene.height) / 24


def outline(shape: Shape) -> Points:
    """The points [N, 2] as they are painted: a box by its four corners."""
    return rectangle(*shape.bounds()) if shape.kind == "bbox_2d" else shape.points


def scene_record(scene: Scene, image: str) -> Record:
    """The record of a scene whose picture is stored under `image`."""
    summary = summarise((part.desc for part in scene.parts), whole=True)
    return Record((image,), scene.width, scene.height, scene.parts, summary)


def summarise(descriptions: Iterable[str], *, whole: bool = False) -> str:
    """One line such as `BBU设备×1，标签×2`: descriptions with their counts, as they first appear.

    whole: all levels of a description, `螺丝/不符合要求,生锈×1`; else the first alone.
    """
    counts = Counter(description if whole else description.split("/")[0] for description in descriptions)
    return "，".join(f"{name}×{count}" for name, count in counts.items())


class _Bench:
    """Places parts in an upright rack and slants the finished points with the scene."""

    def __init__(self, draw: Generator, width: int, height: int, slant: float):
        self.draw = draw
        self.width, self.height = width, height
        self.rack = (0.13 * width, 0.07 * height, 0.87 * width, 0.93 * height)
        self.parts: list[DataObject] = []
        self.slant = slant

    def placed(self, points: Points) -> Points:
        """Upright points [N, 2] sheared by the slant about the picture's middle, to a hundredth of a pixel."""
        x, y = points.T
        rise = self.slant * self.height * (x / self.width - 0.5)
        return np.round(np.stack([x, y - rise], axis=1), 2)

    def furnish(self) -> None:
        """Put the parts in: one or two devices, and around the first one whatever the draw brings."""
        draw = self.draw
        slots = [int(slot) for slot in draw.permutation(len(_SLOTS))]
        first = self._device(slots[0])
        if draw.random() < 0.15:
            self._device(slots[2])
        if draw.random() < 0.35:
            self._shield(slots[1])
        if draw.random() < 0.3:
            self._screw(first)
        if draw.random() < 0.3:
            self._label(first)
        if draw.random() < 0.35:
            self._fibre(first)
        if draw.random() < 0.25:
            self._wire(first)

    def _slot(self, slot: int) -> tuple[float, float, float, float]:
        left, top, right, bottom = self.rack
        wide, high = right - left, bottom - top
        upper = top + high * _SLOTS[slot]
        return left + 0.08 * wide, upper, right - 0.08 * wide, upper + high * _SLOT_HEIGHT

    def _plate(self, desc: str, corners: Points) -> None:
        if self.slant:
            self.parts.append(DataObject(desc, Quad(self.placed(corners))))
        else:
            self.parts.append(DataObject(desc, Box(self.placed(corners[[0, 2]]))))

    def _device(self, slot: int) -> tuple[float, float, float, float]:
        sides = self._slot(slot)
        self._plate(str(self.draw.choice(("BBU设备/品牌:华为", "BBU设备/品牌:中兴"))), rectangle(*sides))
        return sides

    def _shield(self, slot: int) -> None:
        left, top, right, bottom = self._slot(slot)
        cut = 0.35 * (bottom - top)
        plate = np.array([[left, top], [right - cut, top], [right, top + cut], [right, bottom], [left, bottom]])
        desc = str(self.draw.choice(("挡风板/方向:正确", "挡风板/方向:错误")))
        self.parts.append(DataObject(desc, Polygon(self.placed(plate))))

    def _screw(self, sides: tuple[float, float, float, float]) -> None:
        left, top, right, bottom = sides
        radius = 0.05 * min(self.width, self.height)
        x = left - radius if self.draw.random() < 0.5 else right + radius
        middle = self.placed(np.array([[x, (top + bottom) / 2]]))[0]
        desc = str(self.draw.choice(("螺丝/符合要求", "螺丝/不符合要求,生锈")))
        self.parts.append(DataObject(desc, Box(np.round([middle - radius, middle + radius], 2))))

    def _label(self, sides: tuple[float, float, float, float]) -> None:
        left, top, right, bottom = sides
        wide, high = right - left, bottom - top
        start = left + wide * 0.72
        corners = rectangle(start, top + 0.24 * high, start + 0.22 * wide, top + 0.7 * high)
        self._plate(str(self.draw.choice(("标签/文字:BBU-1", "标签/无法识别"))), corners)

    def _fibre(self, sides: tuple[float, float, float, float]) -> None:
        left, top, right, bottom = sides
        start = left + (right - left) * 0.36
        drop = self.rack[3] - bottom
        sway = 0.1 * (right - left)
        points = np.array(
            [
                [start, bottom - 0.2 * (bottom - top)],
                [start + sway, bottom + 0.35 * drop],
                [start - sway, bottom + 0.95 * drop],
            ]
        )
        desc = str(self.draw.choice(("光纤/有保护措施", "光纤/无保护措施")))
        self.parts.append(DataObject(desc, Polyline(self.placed(points))))

    def _wire(self, sides: tuple[float, float, float, float]) -> None:
        left, _, right, bottom = sides
        tied = self.draw.random() < 0.5
        start = left + (right - left) * 0.63
        edge, low = self.rack[2], self.rack[3]
        bend = bottom + 0.5 * (low - bottom)
        slack = 0.0 if tied else 0.09 * self.height
        points = [[start, bottom], [start - slack, bend], [edge - 0.1 * self.width, bend + slack]]
        desc = "电线/捆扎整齐" if tied else "电线/分布散乱"
        self.parts.append(DataObject(desc, Polyline(self.placed(np.array(points)))))


def _paint_rack(canvas: Canvas, rack: Points) -> None:
    frame = Frame(rack)
    canvas.polygon(rack, (112, 118, 126))
    canvas.polygon(frame.part(0.055, 0.0, 0.945, 1.0).corners, (196, 200, 204))
    for hole in np.linspace(0.03, 0.95, 16):
        for left in (0.016, 0.962):
            canvas.polygon(frame.part(left, hole, left + 0.022, hole + 0.022).corners, (60, 64, 70))
