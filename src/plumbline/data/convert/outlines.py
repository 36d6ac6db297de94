"""Outlines that other tools draw and the contract spells in points: turned boxes, ellipses, masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

_SAGITTA_PX = 0.25
"""How far the sides of a polygon may lie inside the ellipse that it approximates."""
MAX_RUNS = 100_000
_SIMPLIFY_PX = 0.75
"""A mask's outline is a staircase; corners that are nearer than this to the straight line between others go."""


def turned_box(
    x: float, y: float, width: float, height: float, degrees: float, about: tuple[float, float]
) -> list[float]:
    """Flat corners of the box [x, y, x + width, y + height] turned clockwise on screen around the point `about`."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    ox, oy = about
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    return [
        value
        for px, py in corners
        for value in (ox + (px - ox) * cosine - (py - oy) * sine, oy + (px - ox) * sine + (py - oy) * cosine)
    ]


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[float]:
    """Flat vertices on an ellipse that is turned clockwise on screen, enough of them for a quarter of a pixel."""
    radius = max(rx, ry)
    if not (0 < rx < math.inf and 0 < ry < math.inf):
        return [math.nan] * 8
    count = 8 if radius <= _SAGITTA_PX else math.ceil(math.pi / math.acos(1 - min(_SAGITTA_PX / radius, 1.0)))
    count = min(max(8, count), 360)
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    flat = []
    for step in range(count):
        a, b = rx * math.cos(math.tau * step / count), ry * math.sin(math.tau * step / count)
        flat += [cx + a * cosine - b * sine, cy + a * sine + b * cosine]
    return flat


def mask_outlines(counts: Sequence[int], width: int, height: int, by_columns: bool) -> list[list[float]] | None:
    """Flat outer outlines of a run-length mask, holes filled, along the edges of its pixels; None when it is broken.

    counts: lengths of runs, off and on in turn, the first off. by_columns: as COCO counts, else row by row.
    """
    import shapely  # only here: most sources have no masks

    inner = height if by_columns else width
    if not 0 < len(counts) <= MAX_RUNS or width < 1 or height < 1 or any(run < 0 for run in counts):
        return None
    ends = list(accumulate(counts))
    if ends[-1] != width * height:
        return None
    boxes = []
    for start, end in zip(ends[:-1:2], ends[1::2], strict=False):
        boxes += _run_boxes(start, end, inner)
    if not by_columns:
        boxes = [(y1, x1, y2, x2) for x1, y1, x2, y2 in boxes]
    area = shapely.unary_union([shapely.box(*box) for box in boxes])
    outlines = []
    for part in shapely.get_parts(area):
        ring = shapely.simplify(shapely.Polygon(part.exterior), _SIMPLIFY_PX).exterior
        outlines.append([float(value) for point in ring.coords[:-1] for value in point])
    return outlines


def _run_boxes(start: int, end: int, inner: int) -> list[tuple[int, int, int, int]]:
    """The run [start, end) as boxes (outer1, inner1, outer2, inner2): a head, whole lanes, a tail."""
    if start >= end:
        return []
    first, last = start // inner, (end - 1) // inner
    if first == last:
        return [(first, start - first * inner, first + 1, end - first * inner)]
    boxes = [(first, start - first * inner, first + 1, inner), (last, 0, last + 1, end - last * inner)]
    if last > first + 1:
        boxes.append((first + 1, 0, last, inner))
    return boxes


def coco_counts(text: str) -> list[int]:
    """The run lengths of COCO's compressed text: groups of five bits, low first, differences from the run before last.

    Raises ValueError when the text is not of that kind.
    """
    counts: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            if position >= len(text) or shift > 60:
                raise ValueError("the mask's text is cut off")
            code = ord(text[position]) - 48
            if not 0 <= code < 64:
                raise ValueError("the mask's text holds a character that is not its own")
            value |= (code & 31) << shift
            more = bool(code & 32)
            shift += 5
            position += 1
            if not more and code & 16:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts
