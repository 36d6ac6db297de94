"""Plain values -> YAML text that loads to the same values, with a comment that says where each one came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from plumbline.config.scalars import resolve_plain
from plumbline.config.tree import Origin

_BARE = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.\-]*")
_YAML_1_1_WORDS = {"y", "yes", "n", "no", "on", "off"}  # quoted, so that older readers agree


def render_yaml(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> str:
    """Nested mappings as blocks, one value per line, its origin (or `default`) as a comment."""
    return "\n".join(_lines(values, origins, "", "")) + "\n"


def _lines(values: Mapping[str, Any], origins: Mapping[str, Origin], prefix: str, indent: str) -> Iterator[str]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{inline(key)}:"
            yield from _lines(value, origins, f"{path}.", f"{indent}  ")
        else:
            yield f"{indent}{inline(key)}: {inline(value)}  # {origins.get(path, 'default')}"


def inline(value: Any) -> str:
    """A plain value on one line, in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{inline(key)}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _float(value) if isinstance(value, float) else str(value)


def _float(value: float) -> str:
    """With a point before an exponent (`1.0e-05`), which every YAML version reads as a number."""
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}[text]
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}" if exponent else text


def _text(value: str) -> str:
    if _BARE.fullmatch(value) and isinstance(resolve_plain(value), str) and value.lower() not in _YAML_1_1_WORDS:
        return value
    return '"' + "".join(_escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char)
    code = ord(char)
    return named or (f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}")
