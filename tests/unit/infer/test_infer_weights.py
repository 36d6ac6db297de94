"""How weights run: what cannot be right is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.errors import ConfigError
from plumbline.infer.config import InferSettings


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"dtype": "int8"}, "--dtype: must be one of auto, bfloat16"),
        ({"attn_impl": "xformers"}, "--attn-impl: must be one of sdpa"),
        ({"max_model_len": 0, "engine": "vllm"}, "--max-model-len: must be a whole number >= 1"),
        ({"max_model_len": 4096}, "transformers makes room as it goes"),
        ({"attn_impl": "sdpa", "engine": "vllm"}, "vllm chooses its kernel itself"),
        ({"dtype": "float32", "servers": ("http://127.0.0.1:1",)}, "the servers answer"),
    ],
)
def test_what_cannot_be_right_is_refused(flags: dict, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        InferSettings(model=Path("m"), input=Path("i"), output=Path("o"), **flags)
    assert said in str(error.value)


@pytest.mark.slow
def test_dtype_and_kernel_reach_the_weights(tiny_model: Path) -> None:
    import torch

    from plumbline.infer.local import TransformersEngine

    plain = TransformersEngine(tiny_model)
    eager = TransformersEngine(tiny_model, dtype="bfloat16", attn_impl="eager")
    assert eager.model.dtype == torch.bfloat16 != plain.model.dtype
    assert eager.model.config._attn_implementation == "eager" != plain.model.config._attn_implementation
    assert eager.identity != plain.identity
