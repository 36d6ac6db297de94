"""Markdown tables of a Section's fields, nested sections included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from plumbline.config.render import inline
from plumbline.config.types import NO_DEFAULT, AnyOf, Field, ListOf, NamedParams, Null, Section, ValueType


def field_table(fields: Iterable[Field]) -> Iterator[str]:
    """One row per field: key, kind, default, meaning."""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for item in fields:
        yield f"| `{item.name}` | {_cell(_kind(item.type))} | {_default(item)} | {_cell(item.doc)} |"


def nested_sections(section: Section) -> Iterator[tuple[str, Section]]:
    """Sections inside a section with their dotted paths, outer ones first."""
    for name, item in section.fields.items():
        if isinstance(item.type, ListOf) and isinstance(item.type.item, NamedParams):
            yield from ((f"{name}[]: {chosen}", found) for chosen, found in item.type.item.sections.items())
        inner = _inner(item.type)
        if inner is not None:
            path = f"{name}[]" if _is_list(item.type) else name
            yield path, inner
            yield from ((f"{path}.{deeper}", found) for deeper, found in nested_sections(inner))


def _inner(kind: ValueType) -> Section | None:
    if isinstance(kind, Section):
        return kind
    if isinstance(kind, ListOf):
        return _inner(kind.item)
    options = kind.options if isinstance(kind, AnyOf) else ()
    return next((found for option in options if (found := _inner(option))), None)


def _is_list(kind: ValueType) -> bool:
    options = kind.options if isinstance(kind, AnyOf) else (kind,)
    return any(isinstance(option, ListOf) for option in options)


def _kind(kind: ValueType) -> str:
    """What may be written; null is shown in the column of defaults."""
    if isinstance(kind, AnyOf):
        return " or ".join(option.describe() for option in kind.options if not isinstance(option, Null))
    return kind.describe()


def _default(item: Field) -> str:
    if item.required:
        return "required"
    value: Any = item.default
    return "" if value is NO_DEFAULT or isinstance(value, dict) or value is None else f"`{_cell(inline(value))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
