"""Keys of the upstream that do nothing in a run of ours: refused with the reason, so that every accepted key counts."""

from __future__ import annotations

from functools import cache
from typing import Any

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
_BATCHES = "remove it: the run makes its own batches, and divides a loss by the tokens of the whole step"
_PROMPT = "remove it: training and inference write one prompt, the model's chat template without thoughts or tools"
_MODEL = "remove it: the model is loaded as its folder describes it"
_TUNER = "remove it: use `tuner_type` full, lora, adalora, boft, fourierft or vera"
_UPLOAD = "remove it: upload a finished checkpoint with `hf upload`"
_TRACKER = "remove it: set the tracker up outside the run (its own login and environment variables)"
_LOGGING = "remove it: use `--debug` for more lines; bars are drawn on terminals only"
_RESUME = "remove it: `training.resume_from_checkpoint` restores all, `tuner.resume_from_checkpoint` the weights alone"
_PROGRAM = "remove it: the run decides it"

_BY_REASON = {
    _READING: (
        "dataset_num_proc dataset_shuffle val_dataset_shuffle shuffle_buffer_size load_from_cache_file "
        "disable_auto_column_mapping download_mode model_author model_name decision_drop_instructions "
        "decision_shuffle_fields decision_state_as_text decision_subsample_options load_data_args "
        "length_column_name train_sampling_strategy sortish_sampler dataloader_in_order "
        "dataloader_multiprocessing_context group_by_length lazy_tokenize remove_unused_columns strict"
    ),
    _PACKING: "packing_length packing_num_proc packing_strategy padding_free sequence_parallel_size",
    _BATCHES: "accelerator_config auto_find_batch_size average_tokens_across_devices padding_side parallelism_config",
    _EVALUATION: (
        "eval_metric eval_dataset_args eval_limit eval_generation_config extra_eval_args eval_use_evalscope "
        "generation_config generation_max_length generation_num_beams include_for_metrics batch_eval_metrics "
        "prediction_loss_only acc_strategy label_names eval_accumulation_steps eval_do_concat_batches "
        "eval_use_gather_object predict_with_generate bf16_full_eval fp16_full_eval do_eval do_predict"
    ),
    _LOSS: (
        "is_binary_loss_scale enable_channel_loss router_aux_loss_coef mrl_dims num_labels problem_type loss_weights "
        "use_logits_to_keep loss_scale loss_type label_smoothing_factor enable_dft_loss"
    ),
    _PREFERRED: (
        "center_rewards_coefficient cpo_alpha desirable_weight discopop_tau ld_alpha ref_adapters "
        "label_smoothing ref_model ref_model_revision ref_model_type rpo_alpha simpo_gamma undesirable_weight"
    ),
    _SAMPLING: "max_new_tokens ds3_gather_for_generation",
    _PROMPT: (
        "add_non_thinking_prefix agent_template disable_ignore_empty_think enable_thinking preserve_thinking "
        "response_prefix template_backend use_chat_template"
    ),
    _MODEL: "init_strategy local_repo_path task_type experts_impl rope_scaling max_memory check_model use_cache",
    _TUNER: (
        "adapter_act adapter_length llamapro_num_groups llamapro_num_new_blocks reft_args reft_intervention_type "
        "reft_layer_key reft_layers reft_rank lora_ga_batch_size lora_ga_direction lora_ga_iters lora_ga_max_length "
        "lora_ga_scale lora_ga_stable_gamma use_swift_lora tuner_backend"
    ),
    _UPLOAD: "push_to_hub hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token",
    _TRACKER: (
        "project trackio_bucket_id trackio_space_id trackio_static_space_id swanlab_email_language "
        "swanlab_notification_method swanlab_receiver_email swanlab_secret swanlab_sender_email swanlab_smtp_port "
        "swanlab_smtp_server swanlab_token swanlab_webhook_url swanlab_workspace"
    ),
    _LOGGING: (
        "disable_tqdm log_level log_level_replica log_on_each_node logging_nan_inf_filter debug skip_memory_metrics"
    ),
    _RESUME: "resume_only_model ignore_data_skip restore_callback_states_from_checkpoint adapters load_args",
    _PROGRAM: (
        "callbacks create_checkpoint_symlink do_train enable_jit_checkpoint enable_npu_model_patch "
        "ignore_args_error local_rank save_on_each_node use_flash_ckpt"
    ),
    "download that revision, and name its folder": "model_revision teacher_model_revision",
    "use `model.download`": "use_hf",
    "use `template.max_pixels`": "model_kwargs",
    "name the adapter's folder as `rlhf.teacher_model`": "teacher_adapters",
    "remove it: the teacher is loaded as the student is": "teacher_deepspeed teacher_model_type",
    "remove it: the losses are computed by kernels of our own": "use_liger_kernel liger_kernel_config",
    "use `deepspeed` to shard a run": "fsdp fsdp_config deepspeed_autotp_size",
    "remove it: the step calls the model's parts, which compiling the whole does not reach": (
        "torch_compile torch_compile_backend torch_compile_mode"
    ),
    "remove it: its projection does not reach the optimiser of this trainer": (
        "use_galore galore_target_modules galore_rank galore_update_proj_gap galore_scale galore_proj_type "
        "galore_optim_per_parameter galore_with_embedding galore_quantization galore_proj_quant galore_proj_bits "
        "galore_proj_group_size galore_cos_threshold galore_gamma_proj galore_queue_size optim_target_modules"
    ),
    "remove it: coordinates are written by `custom.emit_norm`": "norm_bbox",
    "remove it: PEFT falls back to 1 where its CUDA extension cannot be built": "boft_n_butterfly_factor",
    "this version quantises with bitsandbytes alone": "hqq_axis",
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


TUNERS = ("full", "lora", "adalora", "boft", "fourierft", "vera")
OPTIMISERS = (
    *("adamw_torch", "adamw_torch_fused", "adafactor", "adagrad", "rmsprop", "sgd"),
    *("adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_32bit", "lion_8bit", "paged_adamw_32bit"),
    *("paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit"),
    *("rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit"),
)
SCHEDULES = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"),
    *("reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"),
)
PROVEN = {
    "tuner_type": TUNERS,
    "optim": OPTIMISERS,
    "optimizer": ("default", "lorap", "multimodal"),
    "lr_scheduler_type": SCHEDULES,
    "quant_method": ("bnb",),
    "quant_bits": (4, 8),
    "report_to": ("none", "tensorboard", "wandb", "swanlab"),
}
"""Keys of which only some of the upstream's values work with our step -> those values."""
NOT_INITIAL = ("corda", "eva", "loftq", "lora-ga")
"""Values of `init_weights` that need a pass over data before training, which no run does."""

NEEDS = {
    "quant_bits": ("quant_method", ("bnb",)),
    "quant_method": ("quant_bits", (4, 8)),
    **dict.fromkeys(("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "bnb_4bit_quant_type"), ("quant_bits", (4,))),
    "bnb_4bit_use_double_quant": ("quant_bits", (4,)),
    **dict.fromkeys(("freeze_parameters", "freeze_parameters_ratio"), ("tuner_type", ("full",))),
    **dict.fromkeys(("freeze_parameters_regex", "trainable_parameters"), ("tuner_type", ("full",))),
    **dict.fromkeys(("trainable_parameters_regex", "lisa_activated_layers"), ("tuner_type", ("full",))),
    **dict.fromkeys(("lora_bias", "lora_dtype", "use_dora", "use_rslora"), ("tuner_type", ("lora",))),
    "target_parameters": ("tuner_type", ("lora",)),
    "lorap_lr_ratio": ("optimizer", ("lorap", None)),
    "swanlab_exp_name": ("report_to", ("swanlab",)),
    "swanlab_mode": ("report_to", ("swanlab",)),
    "swanlab_project": ("report_to", ("swanlab",)),
    **dict.fromkeys(("vit_lr", "aligner_lr"), ("optimizer", ("multimodal",))),
}
"""Key -> (the other key, its values with which the first one does something)."""


def needs(name: str) -> tuple[str, tuple[Any, ...]] | None:
    """The other key on which `name` depends and the values it asks of it; None when it works by itself."""
    families = {"adalora_": "adalora", "boft_": "boft", "fourier_": "fourierft", "vera_": "vera"}
    family = next((kind for prefix, kind in families.items() if name.startswith(prefix)), None)
    return ("tuner_type", (family,)) if family else NEEDS.get(name)
