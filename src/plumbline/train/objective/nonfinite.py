"""Where a loss stopped being finite: in which part of the model first, and in which terms.

The flags of a micro-batch stay on the device; they are read when a step is dropped or an evaluation ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from plumbline.train.objective.features import MergerRows
from plumbline.train.objective.terms import HeadTerms

PARTS = ("the vision tower", "the aligner", "the language model", "the teacher")
"""In the order in which values pass through them; the teacher is read apart."""
TERMS = ("CE", "KD", "visual KD")
PREFIX = "nonfinite/"
NAMES = tuple(PREFIX + name for name in (*PARTS, *TERMS))
"""Names of the flags, which are also sums of the meter."""


def fault_flags(
    terms: HeadTerms, distances: Mapping[str, Tensor], mergers: MergerRows, rows: Tensor, teacher: Iterable[Tensor]
) -> Tensor:
    """1.0 for each of `NAMES` that is not finite in a micro-batch, else 0.0; float32 [len(NAMES)].

    mergers: what passed through the student's; rows: the student's hidden rows [N, H] that predict a supervised token;
    teacher: what the teacher gave, of any shape.
    """
    groups = (mergers.entered, mergers.left, [rows], teacher, [terms.row_ce], [terms.row_kd], distances.values())
    return torch.stack([_any_bad(group, rows.device) for group in groups])


@torch.no_grad()
def _any_bad(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    bad = [(~torch.isfinite(tensor)).any().to(device, torch.float32) for tensor in tensors]
    return torch.stack(bad).amax() if bad else torch.zeros((), device=device)


def over_ranks(flags: Tensor) -> Tensor:
    """The flags of all ranks together; every rank must call it."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return flags


def where_from(counts: Mapping[str, float]) -> str:
    """One phrase about the flags: `CE and KD are not finite, first in the aligner`; empty where none is set."""
    terms = [term for term in TERMS if counts[PREFIX + term]]
    parts = [part for part in PARTS if counts[PREFIX + part]]
    if not terms and not parts:
        return ""
    # A teacher that is not finite explains no CE: name it next to the student's first part.
    named = [part for part in parts if part != "the teacher"][:1] + [part for part in parts if part == "the teacher"]
    verb = "is" if len(terms) == 1 else "are"
    begin = f"{' and '.join(terms)} {verb} not finite" if terms else "an activation is not finite"
    return f"{begin}, first in {' and in '.join(named)}" if named else f"{begin}, first in the loss itself"
