"""Names of earlier configurations that are not read any more: what to write today, or why the key is gone.

Keys are dotted paths as a file spells them; a list's index is left out.
"""

from __future__ import annotations

_OPS = "custom.augmentation.ops.params"
_KD = "custom.visual_kd"
_GONE_PROMPT = "the prompts are texts: write them out under `prompts.system_dense`, `prompts.user_dense` and so on"
_PARTS = (
    "one `weight` and one `distance` serve all targets: write `targets: [merger, deepstack]`, `weight`, `distance` "
    "under `custom.visual_kd`; the vision tower itself is anchored by what leaves its mergers"
)

OLD_NAMES = {
    "model.model_name_or_path": "write `model.model`",
    "training.save_last_epoch": "take it out: the last step is always saved",
    "training.effective_batch_size": (
        "write `gradient_accumulation_steps`: it is effective_batch_size / (per_device_train_batch_size x GPUs)"
    ),
    "training.logging_dir": "take it out: TensorBoard's files lie in `output_dir/runs`",
    "training.external_plugins": "write `custom.plugins`, a list of Python files",
    "custom.external_plugins": "write `custom.plugins`, a list of Python files",
    "data.eval_dataset": "write `custom.val_jsonl`",
    "tuner.tuner_type=gkd": "write `rlhf: {rlhf_type: gkd, teacher_model: ...}`; `tuner_type` is lora, full, ...",
    "custom.dump_conversation_path": (
        "write `custom.dump_conversation_text: true`; the file is `conversation.txt` in the output_dir"
    ),
    "custom.toon_mode": "take it out: answers are compact JSON, the one format that training and parsing share",
    "custom.json_format": "take it out: answers are compact JSON, the one format that training and parsing share",
    "custom.assistant_prefix_format": "take it out: the prompts hold the question; see `prompts`",
    "custom.object_ordering_policy": (
        "write `custom.object_ordering`: top_left (was reference_tlbr), or center (was center_tlbr)"
    ),
    "custom.bypass_prob": "write `custom.augmentation.bypass_prob`",
    "custom.augmentation_curriculum": "write `custom.augmentation.curriculum`, a list of `phases`",
    "custom.fusion_config": "write the sources under `custom.fusion`",
    "custom.token_type_metrics": (
        "write `rlhf.token_weights`: with it `token_acc` is logged for coordinates, structure and descriptions"
    ),
    "custom.cuda_memory": "take it out: every log line has `memory(GiB)`",
    "custom.grpo": "take it out: reinforcement learning is not part of this version",
    "custom.hard_sample_mining": "take it out: give a hard source a larger `ratio` under `custom.fusion`",
    "prompts.scheme": _GONE_PROMPT,
    "prompts.profile": _GONE_PROMPT,
    "prompts.domain": _GONE_PROMPT,
    "prompts.output_variant": "write `custom.use_summary` or `custom.summary_ratio`",
    f"{_KD}.vit": _PARTS,
    f"{_KD}.aligner": _PARTS,
    f"{_KD}.deepstack": _PARTS,
    f"{_OPS}.lo": "write the two as one range, e.g. `factor: [0.8, 1.2]`",
    f"{_OPS}.hi": "write the two as one range, e.g. `factor: [0.8, 1.2]`",
    f"{_OPS}.scale": "write `area: [low, high]`, the share of the picture's area that is kept",
    f"{_OPS}.aspect_ratio": "write `aspect: [low, high]`",
    f"{_OPS}.skip_if_line": "write `line_policy: skip`; `cut` keeps the longest visible piece of a line",
    f"{_OPS}.align_multiple": "write `multiple`",
    f"{_OPS}.hue_delta_deg": "write `hue_deg`, the largest turn either way: [-8, 8] is 8",
    f"{_OPS}.sat": "write `saturation`, the largest change either way: [0.9, 1.1] is 0.1",
    f"{_OPS}.val": "write `value`, the largest change either way: [0.9, 1.1] is 0.1",
    f"{_OPS}.tile_grid_size": "write `tiles`, tiles along each side",
    "custom.augmentation.ops.name=albumentations_color": "write color_jitter, hsv and gamma as operations of their own",
}
"""Path -> what to do."""
