"""Pictures whose exact look is known: dots for places, waves for fidelity, a photograph-like ground for times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

DOT_PX = 1.5
"""Standard deviation of a dot where it is measured, in pixels."""


def photo_like(size: tuple[int, int]) -> np.ndarray:
    """Smooth coloured ground, a few edges, sensor noise; uint8 RGB [H, W, 3]."""
    width, height = size
    rng = np.random.default_rng(0)
    small = rng.integers(30, 226, (height // 100, width // 100, 3), dtype=np.uint8)
    ground = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    ground[height // 3 : height // 2, width // 4 : width // 2] = (210, 200, 60)
    noise = rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
    return np.clip(ground + noise, 0, 255).astype(np.uint8)


def dots(size: tuple[int, int], points: np.ndarray, sigma: float) -> np.ndarray:
    """Round dots of light on black, sampled exactly; sigma in pixels."""
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    reach = math.ceil(4 * sigma)
    for x, y in points:
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        xs = np.exp(-(((np.arange(left, min(int(x) + reach + 1, width)) + 0.5 - x) / sigma) ** 2) / 2)
        ys = np.exp(-(((np.arange(top, min(int(y) + reach + 1, height)) + 0.5 - y) / sigma) ** 2) / 2)
        picture[top : top + len(ys), left : left + len(xs)] = np.rint(255 * np.outer(ys, xs))[..., None]
    return picture


def point_errors(picture: np.ndarray, points: np.ndarray) -> Iterator[float]:
    """Distance in pixels from each mapped point to the centroid of the light around it."""
    light = picture[..., 0].astype(np.float64)
    reach = math.ceil(5 * DOT_PX)
    for x, y in points:
        left, top = int(x) - reach, int(y) - reach
        window = light[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        ys, xs = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]] + 0.5
        total = window.sum()
        yield math.hypot((xs * window).sum() / total - x, (ys * window).sum() / total - y) if total else math.inf


@dataclass(frozen=True)
class Waves:
    """127.5 plus waves of all directions; nothing shorter than `shortest` pixels."""

    shortest: float
    count: int = 12

    def _numbers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(5)
        length = self.shortest * np.exp(rng.uniform(0, math.log(10), self.count))
        angle, phase = rng.uniform(0, 2 * np.pi, (2, self.count))
        return 2 * np.pi * np.cos(angle) / length, 2 * np.pi * np.sin(angle) / length, phase

    def picture(self, size: tuple[int, int]) -> np.ndarray:
        """Sampled at the pixel centres, rounded; uint8 RGB [H, W, 3]. sin(a + b) as a sum of products is one matmul."""
        fx, fy, phase = self._numbers()
        xs, ys = (np.arange(side)[:, None] + 0.5 for side in size)
        rows = np.hstack([np.cos(ys * fy), np.sin(ys * fy)]).astype(np.float32)
        columns = np.hstack([np.sin(xs * fx + phase), np.cos(xs * fx + phase)]).astype(np.float32)
        values = np.rint(127.5 + 120 / self.count * (rows @ columns.T)).astype(np.uint8)
        return np.repeat(values[..., None], 3, axis=2)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Exact values at points [N, 2]."""
        fx, fy, phase = self._numbers()
        return 127.5 + 120 / self.count * np.sin(np.outer(points[:, 0], fx) + np.outer(points[:, 1], fy) + phase).sum(1)


def pixel_centres(size: tuple[int, int]) -> np.ndarray:
    """[W * H, 2], row by row."""
    ys, xs = np.mgrid[: size[1], : size[0]]
    return np.stack([xs.ravel(), ys.ravel()], axis=1) + 0.5


def mean_square(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(np.float64) - b).mean())


def psnr(mean_square_error: float) -> float:
    """Peak signal to noise in dB for values of 0 to 255."""
    return 10 * math.log10(255**2 / max(mean_square_error, 1e-9))
