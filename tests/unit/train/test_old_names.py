"""Keys of earlier configurations: every one gets a sentence, and none a suggestion from another section."""

import pytest

from plumbline.train.config import check_file

OLD = {
    "model: {model_name_or_path: m}": "write `model.model`",
    "training: {save_delay_steps: 3}": "belongs under `custom`",
    "training: {save_delay_epochs: 3}": "belongs under `custom`",
    "training: {effective_batch_size: 16}": "gradient_accumulation_steps",
    "training: {save_last_epoch: true}": "the last step is always saved",
    "custom: {dump_conversation_path: x}": "dump_conversation_text: true",
    "custom: {toon_mode: true}": "compact JSON",
    "custom: {json_format: standard}": "compact JSON",
    "custom: {assistant_prefix_format: x}": "see `prompts`",
    "custom: {object_ordering_policy: reference_tlbr}": "custom.object_ordering",
    "custom: {bypass_prob: 0.1}": "custom.augmentation.bypass_prob",
    "custom: {augmentation_curriculum: {}}": "custom.augmentation.curriculum",
    "custom: {fusion_config: x.yaml}": "custom.fusion",
    "custom: {token_type_metrics: {}}": "rlhf.token_weights",
    "custom: {cuda_memory: {}}": "memory(GiB)",
    "custom: {grpo: {}}": "not part of this version",
    "custom: {hard_sample_mining: {}}": "ratio",
    "custom: {external_plugins: []}": "custom.plugins",
    "prompts: {scheme: A}": "prompts.system_dense",
    "prompts: {profile: x}": "prompts.system_dense",
    "prompts: {domain: bbu}": "prompts.system_dense",
    "tuner: {tuner_type: gkd}": "rlhf_type: gkd",
    "custom: {visual_kd: {vit: {enabled: true}}}": "targets: [merger, deepstack]",
    "custom: {visual_kd: {aligner: {enabled: true}}}": "targets: [merger, deepstack]",
}
OPERATIONS = {
    "random_crop, params: {scale: [0.5, 1.0]}": "`area: [low, high]`",
    "random_crop, params: {aspect_ratio: [0.5, 1.0]}": "`aspect: [low, high]`",
    "random_crop, params: {skip_if_line: true}": "line_policy",
    "resize_by_scale, params: {lo: 0.5}": "one range",
    "scale, params: {hi: 0.5}": "one range",
    "resize_by_scale, params: {align_multiple: 32}": "`multiple`",
    "hsv, params: {hue_delta_deg: [-8, 8]}": "`hue_deg`",
    "hsv, params: {sat: [0.9, 1.1]}": "`saturation`",
    "hsv, params: {val: [0.9, 1.1]}": "`value`",
    "clahe, params: {clip_limit: 2.0}": "write [2.0, 2.0]",
    "clahe, params: {tile_grid_size: 8}": "`tiles`",
    "albumentations_color": "color_jitter, hsv and gamma",
}


def said(tmp_path, text):
    file = tmp_path / "old.yaml"
    file.write_text(text, encoding="utf-8")
    (problem,) = check_file(file).problems
    return problem


@pytest.mark.parametrize(("text", "sentence"), OLD.items())
def test_a_key_of_an_earlier_configuration_gets_a_sentence(tmp_path, text, sentence):
    assert sentence in said(tmp_path, text).fix


@pytest.mark.parametrize(("operation", "sentence"), OPERATIONS.items())
def test_a_parameter_of_an_earlier_operation_gets_a_sentence(tmp_path, operation, sentence):
    text = f"custom: {{augmentation: {{ops: [{{name: {operation}}}]}}}}"
    assert sentence in said(tmp_path, text).fix


@pytest.mark.parametrize("text", ["custom: {toon_mod: 1}", "prompts: {schema: x}", "custom: {offload: 1}"])
def test_nothing_is_suggested_from_another_section(tmp_path, text):
    assert said(tmp_path, text).fix == ""


def test_a_slip_of_the_keyboard_is_mended(tmp_path):
    assert said(tmp_path, "custom: {emit_nrom: none}").fix == "did you mean `emit_norm`?"
    assert said(tmp_path, "training: {learning_rat: 1}").fix == "did you mean `learning_rate`?"
