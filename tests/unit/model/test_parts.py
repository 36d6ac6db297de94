"""Names of Qwen3-VL's parameters, plain and as tuners spell them."""

from __future__ import annotations

import pytest

from plumbline.model.parts import aligner_modules, part_of, plain_name


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.merger.linear_fc1.weight", "aligner"),
        ("model.visual.merger", "aligner"),
        ("model.visual.deepstack_merger_list.2.norm.bias", "aligner"),
        ("model.visual.blocks.3.attn.qkv.weight", "vit"),
        ("model.visual.pos_embed.weight", "vit"),
        ("model.visual.patch_embed.proj.weight", "vit"),
        ("model.language_model.layers.0.self_attn.q_proj.weight", "llm"),
        ("model.language_model.embed_tokens.weight", "llm"),
        ("lm_head.weight", "llm"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "base_model.model.", "module.base_model.model.", "_orig_mod."])
def test_part_of_plain_and_wrapped_names(name: str, part: str, prefix: str) -> None:
    assert part_of(prefix + name) == part


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("base_model.model.model.visual.merger.modules_to_save.default.linear_fc1.weight", "aligner"),
        ("base_model.model.model.visual.merger.original_module.linear_fc1.weight", "aligner"),
        ("base_model.model.model.visual.deepstack_merger_list.0.linear_fc2.lora_A.default.weight", "aligner"),
        ("base_model.model.model.visual.blocks.0.attn.qkv.base_layer.weight", "vit"),
        ("base_model.model.model.language_model.layers.1.mlp.down_proj.lora_B.default.weight", "llm"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "llm"),
    ],
)
def test_part_of_names_inside_peft(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize(
    "name", ["model.visual_merger.weight", "model.layers.0.weight", "visual.merger", "lm_head2.x", ""]
)
def test_a_name_of_another_architecture_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a parameter of Qwen3-VL"):
        part_of(name)


def test_plain_name_strips_only_what_stands_in_front() -> None:
    assert plain_name("module.base_model.model.lm_head.weight") == "lm_head.weight"
    assert plain_name("model.visual.merger") == "model.visual.merger"


def test_aligner_modules_name_each_merger_and_never_their_list() -> None:
    assert aligner_modules(2) == (
        "model.visual.merger",
        "model.visual.deepstack_merger_list.0",
        "model.visual.deepstack_merger_list.1",
    )
    assert all(part_of(name) == "aligner" for name in aligner_modules(3))
