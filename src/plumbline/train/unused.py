"""Keys of the upstream that do nothing in a run of ours: refused with the reason, so that every accepted key counts."""

from __future__ import annotations

from functools import cache

from plumbline.config.upstream import table

REPLACED = {  # what Plumbline answers itself
    "val_dataset": "give `custom.val_jsonl`",
    "cached_dataset": "give `custom.train_jsonl`",
    "cached_val_dataset": "give `custom.val_jsonl`",
    "custom_dataset_info": "give `custom.train_jsonl`",
    "split_dataset_ratio": "give `custom.val_jsonl`",
    "streaming": "remove it: records are read when they are needed",
    "interleave_prob": "use `custom.fusion`",
    "stopping_strategy": "use `custom.fusion`",
    "columns": "remove it: records have their own schema",
    "external_plugins": "use `custom.plugins`",
    "custom_register_path": "use `custom.plugins`",
    "system": "use `prompts.system_dense` or `prompts.system_summary`",
    "add_version": "remove it: `training.output_dir` is used as given",
    "logging_dir": "remove it: TensorBoard's files lie in `output_dir/runs`",
    "eval_dataset": "give `custom.val_jsonl`",
}
_READING = "remove it: records are read when they are needed, in an order that `data_seed` draws"
_EVALUATION = "remove it: evaluation gives the terms of the loss over `custom.val_jsonl`"
_LOSS = "remove it: the loss is made of `rlhf.sft_alpha`, `rlhf.llm_kd_weight` and `custom.visual_kd`"
_SAMPLING = "remove it: answers are sampled with `rlhf.temperature` and `rlhf.max_completion_length`"
_REINFORCED = "remove it: it belongs to reinforcement learning or to sampling with vLLM, which this version does not do"
_PREFERRED = "remove it: it belongs to training on preferences, which this version does not do"
_RAY = "remove it: training runs under torchrun (`--gpus`)"
_PACKING = "remove it: `training.packing` makes its packs by `global_max_length`"

_BY_REASON = {
    _READING: (
        "dataset_num_proc dataset_shuffle val_dataset_shuffle shuffle_buffer_size load_from_cache_file "
        "disable_auto_column_mapping download_mode model_author model_name decision_drop_instructions "
        "decision_shuffle_fields decision_state_as_text decision_subsample_options load_data_args "
        "length_column_name train_sampling_strategy sortish_sampler dataloader_in_order "
        "dataloader_multiprocessing_context group_by_length"
    ),
    _PACKING: "packing_length packing_num_proc packing_strategy",
    _EVALUATION: (
        "eval_metric eval_dataset_args eval_limit eval_generation_config extra_eval_args eval_use_evalscope "
        "generation_config generation_max_length generation_num_beams include_for_metrics batch_eval_metrics "
        "prediction_loss_only acc_strategy"
    ),
    _LOSS: (
        "is_binary_loss_scale enable_channel_loss router_aux_loss_coef mrl_dims num_labels problem_type loss_weights "
        "use_logits_to_keep"
    ),
    _PREFERRED: (
        "center_rewards_coefficient cpo_alpha desirable_weight discopop_tau label_smoothing ld_alpha ref_adapters "
        "ref_model ref_model_revision ref_model_type rpo_alpha simpo_gamma undesirable_weight"
    ),
    "use `deepspeed` to shard a run": "fsdp fsdp_config",
    "remove it: the step calls the model's parts, which compiling the whole does not reach": (
        "torch_compile torch_compile_backend torch_compile_mode"
    ),
    "remove it: its projection does not reach the optimiser of this trainer": (
        "use_galore galore_target_modules galore_rank galore_update_proj_gap galore_scale galore_proj_type "
        "galore_optim_per_parameter galore_with_embedding galore_quantization galore_proj_quant galore_proj_bits "
        "galore_proj_group_size galore_cos_threshold galore_gamma_proj galore_queue_size"
    ),
    "remove it: coordinates are written by `custom.emit_norm`": "norm_bbox",
}
_BY_OWNER = {
    "GRPOArgumentsMixin": _REINFORCED,
    "GRPOArguments": _REINFORCED,
    "PPOArguments": _REINFORCED,
    "RewardModelArguments": _REINFORCED,
    "RolloutTrainerArgumentsMixin": _REINFORCED,
    "VllmArguments": _REINFORCED,
    "GenerationArguments": _SAMPLING,
    "RayArguments": _RAY,
}
_USED = frozenset({"log_completions"})
"""Keys of such a group that do something here."""


@cache
def without_effect() -> dict[str, str]:
    """Every key that another value than the upstream's default would change nothing of -> what to do instead."""
    known = table()
    named = {name: reason for reason, names in _BY_REASON.items() for name in names.split()}
    owned = {name: _BY_OWNER[entry["owner"]] for name, entry in known.items() if entry["owner"] in _BY_OWNER}
    found = owned | named | REPLACED
    return {name: fix for name, fix in found.items() if name in known and name not in _USED}
