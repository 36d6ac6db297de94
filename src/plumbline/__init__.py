"""Plumbline: fine-tune Qwen3-VL from YAML, keep it true to its base model, and use what was trained.

From Python:

- `load_run(file)`: a training configuration, checked, with its notes.
- `run_training(file, TrainOptions())`: what `plumbline train` does.
- `Captioner(model).describe(pictures)`: objects or summaries of pictures, with `Sampling` for how they are decoded.
- `read_records(file)`, `write_records(file, records)`: JSONL of the contract.
- `parse_answer(text)`: the objects in a reply, and what could not be read.
- `UserError`: what all of them raise for a mistake of the user.

Names are imported when they are first used: `import plumbline` loads no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Captioner": ("plumbline.infer.captioner", "Captioner"),
    "Sampling": ("plumbline.infer.config", "Sampling"),
    "TrainOptions": ("plumbline.train.launch", "TrainOptions"),
    "UserError": ("plumbline.errors", "UserError"),
    "load_run": ("plumbline.train.config", "load_run"),
    "parse_answer": ("plumbline.data.parse", "parse_answer"),
    "read_records": ("plumbline.data.read", "read_records"),
    "run_training": ("plumbline.train.run", "run_training"),
    "write_records": ("plumbline.data.read", "write_records"),
}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'plumbline' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, *globals()]
