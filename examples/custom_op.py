"""An augmentation of your own: rows of darker lines, as some cameras under LED light show them.

Name the file in the YAML, and the operation among the others:

    custom:
      plugins: [examples/custom_op.py]
      augmentation:
        enabled: true
        ops:
          - {name: banding, params: {strength: 0.3}}

`draw` gets a random generator keyed by sample and epoch, so that a resumed run draws the same; `apply` gets the picture
[H, W, 3] as uint8 and what was drawn. `plumbline data preview RUN.yaml` shows the result.
"""

from dataclasses import dataclass

import numpy as np

from plumbline.augment.ops import register


@register("banding")
@dataclass(frozen=True, kw_only=True)
class Banding:
    """Darken the picture in horizontal waves."""

    strength: float = 0.3
    """How much darker the darkest line is, from 0 to 1."""
    lines: float = 40.0
    """Height of a wave in pixels."""
    prob: float = 0.3
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        return self.strength * rng.random(), rng.random()

    def apply(self, image: np.ndarray, values: tuple[float, float]) -> np.ndarray:
        depth, phase = values
        rows = np.arange(len(image))[:, None, None]
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * (rows / self.lines + phase))
        return (image * (1 - depth * wave)).astype(np.uint8)
