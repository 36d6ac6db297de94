"""What a configuration may say about augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from plumbline.augment.curriculum import CurriculumConfig, curriculum_problems
from plumbline.config.limits import Named, Range
from plumbline.config.spec import section_of


def _operations() -> dict[str, type[Any]]:
    from plumbline.augment.ops import OPERATIONS  # numpy, which a configuration without operations does without

    return OPERATIONS


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random changes of training images and their geometry together; validation is never augmented."""

    enabled: bool = False
    """Whether training samples are augmented."""
    bypass_prob: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Chance that a sample is left as it is."""
    ops: tuple[Annotated[Any, Named(_operations)], ...] = ()
    """Operations in the order in which they act."""
    curriculum: CurriculumConfig | None = None
    """Phases over the run between which the parameters move."""


def augmentation_problems(config: AugmentationConfig) -> Iterator[tuple[str, str, str]]:
    """(path, what, fix) of what does not fit together, each key being right by itself."""
    if not config.ops:
        yield "ops", "augmentation is enabled without operations", "list some, or set enabled: false"
    for number, operation in enumerate(config.ops):
        if hasattr(operation, "problems"):
            yield from ((f"ops[{number}]", what, fix) for what, fix in operation.problems())
    if config.curriculum is not None:
        from plumbline.augment.ops import NAMES, OPERATIONS

        sections = {name: section_of(cls) for name, cls in OPERATIONS.items()}  # type: ignore[arg-type]
        for path, what, fix in curriculum_problems(config.curriculum, config.ops, NAMES, sections):
            yield f"curriculum.{path}", what, fix
