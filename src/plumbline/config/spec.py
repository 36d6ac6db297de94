"""Frozen dataclass -> Section: kinds from the type hints, one line per field from the string below it.

```python
@dataclass(frozen=True, kw_only=True)
class Example:
    weight: Annotated[float, Range(ge=0)] = 0.1
    \"\"\"Factor of the term in the loss.\"\"\"
```
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from plumbline.config.limits import Length, MayBeEmpty, Named, NameOrFile, Range
from plumbline.config.types import (
    NO_DEFAULT,
    AnyOf,
    Anything,
    Bool,
    Choice,
    Field,
    Interval,
    ListOf,
    MapOf,
    NamedParams,
    Null,
    Number,
    Section,
    Text,
    ValueType,
)


@cache
def section_of(cls: type) -> Section:
    """The Section that a frozen dataclass describes. Raises TypeError for a hint that it does not know."""
    hints = get_type_hints(cls, include_extras=True)
    docs = field_docs(cls)
    fields = {}
    for item in dataclasses.fields(cls):
        default = _default(item)
        kind = type_of(hints[item.name])
        fields[item.name] = Field(item.name, kind, default, docs.get(item.name, ""), required=default is NO_DEFAULT)
    doc = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return Section(cls.__name__, fields, cls, doc)


def field_docs(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass, inherited ones included, as one line."""
    tree = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(tree, ast.ClassDef)
    parents = [parent for parent in cls.__bases__ if dataclasses.is_dataclass(parent)]
    docs = {name: text for parent in parents for name, text in field_docs(parent).items()}
    for item, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(below, ast.Expr):
            docs[item.target.id] = " ".join(ast.literal_eval(below.value).split())
    return docs


def type_of(hint: Any) -> ValueType:
    """The kind of value that a type hint describes; `tuple[float, float]` is a range of two ascending numbers."""
    if get_origin(hint) is Annotated:
        base, *limits = get_args(hint)
        if isinstance(limits[0], Named):
            return NamedParams(partial(_sections_of, limits[0]))
        return _limited(type_of(base), limits)
    simple: dict[Any, ValueType] = {
        bool: Bool(),
        int: Number("int"),
        float: Number("float"),
        str: Text(),
        Any: Anything(),
        type(None): Null(),
    }
    if hint in simple:
        return simple[hint]
    if dataclasses.is_dataclass(hint):
        return section_of(hint)  # type: ignore[arg-type]
    return _generic(hint)


def _sections_of(named: Named) -> dict[str, Section]:
    return {name: section_of(cls) for name, cls in named.classes().items()}


def _generic(hint: Any) -> ValueType:
    args = get_args(hint)
    match get_origin(hint):
        case origin if origin is Literal:
            return Choice(args)
        case origin if origin in (Union, types.UnionType):
            return AnyOf(tuple(type_of(arg) for arg in args))
        case origin if origin is tuple and args[1:] == (...,):
            return ListOf(type_of(args[0]))
        case origin if origin is tuple and args in ((float, float), (int, int)):
            return Interval(Number("int" if args[0] is int else "float"))
        case origin if origin is Mapping:
            return MapOf(type_of(args[1]))
    raise TypeError(f"a configuration field cannot be {hint}")


def _limited(kind: ValueType, limits: list[Any]) -> ValueType:
    if isinstance(kind, AnyOf):
        return AnyOf(tuple(option if isinstance(option, Null) else _limited(option, limits) for option in kind.options))
    for limit in limits:
        if isinstance(limit, Range) and isinstance(kind, Number):
            kind = dataclasses.replace(kind, bounds=limit)
        elif isinstance(limit, Range) and isinstance(kind, Interval):
            kind = Interval(dataclasses.replace(kind.end, bounds=limit))
        elif isinstance(limit, Length) and isinstance(kind, ListOf):
            kind = dataclasses.replace(kind, length=limit)
        elif isinstance(limit, MayBeEmpty) and isinstance(kind, Text):
            kind = dataclasses.replace(kind, may_be_empty=True)
        elif isinstance(limit, NameOrFile) and isinstance(kind, Text):
            kind = dataclasses.replace(kind, limit=limit)
        else:
            raise TypeError(f"{limit} does not apply to {kind}")
    return kind


def _default(item: dataclasses.Field[Any]) -> Any:
    """The field's default as a plain value."""
    if item.default is not dataclasses.MISSING:
        return _plain(item.default)
    if item.default_factory is not dataclasses.MISSING:
        return _plain(item.default_factory())
    return NO_DEFAULT


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
