"""What the vision tower starts from, so that it learns from tens of thousands of pictures instead of millions."""

from __future__ import annotations

import math

import numpy as np
import torch
from lessons import small_lesson
from torch import Tensor, nn

PICTURES = 300
STENCIL = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""(rows, columns) to the patch that each of the first heads looks at; the other heads look anywhere."""
FOCUS = 6.0
_FREQUENCIES = 3  # of the rotary embedding that are fast enough to tell neighbours apart
_SPREAD = 0.7


def patches(picture: np.ndarray) -> Tensor:
    """A picture whose sides are multiples of 32 as the processor gives it: [patches, 3 * 2 * 16 * 16]."""
    high, wide = picture.shape[0] // 32, picture.shape[1] // 32
    values = torch.from_numpy(picture).float().div_(127.5).sub_(1).view(high, 2, 16, wide, 2, 16, 3)
    values = values.permute(0, 3, 1, 4, 6, 2, 5)  # rows, columns, within a visual token, channel, pixel
    return values.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(high * wide * 4, -1)


@torch.no_grad()
def first_looks(visual: nn.Module) -> None:
    """Filters that see edges as strongly as colours, and heads that begin as a convolution over neighbours."""
    _whiten(visual.patch_embed.proj)
    for block in visual.blocks:
        _look_around(block.attn.qkv, visual.config.hidden_size, visual.config.num_heads)


def _whiten(filters: nn.Conv3d) -> None:
    """Directions of real patches, each with the same spread: plain colours would drown the edges otherwise."""
    count = filters.weight.shape[0]
    pixels = torch.cat([patches(small_lesson(0, number).picture) for number in range(PICTURES)])
    frame = pixels.view(len(pixels), 3, 2, -1)[:, :, 0].flatten(1)
    mean = frame.mean(0)
    variances, directions = torch.linalg.eigh((frame - mean).T @ (frame - mean) / len(frame))
    variances, directions = variances.flip(0)[:count], directions.flip(1)[:, :count]
    scaled = (directions * (_SPREAD / (variances + 0.01 * variances.mean()).sqrt())).T
    turn, _ = torch.linalg.qr(torch.randn(count, count, generator=torch.Generator().manual_seed(0)))
    scaled = turn @ scaled
    filters.weight.copy_((scaled.view(count, 3, 1, 16, 16) / 2).expand_as(filters.weight))
    filters.bias.copy_(-(scaled @ mean))


def _look_around(qkv: nn.Linear, width: int, heads: int) -> None:
    """Biases of queries and keys whose rotary phases meet at one neighbour."""
    size = width // heads
    axis = size // 4  # frequencies of an axis
    frequencies = 10000.0 ** (-torch.arange(axis) / axis)
    strength = math.sqrt(FOCUS * math.sqrt(size))
    qkv.weight[: 2 * width] *= 0.5
    for head, offset in enumerate(STENCIL[:heads]):
        for place, distance in enumerate(offset):
            for number, frequency in enumerate(frequencies[:_FREQUENCIES].tolist()):
                own = head * size + place * axis + number
                qkv.bias[own] = strength
                qkv.bias[width + own] = strength * math.cos(frequency * distance)
                qkv.bias[width + own + size // 2] = -strength * math.sin(frequency * distance)
