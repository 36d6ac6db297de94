"""Limits that a field's type hint may carry: `Annotated[float, Range(ge=0)]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Bounds of a number."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def holds(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def describe(self) -> str:
        bounds = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def schema(self) -> dict[str, float]:
        names = {"minimum": self.ge, "exclusiveMinimum": self.gt, "maximum": self.le, "exclusiveMaximum": self.lt}
        return {name: bound for name, bound in names.items() if bound is not None}


@dataclass(frozen=True)
class Length:
    """Bounds of a list's length; `unique` refuses the same item twice."""

    least: int = 0
    unique: bool = False


@dataclass(frozen=True)
class MayBeEmpty:
    """Text for which the empty text has a meaning."""


@dataclass(frozen=True)
class NameOrFile:
    """Text that is one of the names, or a path that ends in one of the suffixes."""

    names: tuple[str, ...]
    suffixes: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """A mapping `{name: ..., params: {...}}` that makes one of several frozen dataclasses, chosen by its name."""

    classes: Callable[[], Mapping[str, type]]
    """Gives name -> class; called when a configuration first names one, so that no other pays for their imports."""
