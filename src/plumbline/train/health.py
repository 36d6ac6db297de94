"""Checks of the model before the first step and after it: what should train does, what is frozen stays as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from plumbline.errors import EXIT_FAILURE, ConfigError, Problem, UserError
from plumbline.model.parts import PARTS, part_of, plain_name
from plumbline.train.targets import HEAD_CARRIES_NO_ADAPTER, NOTHING_TRAINS, TrainingTargets

_PIECE_WORDS = 1 << 20


class FrozenChangedError(UserError):
    """A frozen tensor changed during a step."""

    exit_code = EXIT_FAILURE


def trainable_by_part(model: nn.Module) -> dict[str, Counter[str]]:
    """Per part of the model, the number of parameters: {"llm": {"trainable": ..., "frozen": ...}, ...}."""
    table: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for name, parameter in model.named_parameters():
        # Under ZeRO-3 a parameter is empty on this rank and `ds_numel` holds its size.
        size = getattr(parameter, "ds_numel", parameter.numel())
        table[part_of(name)]["trainable" if parameter.requires_grad else "frozen"] += size
    return table


def check_targets(model: nn.Module, targets: TrainingTargets) -> None:
    """Raise ConfigError when the model that was built would not train what was requested, or would train more."""
    problems = [
        *_adapter_problems(model, targets),
        *_saved_problems(model, targets),
        *_part_problems(model, targets),
    ]
    if problems:
        raise ConfigError(problems)


def _adapter_problems(model: nn.Module, targets: TrainingTargets) -> Iterable[Problem]:
    if targets.tuner_type != "full" and not hasattr(model, "peft_config"):
        yield Problem(
            "tuner.tuner_type",
            f"{targets.tuner_type} was requested but the model carries no adapter: the full model would be saved",
            "this is a fault of the adapter's preparation; check tuner.target_modules",
        )
    if targets.tuner_type != "full" and any("lm_head" in name and "lora_" in name for name, _ in _parameters(model)):
        yield HEAD_CARRIES_NO_ADAPTER


def _saved_problems(model: nn.Module, targets: TrainingTargets) -> Iterable[Problem]:
    trainable = {plain_name(name) for name, _ in _parameters(model)}
    for saved in targets.saved:
        if targets.tuner_type != "full" and not any(f"{saved}.modules_to_save." in name for name in trainable):
            yield Problem("tuner.modules_to_save", f"no module of the model is called {saved}", "name it in full")


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _part_problems(model: nn.Module, targets: TrainingTargets) -> Iterable[Problem]:
    trainable = _parameters(model)
    if not trainable:
        yield NOTHING_TRAINS
        return
    for part in PARTS:
        names = [name for name, _ in trainable if part_of(name) == part]
        stray = [name for name in names if not targets.names_saved(name)]
        if part in targets.frozen and stray:
            yield Problem(
                f"tuner.freeze_{part}",
                f"{part} is frozen but {len(stray)} of its tensors would train, the first is {plain_name(stray[0])}",
                f"set tuner.freeze_{part}: false, or take these targets out",
            )
        if part not in targets.frozen and targets.all_linear and not names:
            yield Problem(
                f"tuner.freeze_{part}",
                f"{part} is not frozen and all-linear targets it, but none of its tensors would train",
                f"set tuner.freeze_{part}: true if that is meant",
            )


def fingerprint(tensor: Tensor) -> Tensor:
    """Sum of a tensor's bytes as whole words (int64 scalar, on its device): cheap enough for every frozen weight.

    A piece at a time, since a sum in a wider type first copies all that it sums: of an embedding that would be the
    largest peak of a whole run.
    """
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    words = flat[: flat.numel() // 4 * 4].view(torch.int32)
    total = flat[words.numel() * 4 :].sum(dtype=torch.int64)
    for piece in words.split(_PIECE_WORDS):
        total += piece.sum(dtype=torch.int64)
    return total


class FrozenTensors:
    """The frozen tensors of a model (parameters and buffers) as they were when this was made."""

    def __init__(self, model: nn.Module):
        self._before = self._prints(model)

    @staticmethod
    def _prints(model: nn.Module) -> dict[str, Tensor]:
        frozen = [(name, tensor) for name, tensor in model.named_parameters() if not tensor.requires_grad]
        # Under ZeRO-3 a rank compares its own shard.
        return {name: fingerprint(getattr(tensor, "ds_tensor", tensor)) for name, tensor in frozen}

    def __len__(self) -> int:
        return len(self._before)

    def check(self, model: nn.Module) -> None:
        """Raise FrozenChangedError naming the first tensor that is not byte-identical any more."""
        after = self._prints(model)
        changed = [name for name, before in self._before.items() if name not in after or after[name] != before]
        if changed:
            raise FrozenChangedError(
                Problem(
                    plain_name(changed[0]),
                    f"{len(changed)} of {len(self._before)} frozen tensors changed during the first step",
                    "report this: a frozen part must never move",
                )
            )
