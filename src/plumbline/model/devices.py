"""Whether this machine can compute in the precision that a run asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from plumbline.errors import Problem

logger = logging.getLogger(__name__)


def device_problems(upstream: Mapping[str, Any]) -> Iterator[Problem]:
    """What stops a run on this machine's device. upstream: its arguments under upstream's names."""
    import torch

    if upstream.get("use_cpu"):
        return
    # Where `bf16` is left out, the upstream takes it from the dtype of the weights.
    half = upstream.get("bf16", upstream.get("torch_dtype") == "bfloat16"), upstream.get("fp16")
    if not torch.cuda.is_available():
        key = "training.fp16" if half[1] else "training.bf16"
        fix = "run it where nvidia-smi shows a GPU, or set training.use_cpu: true (slow)"
        if any(half):
            yield Problem(key, "needs a GPU, and this process sees none", fix)
        else:
            logger.warning("this process sees no GPU: the run trains on the processor, slowly")
    elif half[0] and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        fix = "set bf16: false, fp16: true and model.torch_dtype: float16"
        yield Problem("training.bf16", f"{name} does not compute in bf16", fix)
