"""The small base that has learned to see: a Qwen3-VL of 36 M parameters in 15 MB.

It describes everyday scenes with geometry, counts, answers short questions in Chinese and English, and so has something
to forget: demonstrations and comparisons of fine-tuning start from it. `examples/tiny_base` trains it. Only what was
learned ships: the rows of the vocabulary that occur, in bfloat16. All other rows lie around one learned centre and are
drawn again, always alike.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import Problem, UserError
from plumbline.model.checkpoints import drafted
from plumbline.model.qwen_tokenizer import VOCAB_SIZE
from plumbline.model.tiny import SIZES, build_model, build_processor

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3VLForConditionalGeneration

SIZE = SIZES["learned"]
UNUSED_STD = 0.1
"""Of the rows that never occur, around their centre."""
EMBEDDING = "model.language_model.embed_tokens.weight"
ROWS, ROW_IDS, CENTRE = "vocabulary.rows", "vocabulary.ids", "vocabulary.centre"
NOT_SHIPPED = (EMBEDDING, "lm_head.weight", "model.visual.pos_embed.weight")
"""Made again: the embedding from its rows, the head tied to it, the position waves from their formula."""


def build_learned(folder: str | Path, dtype: str = "float32") -> Path:
    """Write the checkpoint into `folder`, which must not exist or be empty, and return it; always the same bytes.

    dtype: of the weights as written; the shipped ones are in bfloat16. Raises UserError when the folder is in use, or
    the weights or the Qwen vocabulary are not there.
    """
    import torch

    shipped = resources.files("plumbline.model") / "learned_base"
    if not (shipped / "weights.safetensors").is_file():
        what = "the weights of the small base are not there"
        raise UserError(Problem("plumbline.model.learned", what, "train and export them: examples/tiny_base"))
    with drafted(folder) as draft, resources.as_file(shipped) as source:
        load_learned(source / "weights.safetensors").to(getattr(torch, dtype)).save_pretrained(draft)
        build_processor().save_pretrained(draft)
        shutil.copyfile(source / "MODEL_CARD.md", Path(draft) / "README.md")
    return Path(folder)


def load_learned(weights: Path) -> Qwen3VLForConditionalGeneration:
    """The whole model in float32 from the shipped part of it."""
    from safetensors.torch import load_file

    found = load_file(weights)
    model = build_model(SIZE, seed=0)
    state = {name: value.float() for name, value in found.items() if not name.startswith("vocabulary.")}
    state[EMBEDDING] = full_embedding(found)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= set(NOT_SHIPPED) and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


def full_embedding(found: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Every row of the vocabulary, [151936, hidden]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = UNUSED_STD * torch.randn((VOCAB_SIZE, SIZE.hidden), generator=generator) + found[CENTRE].float()
    rows[found[ROW_IDS].long()] = found[ROWS].float()
    return rows
