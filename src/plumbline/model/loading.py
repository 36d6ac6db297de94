"""Loading for inference and merging: safetensors only, no code from the checkpoint, no look-up in a hub."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plumbline.errors import DamagedFileError, Problem, UserError
from plumbline.model.bitsandbytes import import_bitsandbytes
from plumbline.model.checkpoints import locate
from plumbline.storage.objects import read_json_object

ARCHITECTURES = {"Qwen3VLForConditionalGeneration"}

logger = logging.getLogger(__name__)


@contextmanager
def loading(model: str | Path) -> Iterator[None]:
    """Inside the block libraries load `model`: whatever they raise becomes a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        logger.debug("%s cannot be loaded", model, exc_info=True)
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        what = f"cannot be loaded: {type(error).__name__}{': ' if text else ''}{text[:300]}"
        raise UserError(Problem(str(model), what, _remedy(error, text))) from error


def _remedy(error: Exception, text: str) -> str:
    """What helps against an error of a library that loads a model."""
    if "bitsandbytes" in text:
        return "pip install 'plumbline[quantize]'"
    if isinstance(error, ImportError):
        return "install the package that it names"
    if "out of memory" in text.lower() or isinstance(error, MemoryError):
        return "free memory, use a smaller model, or load it in fewer bits"
    if isinstance(error, OSError) or type(error).__name__ in ("SafetensorError", "JSONDecodeError"):
        return "a file is missing, cut short or damaged: download the checkpoint again"
    return "is the checkpoint whole, and of this version of transformers?"


def load_model(
    model: str | Path,
    adapter: str | Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    attn_impl: str | None = None,
) -> Any:
    """The model, in evaluation mode, on the GPU where there is one; with `adapter`, PEFT's wrapper around it.

    model: folder of a base or merged model. adapter: an adapter's folder. dtype: `auto` is the checkpoint's own.
    attn_impl: attention kernel; without it the library's choice.
    Raises UserError for another architecture or pickled weights, DamagedFileError for a folder that is not whole.
    """
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    located = locate(model)
    check_architecture(located.folder)
    bars_on_terminals_only()
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    quantized = bool(read_json_object(located.folder / "config.json").get("quantization_config"))
    with loading(located.folder):
        network: Any = Qwen3VLForConditionalGeneration.from_pretrained(
            located.folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            attn_implementation=attn_impl,
            device_map={"": place} if quantized else None,  # weights in few bits cannot be moved afterwards
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    if adapter is not None:
        network = attach_adapter(network, adapter)
    with loading(located.folder):
        return (network if quantized else network.to(place)).eval()


def attach_adapter(network: Any, adapter: str | Path) -> Any:
    """PEFT's wrapper with the adapter's weights; every tensor of the file must find its place."""
    import warnings

    import_bitsandbytes()
    from peft import PeftModel

    located = locate(adapter)
    if located.kind != "adapter":
        raise UserError(Problem(str(adapter), "is a whole model, not an adapter", "give it as the model"))
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            wrapped = PeftModel.from_pretrained(network, str(located.folder), local_files_only=True)
    except (ValueError, RuntimeError, KeyError) as error:
        raise DamagedFileError(
            Problem(str(located.folder), f"does not fit the model: {error}", "was it trained on another base?")
        ) from error
    missing = [str(item.message) for item in warned if "missing" in str(item.message).lower()]
    if missing:
        raise DamagedFileError(Problem(str(located.folder), missing[0], "the adapter is not whole"))
    return wrapped


def bars_on_terminals_only() -> None:
    """Keep transformers' progress bars out of log files."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def load_processor(model: str | Path) -> Any:
    """Tokenizer, chat template and image processor of a model folder."""
    from transformers import Qwen3VLProcessor

    with loading(model):
        return Qwen3VLProcessor.from_pretrained(str(model), trust_remote_code=False, local_files_only=True)


def check_architecture(folder: Path) -> None:
    """Raise UserError for a model that is no Qwen3-VL."""
    config = read_json_object(folder / "config.json")
    named = config.get("architectures") or []
    if not ARCHITECTURES & set(named):
        what = f"its architecture is {', '.join(map(str, named)) or 'not named'}"
        raise UserError(Problem(str(folder), what, f"plumbline works with {', '.join(sorted(ARCHITECTURES))}"))


def base_of(adapter: Path) -> Path:
    """The base model's folder that an adapter names. Raises UserError when it is not on this machine."""
    named = read_json_object(adapter / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(named, str) or not Path(named).is_dir():
        raise UserError(
            Problem(str(adapter), f"its base model {named!r} is not a folder here", "name the base model yourself")
        )
    return Path(named)
