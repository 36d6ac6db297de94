"""What a configuration may say about augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from plumbline.config.limits import Range

OpName = Literal[
    "hflip",
    "vflip",
    "rotate",
    "scale",
    "shear",
    "perspective",
    "resize_by_scale",
    "expand_to_fit_affine",
    "pad_to_multiple",
    "center_crop",
    "random_crop",
    "roi_crop",
    "small_object_zoom_paste",
    "color_jitter",
    "gamma",
    "hsv",
    "clahe",
    "auto_contrast",
    "equalize",
    "solarize",
    "posterize",
    "sharpness",
    "blur",
    "noise",
    "jpeg",
]


@dataclass(frozen=True, kw_only=True)
class OpConfig:
    """One operation of the augmentation chain."""

    name: OpName
    """Which operation."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Its parameters; `prob` is the chance that it acts on a sample."""


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random changes of training images and their geometry together; validation is never augmented."""

    enabled: bool = False
    """Whether training samples are augmented."""
    bypass_prob: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Chance that a sample is left as it is."""
    ops: tuple[OpConfig, ...] = ()
    """Operations in the order in which they act."""
    curriculum: Mapping[str, Any] | None = None
    """Phases over the run between which the parameters move."""
