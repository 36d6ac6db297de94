"""The upstream's argument object of a run."""

from __future__ import annotations

import os
import sys
from typing import Any

from plumbline.errors import ConfigError, Problem
from plumbline.train.config import TrainRun
from plumbline.train.folder import Continuation
from plumbline.train.preflight import eval_strategy


def upstream_arguments(run: TrainRun, start: Continuation) -> Any:
    """Upstream's argument object; what it refuses becomes a ConfigError."""
    from plumbline.model.devices import device_problems
    from plumbline.model.upstream import build_arguments, start_process_group_on_cpu

    if problems := list(device_problems(run.upstream)):
        raise ConfigError(problems)
    values = dict(run.upstream)
    values["eval_strategy"] = eval_strategy(run)
    values["val_dataset"] = ["plumbline"] if values["eval_strategy"] != "no" else []
    values.setdefault("disable_tqdm", not sys.stderr.isatty())
    if "LOCAL_RANK" not in os.environ:
        values.pop("ddp_backend", None)  # upstream would ask for a process group that one process does not have
    if start.checkpoint is not None:
        values["resume_from_checkpoint"] = str(start.checkpoint)
    if run.deepspeed.enabled:
        values["deepspeed"] = run.deepspeed.config
    if run.rlhf is not None:
        rlhf = run.rlhf
        values |= {"beta": rlhf.beta, "sft_alpha": rlhf.sft_alpha, "lmbda": rlhf.lmbda}
        values |= {"temperature": rlhf.temperature, "max_completion_length": rlhf.max_completion_length}
    for ours in ("teacher_model_server", "gkd_logits_topk"):
        values.pop(ours, None)  # called by us (`teacher/server.py`)
    if run.deepspeed.enabled and values.get("use_cpu"):
        start_process_group_on_cpu()
    try:
        return build_arguments(values, rlhf_type=None if run.rlhf is None else run.rlhf.rlhf_type)
    except (ValueError, AssertionError, TypeError) as error:
        raise ConfigError(Problem("the upstream's arguments", str(error), "correct the key that it names")) from error
