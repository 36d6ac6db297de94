"""The vision tower of a distillation step: run once for both sides where it is frozen, and compared behind its mergers.

The mergers (one aligner and the deepstack ones) turn the tower's hidden rows into the features that enter the language
model. The teacher runs first; what enters and leaves its mergers is kept. A student whose tower cannot differ from the
teacher's then starts at the mergers, and the features of both sides are compared there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from plumbline.model.parts import ALIGNER

TARGETS = ("merger", "deepstack")
_MERGERS = tuple(name.removeprefix("model.visual.") for name in ALIGNER)


@dataclass(frozen=True)
class VisualKd:
    """The term `weight * distance` of `custom.visual_kd`.

    targets: which mergers are compared; in_evaluation: whether the term is part of the evaluation too.
    """

    weight: float
    targets: tuple[str, ...] = TARGETS
    distance: str = "mse"
    in_evaluation: bool = True


@dataclass
class MergerRows:
    """What passed through the mergers in one forward: the merger first, then each deepstack merger.

    entered: hidden rows [P, D] of the patches; left: features [P / merge ** 2, H]. Empty for a batch without images.
    """

    entered: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)


def mergers_of(visual: Any) -> list[nn.Module]:
    """The merger, then every deepstack merger."""
    return [visual.merger, *visual.deepstack_merger_list]


@dataclass(frozen=True)
class Taught:
    """The teacher's side of a batch.

    hidden: rows [B, L, H] after the final norm; head: [V, H]; mergers: what passed through its mergers; shared: whether
    the student's tower computes the same as far as the mergers.
    """

    hidden: Tensor
    head: Tensor
    mergers: MergerRows
    shared: bool


@contextmanager
def watched(visual: Any) -> Iterator[MergerRows]:
    """Keep what passes through the mergers of `visual` inside the block."""
    rows = MergerRows()
    mergers = mergers_of(visual)
    passed: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            passed[number] = (inputs[0], output)

        return hook

    handles = [merger.register_forward_hook(keep(number)) for number, merger in enumerate(mergers)]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
        if passed:
            rows.entered, rows.left = ([passed[number][side] for number in range(len(mergers))] for side in (0, 1))


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

    before = vars(visual).get("forward")
    visual.forward = forward
    try:
        yield
    finally:
        if before is None:
            del visual.forward
        else:
            visual.forward = before


def shares_tower(student: Any, teacher: Any) -> bool:
    """Whether the towers before the mergers compute the same and will go on doing so: frozen, and equal bit by bit."""
    for name, module in student.named_modules():
        if isinstance(module, BaseTunerLayer) and not _is_merger(name):
            return False
    mine = {name: tensor for name, tensor in student.named_parameters() if not _is_merger(name)}
    if any(tensor.requires_grad for tensor in mine.values()):
        return False
    if student is teacher:
        return True
    theirs = {name: tensor for name, tensor in teacher.named_parameters() if not _is_merger(name)}
    return mine.keys() == theirs.keys() and all(_is_same(tensor, theirs[name]) for name, tensor in mine.items())


def _is_same(mine: Tensor, theirs: Tensor) -> bool:
    """Bit by bit; parameters that are scattered over ranks (ZeRO-3 leaves them empty) cannot be compared."""
    return mine.numel() > 0 and mine.dtype == theirs.dtype and torch.equal(mine, theirs.to(mine.device))


def _is_merger(name: str) -> bool:
    return name.startswith(_MERGERS)


def can_move(visual: Any) -> bool:
    """Whether anything on the visual side trains, so that its features can leave the teacher's."""
    return any(parameter.requires_grad for parameter in visual.parameters())


def feature_distances(student: Sequence[Tensor], teacher: Sequence[Tensor], kd: VisualKd) -> dict[str, Tensor]:
    """Distance of each target, summed over visual tokens; float32 scalars that carry the student's gradient.

    student, teacher: features [N, H] of the merger and of every deepstack merger. `mse` is the mean over channels,
    `cosine` is one minus the cosine; deepstack is the mean over its modules.
    """
    apart = [_distance(mine, theirs.detach(), kd.distance) for mine, theirs in zip(student, teacher, strict=True)]
    found = {"merger": apart[0]}
    if apart[1:]:
        found["deepstack"] = torch.stack(apart[1:]).mean()
    return {name: found[name] for name in kd.targets if name in found}


def _distance(mine: Tensor, theirs: Tensor, distance: str) -> Tensor:
    mine, theirs = mine.float(), theirs.float()
    if distance == "cosine":
        return (1 - nn.functional.cosine_similarity(mine, theirs, dim=-1)).sum()
    return (mine - theirs).square().mean(dim=-1).sum()


def visual_tokens(grid_thw: Tensor, vision_config: Any) -> Tensor:
    """Features that the pictures of a batch have, a scalar; grid_thw: [images, 3]."""
    return (grid_thw.prod(-1) // vision_config.spatial_merge_size**2).sum()
