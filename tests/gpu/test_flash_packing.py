"""Packs under FlashAttention on a real GPU: its varlen kernel keeps samples apart as the CPU's sdpa does."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

TOLERANCE = 0.05
"""Share of the largest logit: bfloat16's rounding is half of it, what leaks from another sample is as large as it."""


def test_packed_logits_equal_those_of_the_samples_alone(tiny_model, write_run) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    from swift.model import get_model_processor  # only tests may: the peer is the upstream itself
    from swift.template import get_template

    from plumbline.batch.lengths import PixelLimits
    from plumbline.model.packed_attention import enable_packing, segments_of
    from plumbline.train.batches import BatchCollator, EncodedSamples, Encoder
    from plumbline.train.config import load_run
    from plumbline.train.datasets import open_datasets

    def load(kernel: str, kind: Any, device: str) -> tuple[Any, Any]:
        model, processor = get_model_processor(
            str(tiny_model), torch_dtype=kind, model_type="qwen3_vl", attn_impl=kernel, device_map=device
        )
        enable_packing(model)
        template = get_template(processor)
        template.set_mode("train")
        template.model = model
        return model.eval(), template

    def logits(model: Any, batch: dict[str, Any]) -> Any:
        """[T, V] in float32."""
        inputs = {name: value.to(model.device) for name, value in batch.items() if hasattr(value, "to")}
        inputs.pop("labels")
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.no_grad():
            rows = model.model(**inputs, **segments_of(inputs.get("position_ids")), use_cache=False).last_hidden_state
            return model.lm_head(rows)[0].float().cpu()

    model, template = load("flash_attention_2", torch.bfloat16, "cuda:0")
    assert model.config.text_config._attn_implementation == "flash_attention_2"
    vision = model.config.vision_config
    limits = PixelLimits.of_folder(tiny_model)
    encoder = Encoder(template, limits, 4096, model.config.image_token_id, vision.spatial_merge_size)
    samples, _ = open_datasets(load_run(write_run()).run)
    encoded = EncodedSamples(samples, encoder)
    units = [encoded[index] for index in range(4)]
    packed = BatchCollator(template, packing=True)(units)
    assert "attention_mask" not in packed and len(packed["image_grid_thw"]) == 4
    reference = logits(load("sdpa", torch.float32, "cpu")[0], packed)
    together = logits(model, packed)
    assert (together - reference).abs().max() <= TOLERANCE * reference.abs().max()
    start = 0
    for unit in units:
        alone = logits(model, BatchCollator(template)([unit]))
        part = together[start : start + len(alone)]
        assert (part - alone).abs().max() <= TOLERANCE * alone.abs().max()
        start += len(alone)
    assert start == len(together)
