"""Phases over a run between which the operations' parameters move: a pure function of the step.

The numbers of a phase are reached at its end. Between two ends they move in a straight line; before the first end they
start from the operation's own configured values; after the last they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any

from plumbline.config.limits import Length, Range
from plumbline.config.types import faults_of, suggest

Found = list[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is reached at the end of one stretch of the run; one of the two `until` is set."""

    until_percent: Annotated[float, Range(gt=0, le=100)] | None = None
    """End of the phase in percent of the run's optimiser steps."""
    until_step: Annotated[int, Range(ge=1)] | None = None
    """End of the phase as an optimiser step."""
    bypass_prob: Annotated[float, Range(ge=0, le=1)] | None = None
    """`bypass_prob` at the end of the phase; unchanged when absent."""
    ops: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Operation -> parameters at the end of the phase, numbers and ranges; e.g. `rotate: {max_deg: 15.0}`."""


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Phases in ascending order of their ends."""

    phases: Annotated[tuple[Phase, ...], Length(least=1)]
    """All in percent, or all in steps."""

    def ends(self, total_steps: int) -> list[float]:
        """The steps at which the phases end."""
        return [
            float(phase.until_step)
            if phase.until_step is not None
            else (phase.until_percent or 0.0) / 100 * total_steps
            for phase in self.phases
        ]


def curriculum_problems(
    curriculum: CurriculumConfig, operations: Sequence[Any], names: Mapping[type, str], sections: Mapping[str, Any]
) -> Found:
    """(path, what, fix) of everything that cannot be scheduled.

    names: operation class -> its name; sections: name -> the Section that judges its parameters.
    """
    found: Found = []
    units = {(phase.until_percent is None, phase.until_step is None) for phase in curriculum.phases}
    if units not in ({(False, True)}, {(True, False)}):
        return [("phases", "each phase needs until_percent or until_step, all of them the same one", "")]
    ends = curriculum.ends(100)
    if any(later <= earlier for earlier, later in pairwise(ends)):
        found.append(("phases", f"the ends do not ascend: {', '.join(f'{end:g}' for end in ends)}", "sort the phases"))
    chain = [names[type(operation)] for operation in operations]
    for number, phase in enumerate(curriculum.phases):
        for name, params in phase.ops.items():
            path = f"phases[{number}].ops.{name}"
            if name not in chain:
                fix = suggest(name, chain) or f"operations: {', '.join(chain)}"
                found.append((path, "is not among the operations", fix))
            elif chain.count(name) > 1:
                found.append((path, "occurs more than once in the chain", "name an operation that occurs once"))
            else:
                found += _parameter_problems(path, params, operations[chain.index(name)], sections[name])
    return found


def _parameter_problems(path: str, params: Mapping[str, Any], operation: Any, section: Any) -> Found:
    found: Found = []
    for key, value in params.items():
        if key not in section.fields:
            fix = suggest(key, section.fields) or f"parameters: {', '.join(section.fields)}"
            found.append((f"{path}.{key}", "is not a parameter of the operation", fix))
        elif not _is_movable(getattr(operation, key)):
            found.append((f"{path}.{key}", "is not a number or a range: it cannot move", ""))
        else:
            found += [(path, what, "") for what in faults_of(section.fields[key].type, value, key)]
    return found


def _is_movable(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(_is_movable(item) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def resolve(
    operations: Sequence[Any],
    bypass_prob: float,
    curriculum: CurriculumConfig,
    names: Mapping[type, str],
    step: int,
    total_steps: int,
) -> tuple[tuple[Any, ...], float]:
    """The operations and `bypass_prob` of one optimiser step. Whole numbers stay whole."""
    moved = {names[type(operation)]: operation for operation in operations}
    before, start = dict(moved), 0.0
    bypass = bypass_before = bypass_prob
    for phase, end in zip(curriculum.phases, curriculum.ends(total_steps), strict=True):
        share = 1.0 if step >= end else max(0.0, (step - start) / (end - start))
        if phase.bypass_prob is not None:
            bypass = _between(bypass_before, phase.bypass_prob, share)
        for name, params in phase.ops.items():
            goals = {key: _between(getattr(before[name], key), _plain(value), share) for key, value in params.items()}
            moved[name] = replace(before[name], **goals)
        if step < end:
            break
        before, bypass_before, start = dict(moved), bypass, end
    by_name = {names[type(operation)]: moved[names[type(operation)]] for operation in operations}
    scheduled = {name for phase in curriculum.phases for name in phase.ops}
    chain = tuple(
        by_name[names[type(operation)]] if names[type(operation)] in scheduled else operation
        for operation in operations
    )
    return chain, bypass


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _between(low: Any, high: Any, share: float) -> Any:
    if isinstance(low, tuple):
        return tuple(_between(a, b, share) for a, b in zip(low, high, strict=True))
    if share == 1.0:
        return type(low)(high)
    value = low + (high - low) * share
    return round(value) if isinstance(low, int) else value
