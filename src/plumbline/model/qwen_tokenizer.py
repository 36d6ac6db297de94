"""The real Qwen tokenizer without a download: the vocabulary carried by the package `dashscope`, as a Hugging Face one.

`qwen.tiktoken` lists byte strings by rank. A Hugging Face BPE needs the merges as well; each token's merge is what BPE
itself leaves when it may use only tokens of a lower rank, so both tokenizers give the same ids (tested).
"""

from __future__ import annotations

import base64
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

FIRST_SPECIAL_ID = 151643
VOCAB_SIZE = 151936  # rows of the embedding; the ids above 151668 are never used

# In the order of their ids, from FIRST_SPECIAL_ID on. Decoding may skip the first group; the second is ordinary text.
CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEXT_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
SPECIAL_IDS = {token: FIRST_SPECIAL_ID + index for index, token in enumerate((*CONTROL_TOKENS, *TEXT_TOKENS))}


def ranks_file() -> Path:
    """Where the vocabulary lies; found without importing its package, which is slow and talks to nobody we need."""
    spec = find_spec("dashscope")
    path = Path(spec.origin).parent / "resources" / "qwen.tiktoken" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            Problem(
                "dashscope", "the Qwen vocabulary (qwen.tiktoken) is not installed", "pip install 'plumbline[demo]'"
            )
        )
    return path


def read_ranks(path: Path) -> dict[bytes, int]:
    """Byte string -> rank, in the order of the ranks 0..151642."""
    pairs = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def merge_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that BPE joins last to make `token` (two bytes or more)."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda index: ranks.get(parts[index] + parts[index + 1], len(ranks)))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte: itself where visible, else from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}


def build_tokenizer(chat_template: str, model_max_length: int = 262144) -> Qwen2Tokenizer:
    """Qwen3-VL's tokenizer with its special ids 151643..151668. Raises UserError when the vocabulary is missing."""
    from transformers import AddedToken, Qwen2Tokenizer

    ranks = read_ranks(ranks_file())
    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [tuple(map(spell, merge_of(token, ranks))) for token in ranks if len(token) > 1]
    tokenizer = Qwen2Tokenizer(
        vocab={spell(token): rank for token, rank in ranks.items()},
        merges=merges,  # type: ignore[arg-type]  # pairs: a string with a space would do for the stub only
        unk_token=None,  # type: ignore[arg-type]  # byte-level: nothing is unknown
        eos_token="<|endoftext|>",  # replaced below: ids are given in order of mention, and this one comes first
        pad_token="<|endoftext|>",
        extra_special_tokens=list(CONTROL_TOKENS[1:]),
        model_max_length=model_max_length,
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TEXT_TOKENS])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = chat_template
    return tokenizer
