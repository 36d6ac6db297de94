"""Colour operations against values worked out by hand, and at the ends of their ranges."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from plumbline.augment.ops import COLOUR
from plumbline.config.limits import Range
from plumbline.data.keyed import keyed_generator


def apply(name: str, image: Any, *values: float, **params: Any) -> list[Any]:
    return COLOUR[name](**params).apply(np.array(image, np.uint8), values).tolist()


def photo(height: int = 60, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 230, width)[None, :, None] + rng.normal(0, 12, (height, width, 1)) * np.ones(3)
    return np.clip(ramp, 0, 255).astype(np.uint8)


def test_contrast_turns_about_the_mean_grey_after_brightness() -> None:
    row = [[[100, 100, 100], [200, 200, 200]]]  # mean 150; at half brightness 75
    assert apply("color_jitter", row, 1.0, 0.5, 1.0) == [[[125] * 3, [175] * 3]]
    assert apply("color_jitter", row, 0.5, 2.0, 1.0) == [[[25] * 3, [125] * 3]]
    assert apply("color_jitter", row, 1.0, 0.0, 1.0) == [[[150] * 3, [150] * 3]]
    assert apply("color_jitter", row, 2.0, 1.0, 1.0) == [[[200] * 3, [255] * 3]]


def test_saturation_moves_away_from_each_pixels_own_grey() -> None:
    # Grey of pure red is 0.299 * 200 = 59.8; twice as far from it is 340.2 (cut to 255) and -59.8 (cut to 0).
    assert apply("color_jitter", [[[200, 0, 0]]], 1.0, 1.0, 2.0) == [[[255, 0, 0]]]
    assert apply("color_jitter", [[[200, 0, 0]]], 1.0, 1.0, 0.5) == [[[130, 30, 30]]]


@pytest.mark.parametrize("degrees", [120.0, -240.0])
def test_a_third_of_a_turn_makes_green_of_red(degrees: float) -> None:
    (red, green, blue) = apply("hsv", [[[255, 0, 0]]], degrees, 0.0, 0.0)[0][0]
    assert red <= 6 and green == 255 and blue <= 6


def test_value_and_saturation_are_cut_at_their_ends() -> None:
    assert apply("hsv", [[[200, 200, 200]]], 0.0, 0.0, 1.0) == [[[255, 255, 255]]]
    assert apply("hsv", [[[200, 100, 100]]], 0.0, -1.0, 0.0) == [[[200, 200, 200]]]
    assert apply("hsv", [[[200, 100, 100]]], 0.0, 0.0, -1.0) == [[[0, 0, 0]]]


def test_each_channel_is_stretched_by_itself() -> None:
    row = [[[10, 0, 50], [20, 255, 50], [30, 100, 50]]]
    assert apply("auto_contrast", row, cutoff=0.0) == [[[0, 0, 50], [128, 255, 50], [255, 100, 50]]]


def test_the_cutoff_ignores_a_few_extreme_pixels() -> None:
    image = np.full((10, 100, 3), 100, np.uint8)
    image[:, 50:] = 150
    image[0, :5], image[0, -5:] = 0, 255  # 0.5 percent on each side
    stretched = COLOUR["auto_contrast"](cutoff=1.0).apply(image, ())
    assert sorted(np.unique(stretched)) == [0, 255]


def test_equal_luma_counts_end_evenly_spread_and_colour_stays() -> None:
    row = [[[50] * 3, [60] * 3, [70] * 3, [80] * 3]]
    assert [pixel[0] for pixel in apply("equalize", row)[0]] == [0, 85, 170, 255]
    image = photo()
    spread = COLOUR["equalize"]().apply(image, ())
    assert spread.std() >= image.std()


def test_a_flat_picture_stays_flat() -> None:
    flat = np.full((9, 12, 3), 90, np.uint8)
    for name in ("auto_contrast", "sharpness", "blur"):
        values = COLOUR[name]().draw(keyed_generator(0, 0, 0, "test"))
        assert np.array_equal(COLOUR[name]().apply(flat, values), flat)


def test_sharpness_two_doubles_the_distance_from_the_smoothed_picture() -> None:
    image = np.zeros((5, 5, 3), np.uint8)
    image[2, 2] = 130
    smooth = COLOUR["sharpness"]().apply(image, (0.0,))[..., 0]
    assert smooth[1:4, 1:4].tolist() == [[10, 10, 10], [10, 50, 10], [10, 10, 10]]  # 130 / 13 and 5 * 130 / 13
    assert COLOUR["sharpness"]().apply(image, (2.0,))[2, 2, 0] == 2 * 130 - 50


def test_blur_spreads_a_point_by_its_sigma() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[18:23, 18:23] = 255
    blurred = COLOUR["blur"]().apply(image, (3.0,))[..., 0].astype(float)
    offsets = np.arange(41) - 20
    variance = (blurred.sum(0) * offsets**2).sum() / blurred.sum()
    assert variance == pytest.approx(9 + 2, rel=0.1)  # of the kernel and of five pixels in a row


def test_noise_comes_from_its_own_seed_and_is_cut_at_the_ends() -> None:
    noise = COLOUR["noise"]()
    flat = np.full((100, 100, 3), 128, np.uint8)
    assert np.array_equal(noise.apply(flat, (5.0, 3.0)), noise.apply(flat, (5.0, 3.0)))
    assert not np.array_equal(noise.apply(flat, (5.0, 3.0)), noise.apply(flat, (5.0, 4.0)))
    assert np.array_equal(noise.apply(flat, (0.0, 3.0)), flat)
    loud = noise.apply(flat, (20.0, 3.0)).astype(float) - 128
    assert loud.std() == pytest.approx(20, rel=0.02)
    assert (np.abs(loud) > 40).mean() == pytest.approx(1 - math.erf(math.sqrt(2)), rel=0.1)  # beyond two sigma
    dark = noise.apply(np.zeros_like(flat), (20.0, 3.0))
    assert (dark == 0).mean() == pytest.approx(0.5, abs=0.02) and dark.max() < 128


def test_a_drawn_jpeg_is_nearer_to_the_picture_the_better_its_quality() -> None:
    image = photo()
    errors = [np.abs(COLOUR["jpeg"]().apply(image, (q,)).astype(int) - image).mean() for q in (5, 50, 100)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 4


def test_clahe_raises_local_contrast_within_its_limit() -> None:
    image = photo() // 4 + 90
    stds = [image.std(), *(COLOUR["clahe"](tiles=4).apply(image, (limit,)).std() for limit in (1.5, 10.0))]
    assert stds[0] < stds[1] < stds[2]


@pytest.mark.parametrize("name", COLOUR)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 3), (5, 3, 3), (33, 17, 3)])
def test_the_ends_of_every_range_give_pictures(name: str, shape: tuple[int, int, int]) -> None:
    hints = get_type_hints(COLOUR[name], include_extras=True)
    image = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    for end in (0, 1):
        params = {}
        for item in fields(COLOUR[name]):
            if item.name == "prob":
                continue
            limit = next(extra for extra in get_args(hints[item.name])[1:] if isinstance(extra, Range))
            low = limit.ge if limit.ge is not None else (limit.gt or 0.0) + 1e-3
            high = limit.le if limit.le is not None else (limit.lt or 0.0) - 1e-3
            value = (low, high)[end]
            params[item.name] = (value, value) if isinstance(item.default, tuple) else value
        operation = COLOUR[name](**params)
        out = operation.apply(image, operation.draw(keyed_generator(0, 0, end, "test")))
        assert out.shape == shape and out.dtype == np.uint8
