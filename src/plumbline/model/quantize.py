"""A smaller copy of a model, its language model in 4 or 8 bits, written by the upstream's export.

Vision encoder, aligner and output head keep their precision: they are a small part of the bytes and most of the harm.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plumbline.errors import Problem, UserError
from plumbline.model.checkpoints import CARD_FILE, drafted, locate
from plumbline.model.loading import check_architecture
from plumbline.model.merge import COMPANIONS, UPSTREAM_FILE

METHODS = {"bnb4": ("bnb", 4), "bnb8": ("bnb", 8), "fp8": ("fp8", None)}
"""Our name -> the upstream's method and bits. Those that need a calibration set (GPTQ, AWQ) are not offered."""


@dataclass(frozen=True)
class QuantizeReport:
    """What was written. size_before, size: bytes of the weights."""

    model: Path
    output: Path
    method: str
    size_before: int
    size: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"model": str(self.model), "output": str(self.output)}


def quantize(model: str | Path, output: str | Path, method: str, *, overwrite: bool = False) -> QuantizeReport:
    """Write a base or merged model in fewer bits to `output`, whole or not at all, with its card.

    Raises UserError for adapters, methods that are not there and folders that are in the way.
    """
    begun = time.perf_counter()
    if method not in METHODS:
        raise UserError(Problem("--method", f"{method!r} is none of {', '.join(METHODS)}"))
    located = locate(model)
    if located.kind == "adapter":
        raise UserError(Problem(str(model), "is an adapter", "merge it first (plumbline merge)"))
    check_architecture(located.folder)
    _check_installed(method)
    with drafted(output, overwrite) as draft:
        from plumbline.model.upstream import export_quantized

        export_quantized(located.folder, draft, *METHODS[method])
        for name in (*COMPANIONS, CARD_FILE, UPSTREAM_FILE):
            if (located.folder / name).exists():
                shutil.copyfile(located.folder / name, draft / name)
        size = _weights(draft)
    seconds = time.perf_counter() - begun
    return QuantizeReport(located.folder, Path(output), method, _weights(located.folder), size, seconds)


def _check_installed(method: str) -> None:
    import torch

    if method == "fp8" and not torch.cuda.is_available():
        raise UserError(Problem("--method", "fp8 needs a GPU", "bnb4 and bnb8 work without one"))
    if method != "fp8" and find_spec("bitsandbytes") is None:
        fix = "pip install 'plumbline[quantize]'"
        raise UserError(Problem("--method", f"{method} needs bitsandbytes, which is not installed", fix))


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
