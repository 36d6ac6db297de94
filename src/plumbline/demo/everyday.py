"""Everyday scenes: coloured shapes and simple things in a room or outdoors, planned first and painted afterwards.

They are what the small base model has learned to describe, and the inputs on which a fine-tune must not forget it. The
plan is the annotation, so a label never disagrees with the picture; the same (seed, index) gives the same scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from plumbline.data.record import DataObject, Record
from plumbline.demo.paint import Canvas, Colour, Frame, Points, rectangle, shade
from plumbline.demo.scenes import summarise
from plumbline.geometry import Box, Polygon, Polyline, Quad, Shape

_PURPOSE = 0xEDA1  # keeps these draws apart from any other use of the same (seed, index)
SIZES = ((256, 256), (320, 192), (192, 320), (288, 224), (224, 288), (256, 192), (192, 256), (192, 192))  # pixels
MOST_THINGS = 4
EMPTY_SUMMARY = "没有物体"
_MAX_OVERLAP = 0.08  # of the smaller of two bounding boxes

COLOURS: dict[str, tuple[str, Colour]] = {
    "红色": ("red", (204, 40, 44)),
    "黄色": ("yellow", (240, 208, 48)),
    "蓝色": ("blue", (36, 88, 196)),
    "绿色": ("green", (52, 150, 62)),
    "白色": ("white", (246, 246, 242)),
    "黑色": ("black", (24, 24, 28)),
    "灰色": ("grey", (132, 136, 142)),
    "橙色": ("orange", (240, 136, 36)),
    "紫色": ("purple", (132, 64, 168)),
}
"""Chinese name -> (English name, RGB)."""

KINDS: dict[str, str] = {
    "圆形": "circle",
    "方块": "block",
    "三角形": "triangle",
    "五边形": "pentagon",
    "斜矩形": "tilted rectangle",
    "线条": "line",
    "十字": "cross",
    "牌子": "sign",
    "箱子": "crate",
    "树": "tree",
    "房子": "house",
    "杯子": "cup",
}
"""Chinese name -> English name of everything that a scene may hold."""

_ONLY_OUTDOORS, _ONLY_INDOORS = ("树", "房子"), ("杯子",)
LETTERS = "ABCDEFGHKLMNPRSTXYZ"


@dataclass(frozen=True)
class Thing:
    """One thing of a scene; shape in pixels, text empty when it has none."""

    kind: str
    colour: str
    shape: Shape
    text: str = ""

    @property
    def desc(self) -> str:
        """Its description as the annotation has it."""
        levels = [self.kind, f"颜色:{self.colour}"]
        levels += [f"文字:{self.text}"] if self.text else []
        return "/".join(levels)


@dataclass(frozen=True)
class EverydayScene:
    """A planned scene, back to front; width and height in pixels."""

    width: int
    height: int
    outdoors: bool
    far: Colour  # wall or sky
    near: Colour  # floor or ground
    horizon: float  # part of the height at which `near` begins
    clutter: tuple[Points, ...]  # [4, 2] each: windows, panels, clouds; not annotated
    light: tuple[float, float]
    things: tuple[Thing, ...]

    @property
    def objects(self) -> tuple[DataObject, ...]:
        """The annotation."""
        return tuple(DataObject(thing.desc, thing.shape) for thing in self.things)


def plan_everyday(seed: int, index: int, sizes: Sequence[tuple[int, int]] = SIZES) -> EverydayScene:
    """Plan scene number `index`; sizes: (width, height) in pixels, of which one is drawn."""
    draw = np.random.default_rng([seed, index, _PURPOSE])
    width, height = sizes[int(draw.integers(len(sizes)))]
    outdoors = bool(draw.random() < 0.5)
    far, near = _ground(draw, outdoors)
    things: list[Thing] = []
    for _ in range(int(draw.choice(MOST_THINGS + 1, p=(0.04, 0.26, 0.3, 0.25, 0.15)))):
        if (thing := _place(draw, width, height, outdoors, things)) is not None:
            things.append(thing)
    clutter = tuple(_panel(draw, width, height) for _ in range(draw.integers(0, 4)))
    light = (float(draw.uniform(-1, 1)), float(draw.uniform(-0.5, 1)))
    return EverydayScene(
        width, height, outdoors, far, near, float(draw.uniform(0.55, 0.85)), clutter, light, tuple(things)
    )


def render_everyday(scene: EverydayScene) -> NDArray[np.uint8]:
    """Paint a scene as uint8 RGB [height, width, 3]."""
    canvas = Canvas(scene.width, scene.height, scene.far)
    edge = scene.horizon * scene.height
    canvas.polygon(rectangle(0, edge, scene.width, scene.height), scene.near)
    for panel in scene.clutter:
        canvas.polygon(panel, _mixed(scene.far, (255, 255, 255) if scene.outdoors else (70, 80, 96), 0.3))
    for thing in scene.things:
        if thing.kind == "线条":
            _paint_line(canvas, thing, min(scene.width, scene.height) / 32)
        else:
            _PAINTERS[thing.kind](canvas, thing)
    return shade(canvas.picture(), scene.light, 0.15)


def everyday_record(scene: EverydayScene, image: str) -> Record:
    """The record of a scene whose picture is stored under `image`."""
    summary = summarise(thing.desc for thing in scene.things) or EMPTY_SUMMARY
    return Record((image,), scene.width, scene.height, scene.objects, summary, is_negative=not scene.things)


def _ground(draw: Generator, outdoors: bool) -> tuple[Colour, Colour]:
    if outdoors:
        far, near = (150, 190, 226), ((112, 160, 84), (196, 178, 132), (150, 150, 148))[draw.integers(3)]
    else:
        far = ((214, 206, 192), (186, 196, 204), (206, 190, 176), (92, 98, 106))[draw.integers(4)]
        near = ((150, 116, 84), (120, 122, 126), (176, 160, 140))[draw.integers(3)]
    return _jittered(draw, far, 14), _jittered(draw, near, 14)


def _jittered(draw: Generator, colour: Colour, most: int) -> Colour:
    red, green, blue = (int(np.clip(value + draw.integers(-most, most + 1), 0, 255)) for value in colour)
    return red, green, blue


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _panel(draw: Generator, width: int, height: int) -> Points:
    wide, high = draw.uniform(0.12, 0.5) * width, draw.uniform(0.08, 0.4) * height
    left, top = draw.uniform(0, width - wide), draw.uniform(0, 0.7 * height)
    return rectangle(left, top, left + wide, min(top + high, height))


# -- placing ---------------------------------------------------------------------------------------------------------


def _place(draw: Generator, width: int, height: int, outdoors: bool, others: list[Thing]) -> Thing | None:
    """One more thing that hides none of the others; None when no place was found."""
    unfit = _ONLY_INDOORS if outdoors else _ONLY_OUTDOORS
    kind = str(draw.choice([kind for kind in KINDS if kind not in unfit]))
    colour = "绿色" if kind == "树" else str(draw.choice(list(COLOURS)))
    text = _sign_text(draw) if kind == "牌子" else ""
    for _ in range(12):
        wide, high = _extent(draw, kind, width, height)
        left, top = draw.uniform(1, width - wide - 1), draw.uniform(1, height - high - 1)
        box = (left, top, left + wide, top + high)
        if all(_overlap(box, other.shape.bounds()) <= _MAX_OVERLAP for other in others):
            return Thing(kind, colour, _outline(draw, kind, box), text)
    return None


def _sign_text(draw: Generator) -> str:
    second = LETTERS if draw.random() < 0.5 else "0123456789"
    return str(draw.choice(list(LETTERS))) + str(draw.choice(list(second)))


def _extent(draw: Generator, kind: str, width: int, height: int) -> tuple[float, float]:
    """Width and height in pixels."""
    side = min(width, height)
    if kind in ("圆形", "十字"):
        size = side * draw.uniform(0.12, 0.45)
        return size, size
    wide = width * draw.uniform(0.2, 0.7 if kind in ("方块", "箱子", "线条", "斜矩形") else 0.45)
    high = height * draw.uniform(0.15, 0.45)
    if kind in ("树", "杯子", "房子"):
        high = float(np.clip(wide * draw.uniform(0.9, 1.5), 0.14 * height, 0.6 * height))
    if kind == "牌子":
        high = float(np.clip(wide * draw.uniform(0.35, 0.6), 0.08 * side, 0.4 * height))
    return float(wide), float(high)


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(wide, 0.0) * max(high, 0.0) / max(smaller, 1.0)


def _outline(draw: Generator, kind: str, box: tuple[float, float, float, float]) -> Shape:
    """The geometry of a thing inside a bounding box, to a hundredth of a pixel."""
    frame = Frame(rectangle(*box))
    if kind == "三角形":
        tip = draw.uniform(0.2, 0.8)
        return Polygon(np.round(frame.at(np.array([[tip, 0], [1, 1], [0, 1]])), 2))
    if kind == "五边形":
        cut = draw.uniform(0.2, 0.5)
        corner = np.array([[0, 0], [1 - cut, 0], [1, cut], [1, 1], [0, 1]])
        return Polygon(np.round(frame.at(corner if draw.random() < 0.5 else (1 - corner[[3, 4, 0, 1, 2]])), 2))
    if kind == "房子":
        return Polygon(np.round(frame.at(np.array([[0.5, 0], [1, 0.42], [1, 1], [0, 1], [0, 0.42]])), 2))
    if kind == "斜矩形":
        rise = draw.uniform(0.15, 0.45)
        slanted = np.array([[0, 0], [1, rise], [1, 1], [0, 1 - rise]])
        slanted = slanted if draw.random() < 0.5 else np.array([[0, rise], [1, 0], [1, 1 - rise], [0, 1]])
        return Quad(np.round(frame.at(slanted), 2))
    if kind == "线条":
        return Polyline(np.round(frame.at(_zigzag(draw)), 2))
    return Box(np.round(frame.corners[[0, 2]], 2))


def _zigzag(draw: Generator) -> Points:
    """Two to four points that touch all four sides of the unit square."""
    if draw.random() < 0.4:
        return np.array([[0, 0], [1, 1]] if draw.random() < 0.5 else [[1, 0], [0, 1]], np.float64)
    places = np.linspace(0, 1, int(draw.integers(3, 5)))
    across = draw.uniform(0, 1, len(places))
    across[draw.permutation(len(places))[:2]] = (0.0, 1.0)
    points = np.stack([across, places], axis=1)
    return points if draw.random() < 0.6 else points[:, ::-1].copy()


# -- painting --------------------------------------------------------------------------------------------------------


def _colour(thing: Thing) -> Colour:
    return COLOURS[thing.colour][1]


def _dark(colour: Colour) -> Colour:
    return _mixed(colour, (0, 0, 0), 0.45)


def _frame(thing: Thing) -> Frame:
    return Frame(rectangle(*thing.shape.bounds()))


def _paint_round(canvas: Canvas, thing: Thing) -> None:
    left, top, right, bottom = thing.shape.bounds()
    middle, radius = np.array([(left + right) / 2, (top + bottom) / 2]), (right - left) / 2
    canvas.circle(middle, radius, _dark(_colour(thing)))
    canvas.circle(middle, radius * 0.92, _colour(thing))


def _paint_flat(canvas: Canvas, thing: Thing) -> None:
    points = _frame(thing).corners if thing.shape.kind == "bbox_2d" else thing.shape.points
    middle = points.mean(axis=0)
    canvas.polygon(points, _dark(_colour(thing)))
    canvas.polygon(middle + (points - middle) * 0.94, _colour(thing))


def _paint_line(canvas: Canvas, thing: Thing, width: float) -> None:
    canvas.polyline(thing.shape.points, _dark(_colour(thing)), width)
    canvas.polyline(thing.shape.points, _colour(thing), 0.66 * width)


def _paint_cross(canvas: Canvas, thing: Thing) -> None:
    for part in ((0.36, 0, 0.64, 1), (0, 0.36, 1, 0.64)):
        canvas.polygon(_frame(thing).part(*part).corners, _colour(thing))


def _paint_sign(canvas: Canvas, thing: Thing) -> None:
    frame = _frame(thing)
    canvas.polygon(frame.corners, (70, 70, 74))
    canvas.polygon(frame.part(0.03, 0.05, 0.97, 0.95).corners, _colour(thing))
    ink = (250, 250, 250) if sum(_colour(thing)) < 420 else (16, 16, 20)
    canvas.text(frame.part(0.14, 0.12, 0.86, 0.88), thing.text, ink)


def _paint_crate(canvas: Canvas, thing: Thing) -> None:
    frame = _frame(thing)
    canvas.polygon(frame.corners, _dark(_colour(thing)))
    canvas.polygon(frame.part(0.02, 0.05, 0.98, 0.95).corners, _colour(thing))
    canvas.polygon(frame.part(0.06, 0.16, 0.2, 0.46).corners, _mixed(_colour(thing), (255, 255, 255), 0.5))
    for column in range(4):
        left = 0.3 + 0.16 * column
        canvas.polygon(frame.part(left, 0.2, left + 0.09, 0.8).corners, _dark(_colour(thing)))


def _paint_tree(canvas: Canvas, thing: Thing) -> None:
    frame = _frame(thing)
    canvas.polygon(frame.part(0.42, 0.6, 0.58, 1).corners, (104, 70, 40))
    for tip, base in ((0.0, 0.45), (0.22, 0.78)):
        canvas.polygon(frame.at(np.array([[0.5, tip], [1, base], [0, base]])), _colour(thing))


def _paint_house(canvas: Canvas, thing: Thing) -> None:
    frame = _frame(thing)
    canvas.polygon(thing.shape.points, _colour(thing))
    canvas.polygon(frame.at(np.array([[0.5, 0], [1, 0.42], [0, 0.42]])), _dark(_colour(thing)))
    canvas.polygon(frame.part(0.4, 0.62, 0.6, 1).corners, (74, 52, 36))


def _paint_cup(canvas: Canvas, thing: Thing) -> None:
    frame = _frame(thing)
    canvas.polygon(frame.part(0.7, 0.25, 1, 0.7).corners, _dark(_colour(thing)))
    canvas.polygon(frame.part(0.74, 0.36, 0.9, 0.58).corners, (222, 222, 222))
    canvas.polygon(frame.at(np.array([[0, 0], [0.8, 0], [0.68, 1], [0.12, 1]])), _colour(thing))
    canvas.polygon(frame.part(0, 0, 0.8, 0.1).corners, _dark(_colour(thing)))


_PAINTERS: dict[str, Callable[[Canvas, Thing], None]] = {
    "圆形": _paint_round,
    **dict.fromkeys(("方块", "三角形", "五边形", "斜矩形"), _paint_flat),
    "十字": _paint_cross,
    "牌子": _paint_sign,
    "箱子": _paint_crate,
    "树": _paint_tree,
    "房子": _paint_house,
    "杯子": _paint_cup,
}
