"""The only importer of ms-swift: every upstream name, trap and private attribute that Plumbline relies on is here.

Written against ms-swift 4.6.0; `tests/tiny/test_upstream.py` proves that what we pass arrives.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

# Hub look-ups and update checks cost seconds of retries on a machine without network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
# Upstream logs at import time, the whole model at info; `set_verbosity` raises the level again for --debug.
os.environ.setdefault("LOG_LEVEL", "WARNING")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from plumbline.model.bitsandbytes import import_bitsandbytes

import_bitsandbytes()

import swift.pipelines.train.sft as _sft_module
from swift.arguments import RLHFArguments, SftArguments
from swift.dataloader.shard import DataLoaderShard
from swift.model.register import ModelLoader
from swift.pipelines.train.rlhf import SwiftRLHF
from swift.pipelines.train.sft import SwiftSft
from swift.rlhf_trainers import GKDTrainer
from swift.rlhf_trainers.utils import _ForwardRedirection as ForwardRedirection
from swift.trainers import Seq2SeqTrainer, TrainerFactory
from swift.trainers import disable_gradient_checkpointing as without_checkpointing
from swift.trainers.mixin import DataLoaderMixin
from swift.trainers.patcher import PrinterCallbackNew as PrinterCallback
from swift.trainers.patcher import ProgressCallbackNew as ProgressCallback
from swift.trainers.patcher import add_train_message
from swift.utils import get_logger as _upstream_logger
from transformers import Trainer as HfTrainer
from transformers.integrations import TensorBoardCallback

__all__ = [
    "DataLoaderMixin",
    "DataLoaderShard",
    "ForwardRedirection",
    "GKDTrainer",
    "HfTrainer",
    "PrinterCallback",
    "ProgressCallback",
    "Seq2SeqTrainer",
    "SwiftRLHF",
    "SwiftSft",
    "TensorBoardCallback",
    "add_train_message",
    "build_arguments",
    "export_quantized",
    "gathered",
    "inexact_initialisation",
    "install_trainer",
    "load_frozen_model",
    "set_verbosity",
    "start_process_group_on_cpu",
    "without_checkpointing",
]

# PEFT's own word for "no target"; the documented `target_regex: '^$'` raises there.
_NO_TARGETS = "dummy-target-modules"

# Code that a checkpoint names (`auto_map`) is never run; such a checkpoint is refused before it gets here.
ModelLoader.default_trust_remote_code = False

# At the end of a run upstream draws every metric with matplotlib, for seconds; the run's report.html has the curves.
_sft_module.plot_images = lambda *_, **__: None


class _KnownNoise(logging.Filter):
    """Drops warnings that nobody can act on: remote code (see above), packages not needed, old argument names."""

    _NOISE = ("trust_remote_code", "decord", "`torch_dtype` is deprecated")

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(noise in message for noise in self._NOISE)


_upstream_logger().addFilter(_KnownNoise())
for _handler in logging.getLogger("transformers").handlers:  # a logger's filter does not reach its children
    _handler.addFilter(_KnownNoise())


def build_arguments(upstream: Mapping[str, Any], *, rlhf_type: str | None) -> SftArguments | RLHFArguments:
    """Upstream's argument object for a run.

    upstream: argument name -> value, names checked already; rlhf_type: "gkd", or None for plain fine-tuning.
    The dataset name is a placeholder: upstream insists on one and never reads it here.
    """
    values = dict(upstream)
    if values.get("target_regex") == "^$":
        values["target_regex"] = _NO_TARGETS
    values.setdefault("dataset", ["plumbline"])
    values.setdefault("loss_scale", "default")  # every assistant turn; upstream's GKD would take the last one only
    values.setdefault("model_type", "qwen3_vl")  # three upstream types share the architecture's name
    values.setdefault("dataloader_persistent_workers", False)  # the upstream's True makes a resume differ
    values.pop("packing", None)  # ours: upstream's needs FlashAttention and decodes every picture to learn its length
    values.update(
        add_version=False,  # `output_dir` is used as given
        create_checkpoint_symlink=False,
        check_model=False,  # asks a hub
        split_dataset_ratio=0.0,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,  # would hide a NaN
        average_tokens_across_devices=True,
        truncation_strategy="raise",  # an over-long record is named, never cut or swapped
        load_args=False,
    )
    os.environ.pop("TENSORBOARD_LOGGING_DIR", None)  # upstream keeps an earlier run's folder
    if rlhf_type is None:
        return SftArguments(**values)
    arguments = RLHFArguments(rlhf_type=rlhf_type, **values)
    # GKDConfig's own default disables dropout, so that a LoRA dropout of 0.1 would silently be 0.
    arguments.training_args.disable_dropout = False
    return arguments


def install_trainer(task: str, dotted: str) -> None:
    """Make upstream's factory build our trainer; task: "causal_lm" or "gkd", dotted: "package.module.Class"."""
    TrainerFactory.TRAINER_MAPPING[task] = dotted


def load_frozen_model(arguments: SftArguments, folder: str, adapters: list[str]) -> Any:
    """A second, frozen copy for the teacher, with its adapters if it has any."""
    model, _processor = arguments.get_model_processor(model=folder)
    if adapters:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapters[0])
    return model.requires_grad_(False).eval()


def export_quantized(model: Path, output: Path, method: str, bits: int | None) -> None:
    """Upstream's own export of a model in fewer bits, into an existing folder."""
    from swift.arguments import ExportArguments
    from swift.pipelines.export.export import SwiftExport

    arguments = ExportArguments(
        model=str(model),
        model_type="qwen3_vl",
        quant_method=method,
        quant_bits=bits,
        output_dir=str(output),
        exist_ok=True,
    )
    SwiftExport(arguments).main()


def inexact_initialisation(model: Any) -> str | None:
    """The initialisation of the adapter that makes "adapters off" differ from the base, or None when it is exact."""
    for config in getattr(model, "peft_config", {}).values():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        init = getattr(config, "init_lora_weights", True)
        if kind == "FOURIERFT":
            return "FourierFT"
        if isinstance(init, str) and init.lower() not in {"gaussian", "true"}:
            return f"init_weights: {init}"
    return None


def gathered(weights: Sequence[Any]) -> AbstractContextManager[Any]:
    """Context in which parameters that ZeRO-3 has sharded are whole; nothing to do for others."""
    absent = {
        id(weight): weight for weight in weights if hasattr(weight, "ds_id") and weight.ds_status.name != "AVAILABLE"
    }
    sharded = list(absent.values())
    if not sharded:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded)


def start_process_group_on_cpu() -> None:
    """ZeRO-3 shards the model while it is made, so the group must exist before; on a CPU nobody else starts it."""
    import deepspeed

    deepspeed.init_distributed("gloo")


def set_verbosity(*, debug: bool, main_process: bool) -> None:
    """Upstream's log level: everything with --debug, warnings otherwise (it prints the whole model at info)."""
    level = logging.INFO if debug and main_process else logging.WARNING
    _upstream_logger().setLevel(level)
