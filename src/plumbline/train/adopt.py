"""Taking another run's weights into this run's own adapter (the second stage of a two-stage recipe).

Upstream's ways of starting from an adapter rebuild the other run's targets, so that what only this stage targets would
silently not train. Here this stage's adapter is built first and tensors are copied into it by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import ConfigError, Problem
from plumbline.model.checkpoints import Located, locate

KEY = "tuner.resume_from_checkpoint"


@dataclass(frozen=True)
class Adopted:
    """copied: tensors taken over; fresh: tensors of this run's adapter that the other run did not have."""

    source: Path
    copied: int
    fresh: int


def locate_adapter(path: str) -> Located:
    """The adapter folder behind `tuner.resume_from_checkpoint`; raises ConfigError when it is not an adapter."""
    located = locate(path)
    if located.kind != "adapter":
        raise ConfigError(
            Problem(KEY, f"{located.folder} is a full model, not an adapter", "name it as model.model instead")
        )
    return located


def adopt_weights(model: Any, path: str) -> Adopted:
    """Copy every tensor of an adapter into `model`'s own adapter.

    model: a PeftModel. Raises ConfigError for tensors that this run has no place for (a leftover would be lost without
    a word) and for shapes that do not fit (another rank).
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    located = locate_adapter(path)
    theirs = {}
    for file in sorted(located.folder.glob("adapter_model*.safetensors")):
        theirs.update(load_file(file))
    ours = get_peft_model_state_dict(model)
    problems = _misfits(theirs, ours, located.folder)
    if problems:
        raise ConfigError(problems)
    set_peft_model_state_dict(model, theirs)
    return Adopted(located.folder, len(theirs), len(ours.keys() - theirs.keys()))


def _misfits(theirs: dict[str, Any], ours: dict[str, Any], folder: Path) -> list[Problem]:
    leftovers = sorted(theirs.keys() - ours.keys())
    misfits = [
        Problem(
            KEY,
            f"{name} has shape {tuple(theirs[name].shape)} there and {tuple(ours[name].shape)} here",
            "use the same tuner.lora_rank in both stages, or merge the first stage (`plumbline merge`)",
        )
        for name in sorted(theirs.keys() & ours.keys())
        if theirs[name].shape != ours[name].shape
    ]
    if leftovers:
        misfits.append(
            Problem(
                KEY,
                f"{folder} holds {len(leftovers)} tensor(s) that have no place in this run, first {leftovers[0]}",
                "target those modules here too, or merge the first stage into the base (`plumbline merge`) and start "
                "from the merged model",
            )
        )
    return misfits
