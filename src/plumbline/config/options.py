"""Limits of command-line settings: the same hints as in a configuration, checked where the settings are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from plumbline.config.spec import type_of
from plumbline.config.types import faults_of
from plumbline.errors import Problem


def option_problems(settings: Any) -> Iterator[Problem]:
    """Every field of a dataclass that breaks the limits of its own hint, named by its flag.

    Fields without limits (paths, nested settings) are left to the settings' own rules.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for item in dataclasses.fields(settings):
        hint = hints[item.name]
        if not _has_limits(hint):
            continue
        flag = f"--{item.name.replace('_', '-')}"
        for fault in faults_of(type_of(hint), getattr(settings, item.name), flag):
            yield Problem(flag, fault.removeprefix(f"{flag} "))


def _has_limits(hint: Any) -> bool:
    return get_origin(hint) in (Annotated, Literal) or any(get_origin(part) is Literal for part in get_args(hint))
