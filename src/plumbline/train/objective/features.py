"""The visual features of a distillation step, compared behind the mergers.

The mergers (one aligner and the deepstack ones) turn the tower's hidden rows into the features that enter the language
model. What enters and leaves them is kept on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

TARGETS = ("merger", "deepstack")


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
