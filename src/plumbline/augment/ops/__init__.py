"""The operations by the names that a configuration uses. A new one is a class in its file and a line here.

A plugin (`custom.plugins`) adds its own with `register`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plumbline.augment.ops.affine import HFlip, Perspective, Rotate, Scale, Shear, VFlip
from plumbline.augment.ops.canvas import (
    CenterCrop,
    ExpandToFitAffine,
    PadToMultiple,
    RandomCrop,
    ResizeByScale,
    RoiCrop,
)
from plumbline.augment.ops.colour import (
    AutoContrast,
    Blur,
    Clahe,
    ColorJitter,
    Equalize,
    Gamma,
    Hsv,
    Jpeg,
    Noise,
    Posterize,
    Sharpness,
    Solarize,
)
from plumbline.augment.ops.paste import SmallObjectZoomPaste

GEOMETRIC: dict[str, type[Any]] = {
    "hflip": HFlip,
    "vflip": VFlip,
    "rotate": Rotate,
    "scale": Scale,
    "shear": Shear,
    "perspective": Perspective,
    "resize_by_scale": ResizeByScale,
    "expand_to_fit_affine": ExpandToFitAffine,
    "pad_to_multiple": PadToMultiple,
    "center_crop": CenterCrop,
    "random_crop": RandomCrop,
    "roi_crop": RoiCrop,
    "small_object_zoom_paste": SmallObjectZoomPaste,
}
COLOUR: dict[str, type[Any]] = {
    "color_jitter": ColorJitter,
    "gamma": Gamma,
    "hsv": Hsv,
    "clahe": Clahe,
    "auto_contrast": AutoContrast,
    "equalize": Equalize,
    "solarize": Solarize,
    "posterize": Posterize,
    "sharpness": Sharpness,
    "blur": Blur,
    "noise": Noise,
    "jpeg": Jpeg,
}
OPERATIONS: dict[str, type[Any]] = GEOMETRIC | COLOUR
NAMES: dict[type[Any], str] = {cls: name for name, cls in OPERATIONS.items()}


def register(name: str) -> Callable[[type[Any]], type[Any]]:
    """Class decorator that makes an operation known under `name`.

    The class is a frozen, keyword-only dataclass with a string below each field, like those in this folder. With
    `apply` it changes values (as in `colour.py`), otherwise geometry (as in `affine.py`). Raises ValueError for a name
    that is taken.
    """

    def add(cls: type[Any]) -> type[Any]:
        if name in OPERATIONS:
            raise ValueError(f"there is an operation called {name!r} already")
        OPERATIONS[name] = (COLOUR if hasattr(cls, "apply") else GEOMETRIC)[name] = cls
        NAMES[cls] = name
        return cls

    return add
