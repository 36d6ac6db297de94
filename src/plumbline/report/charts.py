"""Charts of training curves: the same drawing as inline SVG for pages and as pixels for pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from markupsafe import Markup
from PIL import Image

from plumbline.report.html import render_fragment
from plumbline.report.log import Curve

COLOURS = ("#2f6fdd", "#e0662f", "#1f9d74", "#9a57d6")
_LARGEST = 1e12  # a value beyond this would flatten every other one: it is a gap in the line, like NaN
_CHARACTER, _LABEL_GAP = 7.4, 16.0
"""Pixels of a digit at the size of the axis, and of the room around a label."""
_WINDOW = 7  # steps of the running mean

Point = tuple[float, float]


@dataclass(frozen=True)
class ChartLine:
    """One curve to draw.

    style: `noisy` draws a running mean over the faint values, `exact` the values, `points` marks each of a few.
    """

    label: str
    curve: Curve
    colour: str = COLOURS[0]
    style: Literal["noisy", "exact", "points"] = "noisy"


@dataclass(frozen=True)
class Stroke:
    """A connected piece of a line in chart pixels; `opacity` 0..1."""

    points: tuple[Point, ...]
    colour: str
    width: float
    opacity: float


@dataclass(frozen=True)
class Tick:
    """A value on an axis: where, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart laid out in pixels, ready to be drawn: y runs down."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    strokes: tuple[Stroke, ...]
    dots: tuple[tuple[Point, str, str], ...]  # place, colour, value in words
    legend: tuple[tuple[str, str], ...]  # label, colour


def curve_svg(lines: Sequence[ChartLine], width: int = 640, height: int = 290) -> Markup:
    """The curves as an SVG element for a page, in CSS pixels; labels are escaped."""
    return Markup(render_fragment("chart.svg", {"chart": lay_out(lines, width, height)}))


def curve_picture(lines: Sequence[ChartLine], width: int, height: int) -> Image.Image:
    """The curves as an RGB picture on white."""
    zoom = 2  # drawn large and reduced, so that thin lines are smooth
    chart = lay_out(lines, width, height)
    pixels = np.full((height * zoom, width * zoom, 3), 255, np.uint8)
    for tick in chart.y_ticks:
        _stroke(pixels, [(chart.left, tick.at), (chart.right, tick.at)], "#e3e7ee", 1, zoom)
    for stroke in chart.strokes:
        layer = pixels.copy()
        _stroke(layer, stroke.points, stroke.colour, stroke.width, zoom)
        cv2.addWeighted(layer, stroke.opacity, pixels, 1 - stroke.opacity, 0, pixels)
    for (x, y), colour, _ in chart.dots:
        cv2.circle(pixels, (round(x * zoom), round(y * zoom)), 4 * zoom, _rgb(colour), -1, cv2.LINE_AA)
    _write_texts(pixels, chart, zoom)
    return Image.fromarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8))


def lay_out(lines: Sequence[ChartLine], width: int, height: int) -> Chart:
    """Place axes, ticks and strokes of the curves in a chart of the given size in pixels."""
    right, top, bottom = width - 18.0, 30.0, height - 42.0
    steps = [step for line in lines for step in line.curve.steps]
    shown = [value for line in lines for value in line.curve.values if _is_shown(value)]
    x_low, x_high = (min(steps), max(steps)) if steps else (0, 1)
    y_low, y_high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    y_values = nice_ticks(y_low, y_high, 5)
    labels = [tick_text(value) for value in y_values]
    left = max(54.0, _LABEL_GAP + _CHARACTER * max(map(len, labels)))
    x_scale = _Scale(x_low, max(x_high, x_low + 1), left, right)
    y_scale = _Scale(min(y_low, y_values[0]), max(y_high, y_values[-1]), bottom, top)
    strokes: list[Stroke] = []
    dots: list[tuple[Point, str, str]] = []
    for line in lines:
        strokes += _strokes(line, x_scale, y_scale)
        if line.style == "points" or len(line.curve.steps) == 1:
            dots += _dots(line, x_scale, y_scale)
    x_values = [value for value in nice_ticks(x_low, x_high, 7) if value == int(value) and x_low <= value <= x_high]
    return Chart(
        width, height, left, right, top, bottom,
        tuple(Tick(x_scale(value), f"{value:g}") for value in x_values),
        tuple(Tick(y_scale(value), text) for value, text in zip(y_values, labels, strict=True)),
        tuple(strokes),
        tuple(dots),
        tuple((line.label, line.colour) for line in lines) if len(lines) > 1 else (),
    )  # fmt: skip


def tick_text(value: float) -> str:
    """A value as an axis has it: plain digits, or a power of ten where they would be many."""
    plain = f"{value:.6f}".rstrip("0").rstrip(".")
    is_plain = value == 0 or (1e-3 <= abs(value) < 1e6 and math.isclose(float(plain), value, rel_tol=1e-6))
    return plain if is_plain and plain not in ("-0", "") else f"{value:.4g}"


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values, in steps of 1, 2 or 5 times a power of ten, from `low` or below to `high` or over."""
    if high - low <= max(abs(low), abs(high), 1e-12) * 1e-9:
        low, high = low - max(abs(low) * 0.1, 1e-6), high + max(abs(high) * 0.1, 1e-6)
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    """Maps values low..high to pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _is_shown(value: float) -> bool:
    return math.isfinite(value) and abs(value) < _LARGEST


def _strokes(line: ChartLine, x_scale: _Scale, y_scale: _Scale) -> Iterator[Stroke]:
    values = [value if _is_shown(value) else math.nan for value in line.curve.values]
    smooth = line.style == "noisy" and len(values) > 12
    for points in _pieces(line.curve.steps, values, x_scale, y_scale):
        yield Stroke(points, line.colour, 1.0 if smooth else 2.0, 0.35 if smooth else 1.0)
    if smooth:
        for points in _pieces(line.curve.steps, _running_mean(values), x_scale, y_scale):
            yield Stroke(points, line.colour, 2.2, 1.0)


def _pieces(
    steps: Sequence[int], values: Sequence[float], x_scale: _Scale, y_scale: _Scale
) -> Iterator[tuple[Point, ...]]:
    """The line in pixels, broken where a value is NaN."""
    piece: list[Point] = []
    for step, value in zip(steps, values, strict=True):
        if math.isnan(value):
            if piece:
                yield tuple(piece)
            piece = []
        else:
            piece.append((round(x_scale(step), 2), round(y_scale(value), 2)))
    if piece:
        yield tuple(piece)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Centred mean over _WINDOW values, fewer at the ends; NaN values are left out and stay NaN."""
    half = _WINDOW // 2
    means = []
    for index, value in enumerate(values):
        near = [other for other in values[max(0, index - half) : index + half + 1] if not math.isnan(other)]
        means.append(math.nan if math.isnan(value) else sum(near) / len(near))
    return means


def _dots(line: ChartLine, x_scale: _Scale, y_scale: _Scale) -> Iterator[tuple[Point, str, str]]:
    for step, value in zip(line.curve.steps, line.curve.values, strict=True):
        if _is_shown(value):
            place = (round(x_scale(step), 2), round(y_scale(value), 2))
            yield place, line.colour, f"step {step}: {value:.4g}"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _stroke(pixels: np.ndarray, points: Sequence[Point], colour: str, width: float, zoom: int) -> None:
    fixed = np.rint(np.array(points, np.float64) * zoom * 16).astype(np.int32)
    cv2.polylines(pixels, [fixed], False, _rgb(colour), max(1, round(width * zoom)), cv2.LINE_AA, 4)


def _write_texts(pixels: np.ndarray, chart: Chart, zoom: int) -> None:
    ink = _rgb("#3c4452")
    for tick in chart.x_ticks:
        _write(pixels, tick.text, (tick.at, chart.bottom + 18), ink, 0.5, zoom)
    for tick in chart.y_ticks:
        _write(pixels, tick.text, (chart.left - 8, tick.at + 4), ink, 1.0, zoom)
    _write(pixels, "step", ((chart.left + chart.right) / 2, chart.bottom + 36), ink, 0.5, zoom)
    x = chart.left
    for label, colour in chart.legend:
        x += _write(pixels, label, (x, chart.top - 14), _rgb(colour), 0.0, zoom) + 14


def _write(pixels: np.ndarray, text: str, place: Point, colour: tuple[int, int, int], share: float, zoom: int) -> float:
    """Write text of which `share` of its width lies left of `place`; returns the width in chart pixels."""
    font, size = cv2.FontFace("uni"), 12 * zoom
    text = text.encode("utf-8", "replace").decode("utf-8")
    _, _, wide, _ = cv2.getTextSize((0, 0), text, (0, 0), font, size, 400)
    corner = (round(place[0] * zoom - share * wide), round(place[1] * zoom))
    cv2.putText(pixels, text, corner, colour, font, size, 400)
    return wide / zoom
