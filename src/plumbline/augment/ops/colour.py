"""Operations on values: they never move a pixel. Drawn when the plan is made, applied after the one warp.

All take uint8 RGB [H, W, 3] and give a new array of the same form. What depends on single values goes through a table
of 256 entries, so that its price does not depend on the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import numpy as np

from plumbline.augment.ops.affine import Probability
from plumbline.augment.plan import between
from plumbline.config.limits import Range

Factors = Annotated[tuple[float, float], Range(ge=0, le=10)]
_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as every imaging library weighs grey."""


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_LEVELS = np.arange(256, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness, contrast and saturation, each by a factor."""

    brightness: Factors = (0.85, 1.15)
    """Range of the factor of all values."""
    contrast: Factors = (0.85, 1.15)
    """Range of the factor of the distance from the picture's mean grey."""
    saturation: Factors = (0.85, 1.15)
    """Range of the factor of the distance from each pixel's grey."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return tuple(between(rng, *span) for span in (self.brightness, self.contrast, self.saturation))

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        brightness, contrast, saturation = values
        import cv2

        mean = float(np.dot(cv2.mean(image)[:3], _LUMA)) * brightness
        out = cv2.LUT(image, _table((_LEVELS * brightness - mean) * contrast + mean))
        if saturation == 1.0:
            return out
        # One 3x3 product: s * pixel + (1 - s) * grey.
        mix = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
        return cv2.transform(out, mix)


@dataclass(frozen=True, kw_only=True)
class Gamma:
    """v becomes 255 (v / 255) ** gamma."""

    gamma: Annotated[tuple[float, float], Range(gt=0, le=10)] = (0.8, 1.25)
    """Range of the exponent; below 1 dark parts grow lighter."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return (between(rng, *self.gamma),)

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        return cv2.LUT(image, _table(255 * (_LEVELS / 255) ** values[0]))


@dataclass(frozen=True, kw_only=True)
class Hsv:
    """Hue, saturation and value, each moved by an amount drawn evenly from both sides of zero."""

    hue_deg: Annotated[float, Range(ge=0, le=180)] = 8.0
    """Largest turn of the hue in degrees."""
    saturation: Annotated[float, Range(ge=0, le=1)] = 0.1
    """Largest change of the saturation, whose scale is 0 to 1."""
    value: Annotated[float, Range(ge=0, le=1)] = 0.1
    """Largest change of the value, whose scale is 0 to 1."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return tuple(between(rng, -most, most) for most in (self.hue_deg, self.saturation, self.value))

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
        turned = ((_LEVELS + values[0] * 256 / 360) % 256).astype(np.uint8)
        changes = zip((saturation, value), values[1:], strict=True)
        moved = (cv2.LUT(channel, _table(_LEVELS + 255 * change)) for channel, change in changes)
        return cv2.cvtColor(cv2.merge((cv2.LUT(hue, turned), *moved)), cv2.COLOR_HSV2RGB_FULL)


@dataclass(frozen=True, kw_only=True)
class Clahe:
    """Equalise the luma tile by tile with limited contrast (Zuiderveld 1994); the colours stay."""

    clip_limit: Annotated[tuple[float, float], Range(gt=0, le=40)] = (1.0, 3.0)
    """Range of the limit."""
    tiles: Annotated[int, Range(ge=1, le=64)] = 8
    """Tiles along each side."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return (between(rng, *self.clip_limit),)

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        luma, red, blue = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
        tiles = min(self.tiles, *image.shape[:2])
        luma = cv2.createCLAHE(clipLimit=values[0], tileGridSize=(tiles, tiles)).apply(luma)
        return cv2.cvtColor(cv2.merge((luma, red, blue)), cv2.COLOR_YCrCb2RGB)


@dataclass(frozen=True, kw_only=True)
class AutoContrast:
    """Stretch each channel to the whole range after cutting its darkest and lightest values."""

    cutoff: Annotated[float, Range(ge=0, lt=50)] = 1.0
    """Percent of the pixels that are cut at each end."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return ()

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        tables = np.empty((256, 1, 3), np.uint8)
        for channel in range(3):
            counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).astype(np.int64)
            shares = np.cumsum(counts) / counts.sum()
            low = int(np.searchsorted(shares, self.cutoff / 100, side="right"))
            high = int(np.searchsorted(shares, 1 - self.cutoff / 100))
            stretch = 255 / (high - low) if high > low else 0.0
            tables[:, 0, channel] = _table((_LEVELS - low) * stretch) if stretch else np.arange(256)
        return cv2.LUT(image, tables)


@dataclass(frozen=True, kw_only=True)
class Equalize:
    """Equalise the histogram of the luma; the colours stay."""

    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return ()

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        luma, red, blue = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
        return cv2.cvtColor(cv2.merge((cv2.equalizeHist(luma), red, blue)), cv2.COLOR_YCrCb2RGB)


@dataclass(frozen=True, kw_only=True)
class Solarize:
    """Invert the values at and above a threshold."""

    threshold: Annotated[tuple[float, float], Range(ge=0, le=256)] = (128.0, 256.0)
    """Range of the threshold; 256 changes nothing."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return (between(rng, *self.threshold),)

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        return cv2.LUT(image, _table(np.where(values[0] <= _LEVELS, 255 - _LEVELS, _LEVELS)))


@dataclass(frozen=True, kw_only=True)
class Posterize:
    """Keep the highest bits of each value."""

    bits: Annotated[tuple[int, int], Range(ge=1, le=8)] = (4, 8)
    """Range of the number of bits; 8 changes nothing."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return (float(rng.integers(self.bits[0], self.bits[1] + 1)),)

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        return image & np.uint8(256 - 2 ** (8 - int(values[0])))


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """Away from (above 1) or towards (below 1) a smoothed picture."""

    factor: Annotated[tuple[float, float], Range(ge=0, le=10)] = (0.7, 1.5)
    """Range of the factor; 0 is the smoothed picture, 1 changes nothing."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return (between(rng, *self.factor),)

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        smooth = cv2.filter2D(image, -1, np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13)
        return cv2.addWeighted(image, values[0], smooth, 1 - values[0], 0)


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Gaussian blur."""

    sigma: Annotated[tuple[float, float], Range(gt=0, le=20)] = (0.3, 1.2)
    """Range of the standard deviation in pixels of the model's grid."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return (between(rng, *self.sigma),)

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        return cv2.GaussianBlur(image, (0, 0), values[0])


@cache
def _normal_quantiles() -> np.ndarray:
    """The standard normal distribution as 65,536 equally probable values."""
    from statistics import NormalDist

    normal = NormalDist()
    return np.array([normal.inv_cdf((index + 0.5) / (1 << 16)) for index in range(1 << 16)])


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise, each value by itself."""

    sigma: Annotated[tuple[float, float], Range(ge=0, le=128)] = (2.0, 10.0)
    """Range of the standard deviation in grey levels."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        # The noise itself is drawn when it is rendered, from a seed that belongs to the plan.
        return between(rng, *self.sigma), float(rng.integers(2**52))

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        # Whole grey levels are added: a table of 65,536 quantiles is as good as exact numbers and five times faster.
        levels = np.rint(_normal_quantiles() * values[0]).astype(np.int16)
        draws = np.random.default_rng(int(values[1])).integers(0, 1 << 16, image.shape, dtype=np.uint16)
        return cv2.add(image, levels[draws], dtype=cv2.CV_8U)


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """Compress and decompress as JPEG."""

    quality: Annotated[tuple[int, int], Range(ge=1, le=100)] = (50, 95)
    """Range of the quality."""
    prob: Probability = 1.0
    """Chance that it acts."""

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        return (float(rng.integers(self.quality[0], self.quality[1] + 1)),)

    def apply(self, image: np.ndarray, values: Sequence[float]) -> np.ndarray:
        import cv2

        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(values[0])])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None, "it was encoded a line above"
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
