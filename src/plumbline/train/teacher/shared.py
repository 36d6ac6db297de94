"""What both sides of a distillation step compute alike, run once.

The teacher runs first. A frozen vision tower says the same to both up to its mergers: what entered them is kept, and
the student's tower starts there. With adapters in the upper language layers alone both compute the same up to the first
layer that trains: the rows that leave the last layer in common are kept, and the student starts behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from plumbline.model.parts import ALIGNER
from plumbline.train.objective.features import MergerRows, mergers_of

_MERGERS = tuple(name.removeprefix("model.visual.") for name in ALIGNER)


def shares_tower(student: Any, teacher: Any) -> bool:
    """Whether the vision towers before the mergers compute the same and will go on doing so.

    student, teacher: Qwen3-VL's vision models; the same object when adapters are switched off.
    """
    return _computes_alike(student, teacher, besides=_MERGERS)


def layers_in_common(student: Any, teacher: Any) -> int:
    """How many of the lowest language layers compute the same on both sides and will go on doing so.

    student, teacher: the Qwen3-VL models under their wrappers; the same object when adapters are switched off. What
    feeds the layers (pictures and embeddings) must be frozen and equal too, bit by bit.
    """
    mine, theirs = student.model, teacher.model
    fed = ((mine.visual, theirs.visual), (mine.language_model.embed_tokens, theirs.language_model.embed_tokens))
    if not all(_computes_alike(one, other) for one, other in fed):
        return 0
    layers = zip(mine.language_model.layers, theirs.language_model.layers, strict=False)
    for number, (one, other) in enumerate(layers):
        if not _computes_alike(one, other):
            return number
    return len(mine.language_model.layers)


def _computes_alike(mine: nn.Module, theirs: nn.Module, besides: tuple[str, ...] = ()) -> bool:
    """Frozen, without an adapter, and equal bit by bit; names that start with one of `besides` are left out."""
    for name, module in mine.named_modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)) and not name.startswith(besides or "\0"):
            return False
    one, other = (
        {name: tensor for name, tensor in module.named_parameters() if not name.startswith(besides or "\0")}
        for module in (mine, theirs)
    )
    if any(tensor.requires_grad for tensor in one.values()):
        return False
    return mine is theirs or (
        one.keys() == other.keys() and all(_is_same(tensor, other[name]) for name, tensor in one.items())
    )


def _is_same(mine: Tensor, theirs: Tensor) -> bool:
    """Bit by bit; parameters that are scattered over ranks (ZeRO-3 leaves them empty) cannot be compared."""
    return mine.numel() > 0 and mine.dtype == theirs.dtype and torch.equal(mine, theirs.to(mine.device))


@contextmanager
def started_at_mergers(visual: Any, rows: MergerRows) -> Iterator[None]:
    """Inside the block `visual` computes its mergers alone, from rows that entered them before."""

    def forward(hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any) -> BaseModelOutputWithDeepstackFeatures:
        features = [merger(entered) for merger, entered in zip(mergers_of(visual), rows.entered, strict=True)]
        return BaseModelOutputWithDeepstackFeatures(
            last_hidden_state=rows.entered[0],  # type: ignore[arg-type]
            pooler_output=features[0],
            deepstack_features=features[1:],
        )

    with _computing(visual, forward):
        yield


@contextmanager
def _computing(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside the block `module` computes `forward` instead of its own."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def kept_after(language_model: Any, layers: int) -> Iterator[list[Tensor]]:
    """Keep the rows [B, L, H] that leave the last of the lowest `layers` inside the block; nothing with 0 layers."""
    rows: list[Tensor] = []
    if layers == 0:
        yield rows
        return

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        rows[:] = [output.clone()]  # upstream adds the deepstack features in place

    handle = language_model.layers[layers - 1].register_forward_hook(keep)
    try:
        yield rows
    finally:
        handle.remove()


@contextmanager
def started_after(language_model: Any, layers: int, rows: Tensor) -> Iterator[None]:
    """Inside the block the lowest `layers` compute nothing: the last of them gives `rows`.

    The rows ask for a gradient where those that enter do: a reentrant checkpoint over a layer needs one.
    """

    def passed_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states

    def given(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return rows.detach().requires_grad_(hidden_states.requires_grad).clone()

    lower = list(language_model.layers[:layers])
    checkpointing = [layer.gradient_checkpointing for layer in lower]
    with ExitStack() as replaced:
        for layer in lower:
            replaced.enter_context(_computing(layer, given if layer is lower[-1] else passed_on))
            # A checkpoint would compute the layer itself again in the backward.
            layer.gradient_checkpointing = False
        try:
            yield
        finally:
            for layer, before in zip(lower, checkpointing, strict=True):
                layer.gradient_checkpointing = before
