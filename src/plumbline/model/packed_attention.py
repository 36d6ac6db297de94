"""Attention over packs: several samples in one row, none of which sees another.

A packed batch is one row of tokens whose text positions start again at 0 with every sample; there is no padding and no
mask. FlashAttention reads the samples' borders from those positions. For every other device sdpa is run here sample by
sample: the work and the memory are those of the samples, not of the square of the pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from plumbline.errors import ConfigError, Problem

PACKED_SDPA = "plumbline_packed_sdpa"
SEGMENTS = "segment_lengths"
"""Keyword that carries the samples' lengths through the language model to every attention layer."""


def _packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segment_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """sdpa, sample by sample when `segment_lengths` are given; query, key, value: [1, heads, tokens, width].

    Returns ([1, tokens, heads, width], None), as transformers' attention functions do.
    """
    if segment_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    queries, keys, values = (tensor.split(list(segment_lengths), dim=2) for tensor in (query, key, value))
    parts = [
        sdpa_attention_forward(module, *part, attention_mask=None, **kwargs)[0]
        for part in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(parts, dim=1), None


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No mask for a pack (its borders are kept by splitting); padded batches get sdpa's own."""
    return None if kwargs.get("attention_mask") is None else sdpa_mask(*args, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(PACKED_SDPA, _packed_sdpa)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_SDPA, _mask)


def enable_packing(base: Any) -> None:
    """Make a loaded Qwen3-VL keep packed samples apart; ConfigError for an attention kernel that cannot."""
    config = base.config.text_config
    kernel = config._attn_implementation
    if kernel == "sdpa":
        config._attn_implementation = PACKED_SDPA
    elif kernel != PACKED_SDPA and not str(kernel).startswith("flash_attention"):
        what = f"the attention kernel {kernel} would let packed samples see each other"
        raise ConfigError(Problem("model.attn_impl", what, "use sdpa or flash_attention_2, or packing: false"))


def segments_of(position_ids: Tensor | None) -> dict[str, list[int]]:
    """The keyword of a packed batch from its positions [4, 1, T] (text first); nothing for a padded one."""
    if position_ids is None or position_ids.shape[0] != 4:
        return {}
    starts = (position_ids[0, 0] == 0).nonzero()[:, 0].tolist()
    ends = [*starts[1:], position_ids.shape[-1]]
    return {SEGMENTS: [end - start for start, end in zip(starts, ends, strict=True)]}
