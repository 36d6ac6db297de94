"""A complete Qwen3-VL checkpoint of a few million parameters, built offline: real code paths without a download.

Everything that has a size is small; everything that has a name, an id or a format is the real one: tokenizer and
special ids, chat template, processor classes, patch 16 / merge 2, three deepstack mergers inside the vision depth, tied
embeddings.

Initial values are chosen so that small adapters can learn on frozen tied embeddings. With hidden size d and embedding
standard deviation s, the final norm of weight g gives a row of length g*sqrt(d), so no logit exceeds about g*s*d, while
the other 151,935 tokens together weigh ln(151936) + (g*s)^2*d/2: the library's default of s = 0.02, g = 1 leaves a
maximum far below that, and no adapter could ever be sure of a token. So g follows from the wanted spread of the logits,
s from the residual stream. Linear layers keep the variance of their input (1/fan-in); what a layer adds to a residual
stream is divided by the square root of twice the depth.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plumbline.model.checkpoints import drafted
from plumbline.model.qwen_tokenizer import SPECIAL_IDS, VOCAB_SIZE, build_tokenizer, ranks_file, read_ranks

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

PATCH = 16
MERGE = 2
CELL = (PATCH * MERGE) ** 2  # pixels behind one visual token
MIN_TOKENS = 4
MAX_TOKENS = 64
POSITION_GRID = 48
EMBEDDING_STD = 0.25  # well below what the layers add: otherwise a tied head can only repeat the input token
ATTENTION_GAIN = 1.5  # lets scores reach gain^2 * sqrt(head_dim); more would amplify rounding errors
LOGIT_STD = 4.0
KIND_SHARE = 0.5  # of a row's variance
# Digits, marks, Latin words, Chinese.
KINDS = tuple(map(re.compile, (r"[0-9]", r" ?[!-/:-@\[-`{-~]+", r"[a-z]+", r"[\u4e00-\u9fff]+")))
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


@dataclass(frozen=True)
class TinySize:
    """One size of the tiny model; widths in channels."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    vision_hidden: int
    vision_depth: int
    vision_heads: int


SIZES = {
    "tiny": TinySize(64, 4, 4, 2, 32, 64, 4, 4),
    "small": TinySize(256, 8, 8, 4, 32, 128, 4, 4),
    "learned": TinySize(192, 8, 6, 3, 32, 160, 6, 5),
}
DEEPSTACK = (0, 1, 2)


def build_tiny(folder: str | Path, size: Literal["tiny", "small"] = "tiny", seed: int = 0) -> Path:
    """Write the checkpoint into `folder`, which must not exist or be empty, and return it.

    The same size and seed give the same bytes. The folder appears whole or not at all.
    Raises UserError when the folder is in use or the Qwen vocabulary is not installed.
    """
    with drafted(folder) as draft:
        build_model(SIZES[size], seed).save_pretrained(draft)
        build_processor().save_pretrained(draft)
    return Path(folder)


def build_config(size: TinySize) -> Qwen3VLConfig:
    """The real architecture at a small size; ids as in Qwen3-VL."""
    from transformers import Qwen3VLConfig

    third = size.head_dim // 2 // 3
    rope = {
        "rope_type": "default",
        "rope_theta": 5_000_000,
        "mrope_section": [size.head_dim // 2 - 2 * third, third, third],
        "mrope_interleaved": True,
    }
    text: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": size.hidden,
        "intermediate_size": 3 * size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "head_dim": size.head_dim,
        "max_position_embeddings": 262144,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
        "bos_token_id": SPECIAL_IDS["<|endoftext|>"],
        "eos_token_id": SPECIAL_IDS["<|im_end|>"],
        "dtype": "float32",
    }
    vision: dict[str, Any] = {
        "depth": size.vision_depth,
        "hidden_size": size.vision_hidden,
        "intermediate_size": 2 * size.vision_hidden,
        "num_heads": size.vision_heads,
        "out_hidden_size": size.hidden,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "num_position_embeddings": POSITION_GRID**2,
        "deepstack_visual_indexes": list(DEEPSTACK),
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=SPECIAL_IDS["<|image_pad|>"],
        video_token_id=SPECIAL_IDS["<|video_pad|>"],
        vision_start_token_id=SPECIAL_IDS["<|vision_start|>"],
        vision_end_token_id=SPECIAL_IDS["<|vision_end|>"],
        tie_word_embeddings=True,
        dtype="float32",
    )


def build_model(size: TinySize, seed: int) -> Qwen3VLForConditionalGeneration:
    """The model with every parameter drawn, in order of name, from one generator; greedy generation by default."""
    import torch
    from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):  # the library's own initialisation draws from the global generator
        model = Qwen3VLForConditionalGeneration(build_config(size)).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(initial_value(name, parameter, size, generator))
    model.tie_weights()
    stop, pad = SPECIAL_IDS["<|im_end|>"], SPECIAL_IDS["<|endoftext|>"]
    model.generation_config = GenerationConfig(eos_token_id=[stop, pad], pad_token_id=pad, bos_token_id=pad)
    return model


def initial_value(name: str, parameter: torch.Tensor, size: TinySize, generator: torch.Generator) -> torch.Tensor:
    """First value of one parameter, by its name; see the top of this file for the reasons."""
    import torch

    shape = tuple(parameter.shape)
    if name.endswith("embed_tokens.weight"):
        return EMBEDDING_STD * kindred_rows(shape, generator)
    if name.endswith("language_model.norm.weight"):
        return torch.full(shape, logit_gain(size.hidden))
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return torch.full(shape, ATTENTION_GAIN)
    if name.endswith("pos_embed.weight"):
        return position_waves(POSITION_GRID, shape[1])
    if name.endswith("patch_embed.proj.weight"):
        return smooth_filters(shape, generator)
    if parameter.ndim == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    scale = residual_scale(name, size)
    return torch.randn(shape, generator=generator) * (scale / math.sqrt(shape[1]))


def kindred_rows(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Embedding rows of unit variance in which tokens of one kind share a direction, as in a trained model.

    Without it a frozen head could not be unsure: a state that leans on ten digits alike would be further from each of
    them than from the best of 150,000 unrelated tokens.
    """
    import torch

    noise = torch.randn(shape, generator=generator)
    kinds = torch.zeros(shape[0], dtype=torch.long)
    for token, rank in read_ranks(ranks_file()).items():
        kinds[rank] = kind_of_token(token)
    centres = torch.randn(len(KINDS) + 1, shape[1], generator=generator)
    shared = math.sqrt(KIND_SHARE) * centres[kinds] + math.sqrt(1 - KIND_SHARE) * noise
    return torch.where(kinds[:, None] == 0, noise, shared)


def kind_of_token(token: bytes) -> int:
    """1 + the index in KINDS of the first pattern that a token's text matches; 0 when none does."""
    text = token.decode("utf-8", "replace")
    return next((index for index, pattern in enumerate(KINDS, start=1) if pattern.fullmatch(text)), 0)


def logit_gain(hidden: int) -> float:
    """Weight of the final norm that gives logits of standard deviation LOGIT_STD over random tokens."""
    return LOGIT_STD / (EMBEDDING_STD * math.sqrt(hidden))


def residual_scale(name: str, size: TinySize) -> float:
    """Less than 1 for the layers that write into a residual stream."""
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return 1 / math.sqrt(2 * size.layers)
    if name.endswith((".attn.proj.weight", ".mlp.linear_fc2.weight")):
        return 1 / math.sqrt(2 * size.vision_depth)
    return 1.0


def position_waves(side: int, channels: int) -> torch.Tensor:
    """Sines and cosines of row and column, [side * side, channels]: neighbouring patches get similar vectors."""
    import torch

    quarter = channels // 4
    frequency = math.pi * 2.0 ** torch.linspace(0, math.log2(side / 2), quarter)
    angle = torch.linspace(0, 1, side)[:, None] * frequency[None, :]
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # [side, channels / 2]
    rows = axis[:, None, :].expand(side, side, -1)
    columns = axis[None, :, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, channels)


def smooth_filters(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random patch filters [out, 3, frames, 16, 16] that see colour and coarse form instead of pixel noise."""
    import torch

    out, colours, frames, height, width = shape
    coarse = torch.randn(out, colours, 1, height // 4, width // 4, generator=generator)
    filters = coarse.repeat_interleave(4, dim=3).repeat_interleave(4, dim=4).expand(-1, -1, frames, -1, -1)
    return filters / math.sqrt(colours * frames * height * width)


def build_processor() -> Qwen3VLProcessor:
    """Qwen3-VL's processor with image limits of 4 to 64 visual tokens."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    template = CHAT_TEMPLATE.read_text(encoding="utf-8")
    common: dict[str, Any] = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    limits = {"shortest_edge": MIN_TOKENS * CELL, "longest_edge": MAX_TOKENS * CELL}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits, **common),
        tokenizer=build_tokenizer(template),
        video_processor=Qwen3VLVideoProcessor(size=limits, **common),
        chat_template=template,
    )
