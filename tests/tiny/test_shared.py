"""The lower language layers of a distillation step run once for both sides, with the numbers of two passes."""

import json
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer, Qwen3VLTextMLP

from plumbline.train.teacher.shared import kept_after, layers_in_common, started_after

pytestmark = pytest.mark.slow

UPPER = r"model\.language_model\.layers\.[23]\.(self_attn|mlp)\..*_proj"
FROZEN_VISION = {"freeze_vit": True, "freeze_aligner": True}


@pytest.fixture
def runs_of_layers(monkeypatch):
    """Counts the forwards of every language layer, by its number."""
    calls = Counter()
    forward = Qwen3VLTextMLP.forward

    def counted(self, hidden):
        calls[self.number] += 1
        return forward(self, hidden)

    built = Qwen3VLTextDecoderLayer.__init__

    def numbered(self, config, layer_idx):
        built(self, config, layer_idx)
        self.mlp.number = layer_idx

    monkeypatch.setattr(Qwen3VLTextMLP, "forward", counted)
    monkeypatch.setattr(Qwen3VLTextDecoderLayer, "__init__", numbered)
    return calls


def upper_run(train, tiny_model, name, **sections):
    tuner = {"target_modules": [], "target_regex": UPPER, **FROZEN_VISION}
    training = {"max_steps": 2, "learning_rate": 1.0e-3, **sections.pop("training", {})}
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(tiny_model)}
    return train(name, rlhf=rlhf, tuner=tuner, training=training, **sections)


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"packing": True, "per_device_train_batch_size": 1},
    ],
    ids=["plain", "reentrant", "checkpointed", "packed"],
)
def test_lower_layers_run_once_and_the_numbers_stay(train, tiny_model, runs_of_layers, monkeypatch, training):
    layers = json.loads((tiny_model / "config.json").read_text())["text_config"]["num_hidden_layers"]
    once = upper_run(train, tiny_model, "once", training=training)
    forwards = 3 if training.get("gradient_checkpointing") else 2  # a checkpointed layer is computed again
    assert dict(runs_of_layers) == {number: 2 * (1 if number < 2 else forwards) for number in range(layers)}
    monkeypatch.setattr("plumbline.train.gkd.layers_in_common", lambda student, teacher: 0)
    twice = upper_run(train, tiny_model, "twice", training=training)
    for name in ("train/loss", "train/llm_kd_loss", "train/sft_loss", "grad_norm"):
        assert once.series(name) == pytest.approx(twice.series(name), rel=1e-6, abs=1e-9), name
    assert once.series("train/llm_kd_loss")[-1] > 0


@pytest.fixture
def adapted(tiny_model):
    torch.manual_seed(0)
    base = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=rf".*{UPPER}"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_a_trunk_that_is_given_says_the_same(adapted):
    base = adapted.get_base_model()
    text = base.model.language_model
    ids = torch.arange(12)[None]
    with torch.no_grad(), adapted.disable_adapter(), kept_after(text, 2) as trunk:
        base.model(input_ids=ids, use_cache=False)
    whole = base.model(input_ids=ids, use_cache=False).last_hidden_state
    before = [layer.forward for layer in text.layers]
    with started_after(text, 2, trunk[0]):
        short = base.model(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(short, whole, rtol=0, atol=0)
    assert [layer.forward for layer in text.layers] == before
    assert not text.layers[0]._forward_hooks and not text.layers[1]._forward_hooks


def test_layers_are_in_common_only_where_they_cannot_differ(adapted, tiny_model):
    base = adapted.get_base_model()
    copy = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    assert layers_in_common(base, base) == layers_in_common(base, copy) == 2
    with torch.no_grad():
        copy.model.language_model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    assert layers_in_common(base, copy) == 1
    base.model.visual.merger.linear_fc1.weight.requires_grad_(True)
    assert layers_in_common(base, base) == 0, "what feeds the layers may move"
    base.model.visual.merger.linear_fc1.weight.requires_grad_(False)
    base.model.language_model.embed_tokens.weight.requires_grad_(True)
    assert layers_in_common(base, base) == 0
    base.model.language_model.embed_tokens.weight.requires_grad_(False)
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    assert layers_in_common(base, base) == 2, "a frozen adapter differs from the base all the same"
