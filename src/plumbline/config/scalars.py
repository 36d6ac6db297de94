"""Plain scalars of YAML 1.2's core schema: `1e-4` is a number, `no` and `on` are text, `0777` is 777.

Source: YAML 1.2.2, section 10.3.2 (tag resolution of the core schema).
"""

from __future__ import annotations

import re

MAX_DIGITS = 400  # a longer number is a mistake, and Python refuses to convert it past 4300

_CONSTANTS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def resolve_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar. Raises ValueError for a number of more than `MAX_DIGITS` digits."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "-+.0123456789" or not _is_number(text):
        return text
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters")
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    return int(text) if _DECIMAL.fullmatch(text) else float(text)


def _is_number(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in (_DECIMAL, _FLOAT, _OCTAL, _HEX))
