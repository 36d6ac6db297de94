"""The exact token length of a sample from the picture's header, the grid's arithmetic and the tokenizer: no pixels.

Training and inference bring every picture onto the patch grid with `resize_to_grid`, by the limits of the model's own
image processor, before the upstream sees it. `grid_size` is therefore the one place that decides a picture's tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from plumbline.batch.tokens import TokenCounter
from plumbline.data.dataset import Sample
from plumbline.errors import ConfigError, DamagedFileError, DataError, Problem

if TYPE_CHECKING:
    from PIL import Image

MAX_RATIO = 200
LEAST_TOKENS = 4
MOST_TOKENS = 16384
"""The upstream's loader never leaves this range; limits beyond it would make it resize a second time."""

_IMAGE_MARK = "<|vision_start|><|image_pad|><|vision_end|>"


class ImageProcessor(Protocol):
    """What is read of a transformers image processor."""

    patch_size: int
    merge_size: int
    size: Any


@dataclass(frozen=True, slots=True)
class PixelLimits:
    """The grid of a model: patch side in pixels, patches per visual token along one side, least and most area."""

    patch: int
    merge: int
    min_pixels: int
    max_pixels: int

    @property
    def factor(self) -> int:
        """Side of one visual token in pixels."""
        return self.patch * self.merge

    @classmethod
    def of_processor(cls, processor: ImageProcessor, max_pixels: int | None = None) -> Self:
        """The limits of a loaded image processor; `max_pixels` lowers the most area (`template.max_pixels`)."""
        size = processor.size
        return cls._of_numbers(
            processor.patch_size, processor.merge_size, size["shortest_edge"], size["longest_edge"], max_pixels
        )

    @classmethod
    def of_folder(cls, folder: str | Path, max_pixels: int | None = None) -> Self:
        """The same from a checkpoint's files, without loading anything.

        Raises DamagedFileError when the folder has no usable description of its image processor.
        """
        numbers = _read_processor(Path(folder))
        size = numbers.get("size") or {}
        try:
            return cls._of_numbers(
                numbers["patch_size"],
                numbers["merge_size"],
                numbers.get("min_pixels") or size["shortest_edge"],
                numbers.get("max_pixels") or size["longest_edge"],
                max_pixels,
            )
        except (KeyError, TypeError) as error:
            raise DamagedFileError(Problem(str(folder), f"its image processor lacks {error}")) from error

    @classmethod
    def _of_numbers(cls, patch: int, merge: int, least: int, most: int, max_pixels: int | None) -> Self:
        token = (patch * merge) ** 2
        least = max(least, LEAST_TOKENS * token)
        most = min(most, MOST_TOKENS * token, max_pixels or most)
        if most < least:
            what = f"{most} pixels are below the least area of {least} pixels"
            raise ConfigError(Problem("template.max_pixels", what, f"give at least {least}"))
        return cls(patch, merge, least, most)


def grid_size(width: int, height: int, limits: PixelLimits) -> tuple[int, int]:
    """(width, height) after resizing: multiples of `limits.factor`, the area within the limits, the ratio nearly kept.

    The formula is transformers' `smart_resize` of the Qwen2-VL image processor. Raises ValueError for a picture more
    than 200 times as long as wide.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no area")
    _check_ratio(width, height)
    factor = limits.factor
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    if tall * wide > limits.max_pixels:
        shrink = math.sqrt(height * width / limits.max_pixels)
        tall = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif tall * wide < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / (height * width))
        tall, wide = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    _check_ratio(wide, tall)  # rounding a thin side down may cross the limit, where the upstream would refuse
    return wide, tall


def _check_ratio(width: int, height: int) -> None:
    ratio = max(width, height) / min(width, height)
    if ratio > MAX_RATIO:
        raise ValueError(f"a picture of {width} x {height} is {ratio:.0f} times as long as wide, {MAX_RATIO} at most")


def image_tokens(width: int, height: int, limits: PixelLimits) -> int:
    """Visual tokens of a picture of width x height pixels."""
    wide, tall = grid_size(width, height, limits)
    return (wide // limits.factor) * (tall // limits.factor)


def resize_to_grid(image: Image.Image, limits: PixelLimits) -> Image.Image:
    """The picture on the model's patch grid (bicubic); itself when it is there already."""
    from PIL import Image

    size = grid_size(image.width, image.height, limits)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def exact_length(sample: Sample, counter: TokenCounter, limits: PixelLimits) -> int:
    """Tokens of a sample, prompt and answer, as the upstream's template encodes it.

    No picture is opened whose record or plan has its size, of others only the header is read. Raises DataError for a
    picture that cannot be opened or is too thin for the grid.
    """
    return chat_length(sample.messages, [picture.shown_size() for picture in sample.pictures], counter, limits)


def chat_length(
    messages: Sequence[Mapping[str, Any]],
    sizes: Sequence[tuple[int, int]],
    counter: TokenCounter,
    limits: PixelLimits,
) -> int:
    """The same from sizes (width, height) in pixels, one per picture, for plans that have no pictures yet."""
    text = sum(map(counter.count, rendered_parts(messages)))
    try:
        # Each picture's placeholder is one token of the text already.
        return text + sum(image_tokens(width, height, limits) - 1 for width, height in sizes)
    except ValueError as error:
        raise DataError(Problem("images", str(error), "crop the picture")) from error


def rendered_parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The chat as text, cut where training cuts it: prompts and answers are tokenized apart.

    A token never spans the start of an answer, since only the answer is supervised.
    """
    prompt = ""
    for message in messages:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(map(_rendered_item, content))
        if message["role"] == "assistant":
            yield f"{prompt}<|im_start|>assistant\n"
            yield f"{text}<|im_end|>\n"
            prompt = ""
        else:
            prompt += f"<|im_start|>{message['role']}\n{text}<|im_end|>\n"
    if prompt:
        yield f"{prompt}<|im_start|>assistant\n"


def _rendered_item(item: Mapping[str, Any]) -> str:
    return _IMAGE_MARK if item["type"] == "image" else item["text"]


def _read_processor(folder: Path) -> dict[str, Any]:
    """The image processor's numbers: its own file, or its section of the processor's (transformers 5)."""
    for name, section in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = folder / name
        if not path.is_file():
            continue
        try:
            numbers = json.loads(path.read_text(encoding="utf-8"))
            return numbers if section is None else numbers[section]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(Problem(str(path), f"cannot be read: {error}")) from error
    what = "neither preprocessor_config.json nor processor_config.json"
    raise DamagedFileError(Problem(str(folder), what, "give the folder of a complete checkpoint"))
