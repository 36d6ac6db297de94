"""Operations that keep the canvas and move what is on it: flips, turns, zooms, slants, perspective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from plumbline.augment.plan import AugmentationStep, Skip, View, between
from plumbline.config.limits import Range
from plumbline.geometry.maps import (
    Map,
    about,
    canvas_corners,
    corners_of_box,
    horizontal_flip,
    map_points,
    rectangle_to_quad,
    rotation,
    scaling,
    shear,
    translation,
    vertical_flip,
)

Probability = Annotated[float, Range(ge=0, le=1)]


def _on_canvas(view: View, matrix: Map) -> AugmentationStep:
    return AugmentationStep(matrix, view.width, view.height)


def _about_middle(view: View, matrix: Map) -> AugmentationStep:
    return _on_canvas(view, about((view.width / 2, view.height / 2), matrix))


@dataclass(frozen=True, kw_only=True)
class HFlip:
    """Mirror left and right."""

    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        return _on_canvas(view, horizontal_flip(view.width))


@dataclass(frozen=True, kw_only=True)
class VFlip:
    """Mirror top and bottom."""

    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        return _on_canvas(view, vertical_flip(view.height))


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """Turn about the middle by an angle drawn evenly from [-max_deg, max_deg]; boxes become quads."""

    max_deg: Annotated[float, Range(ge=0, le=180)] = 10.0
    """Largest angle in degrees, either way."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        return _about_middle(view, rotation(between(rng, -self.max_deg, self.max_deg)))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Zoom about the middle on the same canvas."""

    factor: Annotated[tuple[float, float], Range(gt=0, le=10)] = (0.9, 1.1)
    """Range of the zoom; above 1 things grow."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        factor = between(rng, *self.factor)
        return _about_middle(view, scaling(factor, factor))


@dataclass(frozen=True, kw_only=True)
class Shear:
    """Slant about the middle, each axis by an angle drawn evenly from both sides of zero."""

    max_x_deg: Annotated[float, Range(ge=0, le=45)] = 5.0
    """Largest slant of vertical lines in degrees."""
    max_y_deg: Annotated[float, Range(ge=0, le=40)] = 0.0
    """Largest slant of horizontal lines in degrees."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        x = between(rng, -self.max_x_deg, self.max_x_deg)
        return _about_middle(view, shear(x, between(rng, -self.max_y_deg, self.max_y_deg)))


@dataclass(frozen=True, kw_only=True)
class Perspective:
    """Move the four corners apart from each other, as if the camera had moved.

    The corners are those of everything that is shown or could be shown again (canvas, mapped source, what a crop kept
    and pasted pieces together), so that none of it ever lies behind the horizon, however many operations follow each
    other.
    """

    max_shift: Annotated[float, Range(ge=0, le=0.2)] = 0.05
    """Largest move of a corner, as a share of the side."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, view: View, rng: np.random.Generator) -> AugmentationStep | Skip:
        everything = map_points(canvas_corners(*view.source), view.matrix).tolist()
        if view.is_cropped:  # the crop's window may reach beyond the source, over what was turned or padded in
            everything += view.kept_corners.tolist()
        for patch in view.patches:
            everything += map_points(corners_of_box(np.reshape(patch.rect, (2, 2))), patch.matrix).tolist()
        xs, ys = [0.0, view.width, *(x for x, _ in everything)], [0.0, view.height, *(y for _, y in everything)]
        left, top = min(xs), min(ys)
        width, height = max(xs) - left, max(ys) - top
        draws = rng.random(8).tolist()
        corners = [
            (left + width * (x + self._shift(dx)), top + height * (y + self._shift(dy)))
            for (x, y), dx, dy in zip(((0, 0), (1, 0), (1, 1), (0, 1)), draws[::2], draws[1::2], strict=True)
        ]
        return _on_canvas(view, rectangle_to_quad(width, height, corners) @ translation(-left, -top))

    def _shift(self, draw: float) -> float:
        return self.max_shift * (2 * draw - 1)
