"""The upstream's arguments as fields: names, rough types and defaults from the committed table, ranges from here.

Only keys that people set often carry a description and a range of our own; the upstream judges the others itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from plumbline.config.limits import Range
from plumbline.config.types import (
    AnyOf,
    Anything,
    Bool,
    Choice,
    Field,
    ListOf,
    MapOf,
    Null,
    Number,
    Text,
    ValueType,
)

SECTIONS = ("model", "template", "data", "tuner", "training", "quantization")
_TABLE = Path(__file__).with_name("upstream_keys.json")
_OWNERS = {
    "ModelArguments": "model",
    "TemplateArguments": "template",
    "DataArguments": "data",
    "TunerArguments": "tuner",
    "QuantizeArguments": "quantization",
    "RLHFArguments": "rlhf",
    "TeacherModelArguments": "rlhf",
    "GRPOArguments": "rlhf",
    "GRPOArgumentsMixin": "rlhf",
    "PPOArguments": "rlhf",
    "RewardModelArguments": "rlhf",
    "RolloutTrainerArgumentsMixin": "rlhf",
    "VllmArguments": "rlhf",
}
_HOMES = {"tuner_type": "tuner", "tuner_backend": "tuner", "adapters": "tuner", "model_kwargs": "model"}

_COUNT = Range(ge=1)
_NOT_NEGATIVE = Range(ge=0)
_POSITIVE = Range(gt=0)
_SHARE = Range(ge=0, le=1)
_BELOW_ONE = Range(ge=0, lt=1)
_OPEN = Range()

KNOWN: dict[str, tuple[str, Range]] = {
    "model": ("Folder or hub name of the model to train.", _OPEN),
    "model_type": ("Upstream's name of the architecture; read from the model's own config when absent.", _OPEN),
    "torch_dtype": ("Precision in which the weights are loaded.", _OPEN),
    "attn_impl": ("Attention kernel: sdpa, eager, flash_attention_2, ...; chosen by the upstream when absent.", _OPEN),
    "max_model_len": ("Longest sequence in tokens that the model accepts; set by `global_max_length`.", _COUNT),
    "device_map": ("Where the layers live when one process uses several devices.", _OPEN),
    "new_special_tokens": ("Tokens added to the vocabulary; their rows of the embeddings are new.", _OPEN),
    "template": ("Upstream's name of the chat template; `qwen3_vl` for Qwen3-VL.", _OPEN),
    "max_length": ("Longest sample in tokens, image tokens included; set by `global_max_length`.", _COUNT),
    "max_pixels": ("Largest area of a picture in pixels; larger ones are scaled down.", _COUNT),
    "truncation_strategy": ("What to do with a longer sample.", _OPEN),
    "dataset": ("Accepted with any value and not used: records come from `custom.train_jsonl`.", _OPEN),
    "data_seed": ("Seed of the order of the samples.", _OPEN),
    "train_dataloader_shuffle": ("Draw the order of the samples for each epoch; false keeps the file's.", _OPEN),
    "dataloader_num_workers": (
        "Processes that read and encode samples in parallel with the training process.",
        _NOT_NEGATIVE,
    ),
    "dataloader_persistent_workers": ("Keep the workers alive between epochs; false makes a resume bit-equal.", _OPEN),
    "dataloader_pin_memory": ("Copy batches to page-locked memory for faster transfer to a GPU.", _OPEN),
    "dataloader_prefetch_factor": ("Batches that each worker prepares ahead.", _COUNT),
    "dataloader_drop_last": ("Leave out the last, smaller batch of an epoch.", _OPEN),
    "tuner_type": ("How weights are changed: full, or an adapter such as lora, adalora, boft, fourierft.", _OPEN),
    "target_modules": ("Modules that get an adapter; `all-linear` honours the freeze flags.", _OPEN),
    "target_regex": ("Regular expression of the modules that get an adapter; `^$` gives none.", _OPEN),
    "modules_to_save": ("Modules trained in full in addition to the adapter and stored with it.", _OPEN),
    "freeze_llm": ("Leave the language model as it is.", _OPEN),
    "freeze_vit": ("Leave the vision tower as it is.", _OPEN),
    "freeze_aligner": ("Leave the mergers between vision tower and language model as they are.", _OPEN),
    "freeze_parameters_ratio": ("Share of the parameters, from the bottom, that full training leaves alone.", _SHARE),
    "freeze_parameters": ("Parameters, by the start of their names, that full training leaves alone.", _OPEN),
    "freeze_parameters_regex": ("The same by a regular expression.", _OPEN),
    "trainable_parameters": ("Parameters, by the start of their names, that full training changes after all.", _OPEN),
    "trainable_parameters_regex": ("The same by a regular expression.", _OPEN),
    "lora_rank": ("Rank of the LoRA matrices.", _COUNT),
    "lora_alpha": ("LoRA scale: the update is multiplied by lora_alpha / lora_rank.", _POSITIVE),
    "lora_dropout": ("Share of the adapter's inputs dropped while training.", _BELOW_ONE),
    "use_dora": ("Split LoRA updates into magnitude and direction (DoRA).", _OPEN),
    "use_rslora": ("Scale LoRA by the square root of the rank.", _OPEN),
    "lora_bias": ("Which biases train with the adapter: none or all.", _OPEN),
    "lora_dtype": ("Precision of the LoRA matrices.", _OPEN),
    "lorap_lr_ratio": ("LoRA+: rate of the B matrices over that of the A matrices.", _POSITIVE),
    "target_parameters": ("Parameters, by the end of their names, that get LoRA without a module of their own.", _OPEN),
    "init_weights": ("How an adapter starts: true (as the base), gaussian, pissa, ...", _OPEN),
    "adalora_target_r": ("Average rank at which AdaLoRA arrives.", _COUNT),
    "adalora_init_r": ("Rank at which AdaLoRA starts.", _COUNT),
    "adalora_tinit": ("Steps before AdaLoRA takes ranks away.", _NOT_NEGATIVE),
    "adalora_tfinal": ("Steps at the end in which AdaLoRA's ranks stay.", _NOT_NEGATIVE),
    "adalora_deltaT": ("Steps between two changes of AdaLoRA's ranks.", _COUNT),
    "adalora_beta1": ("Decay of AdaLoRA's mean of sensitivities.", _BELOW_ONE),
    "adalora_beta2": ("Decay of AdaLoRA's mean of uncertainties.", _BELOW_ONE),
    "adalora_orth_reg_weight": ("Weight of AdaLoRA's term that keeps its matrices orthogonal.", _NOT_NEGATIVE),
    "boft_block_size": ("Size of BOFT's orthogonal blocks.", _NOT_NEGATIVE),
    "boft_dropout": ("Share of BOFT blocks dropped while training.", _BELOW_ONE),
    "boft_block_num": ("Number of BOFT's blocks per module; set boft_block_size to 0 with it.", _NOT_NEGATIVE),
    "fourier_n_frequency": ("Number of frequencies that FourierFT learns per module.", _COUNT),
    "fourier_scaling": ("FourierFT's scale of the update.", _POSITIVE),
    "vera_rank": ("Rank of VeRA's shared matrices.", _COUNT),
    "vera_dropout": ("Share of VeRA's inputs dropped while training.", _BELOW_ONE),
    "vera_d_initial": ("Start of VeRA's scaling vector d.", _OPEN),
    "vera_projection_prng_key": ("Seed of VeRA's shared matrices.", _NOT_NEGATIVE),
    "output_dir": ("Run folder, used as given; `output/` and the name of the YAML file when absent.", _OPEN),
    "num_train_epochs": ("Passes over the training records.", _POSITIVE),
    "max_steps": ("Optimiser steps; -1 leaves it to num_train_epochs.", Range(ge=-1)),
    "max_epochs": ("Epochs after which the run ends although max_steps asks for more.", _COUNT),
    "per_device_train_batch_size": ("Samples per device and forward pass.", _COUNT),
    "per_device_eval_batch_size": ("Samples per device and forward pass in evaluation.", _COUNT),
    "gradient_accumulation_steps": ("Forward passes per optimiser step.", _COUNT),
    "learning_rate": ("Highest learning rate, reached after the warm-up.", _NOT_NEGATIVE),
    "vit_lr": ("Learning rate of the vision tower (optimizer: multimodal).", _NOT_NEGATIVE),
    "aligner_lr": ("Learning rate of the mergers (optimizer: multimodal).", _NOT_NEGATIVE),
    "lr_scheduler_type": ("Shape of the learning rate over the run.", _OPEN),
    "lr_scheduler_kwargs": ("What the scheduler needs besides its name, e.g. `min_lr` (absolute).", _OPEN),
    "warmup_ratio": ("Share of the steps in which the learning rate rises from 0.", _BELOW_ONE),
    "warmup_steps": ("Steps in which the learning rate rises from 0; below 1 a share of all steps.", _NOT_NEGATIVE),
    "optimizer": ("Upstream's optimiser set-up; multimodal honours vit_lr and aligner_lr.", _OPEN),
    "optim": ("The optimiser's algorithm.", _OPEN),
    "optim_args": ("What an optimiser takes in addition, e.g. `alpha=5.0` of AdEMAMix.", _OPEN),
    "lisa_activated_layers": ("LISA: layers that train at a time, drawn again and again; 0 is off.", _NOT_NEGATIVE),
    "lisa_step_interval": ("Steps between two draws of LISA.", _COUNT),
    "weight_decay": ("Pull of the weights towards 0 per step, times the learning rate.", _NOT_NEGATIVE),
    "adam_beta1": ("Decay of Adam's mean of gradients.", _BELOW_ONE),
    "adam_beta2": ("Decay of Adam's mean of squared gradients.", _BELOW_ONE),
    "adam_epsilon": ("Added to Adam's denominator.", _NOT_NEGATIVE),
    "max_grad_norm": ("Gradients are scaled down to this norm; 0 leaves them.", _NOT_NEGATIVE),
    "bf16": ("Compute in bfloat16.", _OPEN),
    "fp16": ("Compute in float16 with loss scaling.", _OPEN),
    "gradient_checkpointing": ("Compute activations again in the backward pass to save memory.", _OPEN),
    "vit_gradient_checkpointing": ("The same for the vision tower; follows gradient_checkpointing when absent.", _OPEN),
    "gradient_checkpointing_kwargs": ("Options of the checkpointing, e.g. `use_reentrant: false`.", _OPEN),
    "tf32": ("Multiply float32 matrices in TF32 on a GPU.", _OPEN),
    "full_determinism": ("Use deterministic kernels only.", _OPEN),
    "torch_empty_cache_steps": ("Steps between two releases of cached GPU memory.", _COUNT),
    "use_cpu": ("Train on the CPU even where there is a GPU.", _OPEN),
    "ddp_backend": ("Communication between processes: nccl, gloo, ...", _OPEN),
    "ddp_timeout": ("Seconds after which a silent process counts as lost.", _COUNT),
    "ddp_bucket_cap_mb": ("Size in MB of the buckets in which gradients are exchanged.", _COUNT),
    "ddp_find_unused_parameters": ("Look for parameters without a gradient in each step.", _OPEN),
    "ddp_broadcast_buffers": ("Send buffers from rank 0 before each step.", _OPEN),
    "ddp_static_graph": ("Promise that every step uses the same parameters.", _OPEN),
    "zero_hpz_partition_size": ("ZeRO++: devices of a node that share one copy of the weights.", _COUNT),
    "seed": ("Seed of initialisation, dropout and every keyed draw.", _NOT_NEGATIVE),
    "logging_steps": ("Steps between two log lines.", _COUNT),
    "logging_first_step": ("Log the first step too.", _OPEN),
    "logging_strategy": ("When to log: no, every logging_steps, or each epoch.", _OPEN),
    "include_num_input_tokens_seen": ("Count the input tokens: no, all, or non_padding.", _OPEN),
    "report_to": ("Where scalars go: tensorboard, wandb, swanlab, none.", _OPEN),
    "run_name": ("Name of the run in the trackers; the run folder when absent.", _OPEN),
    "swanlab_project": ("SwanLab's project.", _OPEN),
    "swanlab_exp_name": ("SwanLab's experiment; the run folder when absent.", _OPEN),
    "swanlab_mode": ("Where SwanLab keeps the run: cloud or local.", _OPEN),
    "eval_strategy": ("When to evaluate: no, every eval_steps, or each epoch.", _OPEN),
    "eval_steps": ("Steps between evaluations; below 1 a share of all steps.", _POSITIVE),
    "eval_delay": ("Steps or epochs before the first evaluation.", _NOT_NEGATIVE),
    "eval_on_start": ("Evaluate before the first step.", _OPEN),
    "save_strategy": ("When to write a checkpoint: no, every save_steps, each epoch, or when best.", _OPEN),
    "save_steps": ("Steps between checkpoints; below 1 a share of all steps.", _POSITIVE),
    "save_total_limit": ("Checkpoints to keep; the best one is kept besides.", _COUNT),
    "save_only_model": ("Leave optimiser and scheduler out of checkpoints: they cannot be resumed then.", _OPEN),
    "safe_serialization": ("Write weights as safetensors.", _OPEN),
    "max_shard_size": ("Largest weight file, e.g. 5GB.", _OPEN),
    "load_best_model_at_end": ("Load the best checkpoint when training ends.", _OPEN),
    "metric_for_best_model": ("Metric that names the best checkpoint; `loss` when absent.", _OPEN),
    "greater_is_better": ("Whether a higher metric is better.", _OPEN),
    "early_stop_interval": ("Evaluations without improvement after which training ends.", _COUNT),
    "resume_from_checkpoint": (
        "Under `tuner`: take another run's weights only. Under `training`: continue that run.",
        _OPEN,
    ),
    "packing": ("Fill each sequence up to the length limit with several samples.", _OPEN),
    "neftune_noise_alpha": ("Strength of the noise added to embeddings while training.", _NOT_NEGATIVE),
    "quant_method": ("Library that quantises the base weights.", _OPEN),
    "quant_bits": ("Bits per quantised weight.", _OPEN),
    "bnb_4bit_quant_type": ("Number format of 4-bit weights: nf4 or fp4.", _OPEN),
    "bnb_4bit_use_double_quant": ("Quantise the scales of 4-bit weights too.", _OPEN),
    "bnb_4bit_compute_dtype": ("Precision in which 4-bit weights are multiplied.", _OPEN),
    "bnb_4bit_quant_storage": ("Type of the tensors that hold 4-bit weights.", _OPEN),
    "offload_teacher_model": ("Keep the teacher in main memory between its forward passes.", _OPEN),
    "gkd_logits_topk": ("Use only the teacher's most likely tokens in the distillation term.", _COUNT),
    "log_completions": ("Write the sampled answers into the run folder.", _OPEN),
    "teacher_model_server": ("Address of a teacher behind an OpenAI-compatible server.", _OPEN),
}


@cache
def table() -> dict[str, dict[str, Any]]:
    """The committed table: key -> types, choices, default, owner, programs."""
    return json.loads(_TABLE.read_text(encoding="utf-8"))["keys"]


@cache
def version() -> str:
    """The ms-swift version that the table was taken from."""
    return json.loads(_TABLE.read_text(encoding="utf-8"))["versions"]["ms-swift"]


@cache
def upstream_fields() -> Mapping[str, Field]:
    """Every argument of the upstream as a Field."""
    return {name: Field(name, _type(name, entry), entry["default"], _doc(name)) for name, entry in table().items()}


def home(name: str) -> str:
    """The section in which a key of the upstream is shown; it may be written in any of them."""
    if name.startswith("dataloader_"):
        return "data"
    return _HOMES.get(name) or _OWNERS.get(table()[name]["owner"], "training")


def _doc(name: str) -> str:
    return KNOWN[name][0] if name in KNOWN else ""


def _type(name: str, entry: dict[str, Any]) -> ValueType:
    if name == "dataset":
        return Anything()
    bounds = KNOWN[name][1] if name in KNOWN else _OPEN
    if "choices" in entry:
        options: list[ValueType] = [Choice(tuple(entry["choices"]))]
    else:
        lists = [kind for kind in entry["types"] if kind.startswith("list")]
        scalars = [kind for kind in entry["types"] if kind not in ("null", *lists)]
        options = [_kind(kind, bounds) for kind in scalars]
        options += [ListOf(_kind(kind[5:-1].split("|")[0], bounds), single=not scalars) for kind in lists]
    if "null" in entry["types"]:
        options.append(Null())
    return options[0] if len(options) == 1 else AnyOf(tuple(options))


def _kind(name: str, bounds: Range) -> ValueType:
    match name:
        case "bool":
            return Bool()
        case "int":
            return Number("int", bounds)
        case "float":
            return Number("number", bounds)
        case "str":
            return Text(may_be_empty=True)
        case "dict":
            return MapOf(Anything())
    return Anything()
