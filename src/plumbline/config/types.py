"""What a value may be: one small class per kind, each able to check a node, describe itself and give its JSON Schema.

`check` returns the plain value (as YAML knows it) or INVALID after reporting; `make` turns a checked plain value into
what the program uses (tuples, dataclasses, floats).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from plumbline.config.limits import Length, NameOrFile, Range
from plumbline.config.tree import ListNode, MapNode, Node, Origin, Scalar, node_of, plain, show_plain
from plumbline.errors import Problem
from plumbline.storage.text import printable

INVALID: Any = object()
NO_DEFAULT: Any = object()
MAX_HINTS = 100  # a file with more mistakes is not one that a suggestion mends
_NEAR = 0.75  # of difflib's ratio: a slip of the keyboard, not another word
_FALSE_FRIENDS = {"yes": True, "y": True, "on": True, "no": False, "n": False, "off": False}


_INDEX = re.compile(r"\[\d+\]")


@dataclass
class CheckReport:
    """Collects problems.

    hints: what to write for a key in the wrong place (by its name), for a key or a value of another version (by its
    path without the index of a list, or `path=value`).
    """

    hints: Mapping[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, origin: Origin, what: str, fix: str = "") -> Any:
        self.problems.append(Problem(str(origin), what, fix))
        return INVALID

    def mismatch(self, node: Node, path: str, wanted: str, fix: str = "") -> Any:
        old = self.hint(f"{path}={node.value}") if isinstance(node, Scalar) else ""
        return self.add(node.origin, f"{path} must be {wanted}, got {show(node)}", old or fix)

    def hint(self, path: str) -> str:
        """The hint for a path, empty where there is none."""
        return self.hints.get(_INDEX.sub("", path), "")

    def scratch(self) -> CheckReport:
        return CheckReport(self.hints)


class ValueType(Protocol):
    """The common face of every kind of value."""

    def accepts(self, node: Node) -> bool:
        """Whether the node has this kind's shape, its value aside."""
        ...

    def check(self, node: Node, path: str, report: CheckReport) -> Any: ...
    def make(self, value: Any) -> Any: ...
    def describe(self) -> str: ...
    def schema(self, defs: dict[str, Any]) -> dict[str, Any]: ...


def faults_of(kind: ValueType, value: Any, name: str) -> list[str]:
    """What is wrong with a plain value; empty when it is of this kind."""
    report = CheckReport()
    kind.check(node_of(value, Origin("", 0, 0)), name, report)
    return [problem.what for problem in report.problems]


def show(node: Node) -> str:
    """A node's value for a message, cut to one short line."""
    if isinstance(node, MapNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node.value, str):
        return f"the text '{printable(node.value, limit=80)}'"
    return show_plain(node.value)


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=_NEAR)
    return f"did you mean `{near[0]}`?" if near else ""


class _ScalarType:
    """Shared by the kinds whose value is used as it is written."""

    def make(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Null(_ScalarType):
    """null, where nothing is a meaningful answer."""

    def accepts(self, node: Node) -> bool:
        return isinstance(node, Scalar) and node.value is None

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        return None if self.accepts(node) else report.mismatch(node, path, "null")

    def describe(self) -> str:
        return "null"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {"type": "null"}


@dataclass(frozen=True)
class Bool(_ScalarType):
    """true or false, and no other spelling."""

    def accepts(self, node: Node) -> bool:
        return isinstance(node, Scalar) and isinstance(node.value, bool)

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        if self.accepts(node):
            return plain(node)
        meant = _FALSE_FRIENDS.get(str(plain(node)).lower())
        fix = "" if meant is None else f"write {show_plain(meant)}: in YAML 1.2 this word is text"
        return report.mismatch(node, path, self.describe(), fix)

    def describe(self) -> str:
        return "true or false"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Number:
    """A finite number. `number` keeps an int an int (the upstream decides), `float` makes it a float."""

    kind: Literal["int", "float", "number"]
    bounds: Range = field(default_factory=Range)

    def accepts(self, node: Node) -> bool:
        if not isinstance(node, Scalar) or isinstance(node.value, bool):
            return False
        return isinstance(node.value, int if self.kind == "int" else (int, float))

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        if not self.accepts(node):
            return report.mismatch(node, path, self.describe(), self._fix(plain(node)))
        value = plain(node)
        if isinstance(value, float) and not math.isfinite(value):
            return report.mismatch(node, path, "a finite number")
        return value if self.bounds.holds(value) else report.mismatch(node, path, self.describe())

    def _fix(self, value: Any) -> str:
        if isinstance(value, float) and value.is_integer():
            return f"write {int(value)}"
        if isinstance(value, str) and re.fullmatch(r"[-+.0-9eE]*[0-9][-+.0-9eE]*", value):
            return "write the number without quotes"
        return ""

    def make(self, value: Any) -> Any:
        return float(value) if self.kind == "float" else value

    def describe(self) -> str:
        noun = "a whole number" if self.kind == "int" else "a number"
        return f"{noun} {self.bounds.describe()}".rstrip()

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {"type": "integer" if self.kind == "int" else "number", **self.bounds.schema()}


@dataclass(frozen=True)
class Text(_ScalarType):
    """Text of at least one character, optionally one of some names or a file."""

    limit: NameOrFile | None = None
    may_be_empty: bool = False

    def accepts(self, node: Node) -> bool:
        return isinstance(node, Scalar) and isinstance(node.value, str)

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        if not self.accepts(node):
            fix = "put it in quotes if it is text" if isinstance(node, Scalar) and node.value is not None else ""
            return report.mismatch(node, path, self.describe(), fix)
        value = plain(node)
        if not value and not self.may_be_empty:
            return report.add(node.origin, f"{path} is empty", "write a value or remove the key")
        if self.limit and value not in self.limit.names and not value.endswith(self.limit.suffixes):
            return report.mismatch(node, path, self.describe(), suggest(value, self.limit.names))
        return value

    def describe(self) -> str:
        if self.limit is None:
            return "text"
        return f"one of {', '.join(self.limit.names)}, or the path of a file ({', '.join(self.limit.suffixes)})"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        if self.limit is None:
            return {"type": "string"} if self.may_be_empty else {"type": "string", "minLength": 1}
        endings = "|".join(re.escape(suffix) for suffix in self.limit.suffixes)
        return {"anyOf": [{"enum": list(self.limit.names)}, {"type": "string", "pattern": f"({endings})$"}]}


@dataclass(frozen=True)
class Choice(_ScalarType):
    """One of a few values."""

    values: tuple[Any, ...]

    def accepts(self, node: Node) -> bool:
        return isinstance(node, Scalar) and any(type(node.value) is type(value) for value in self.values)

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        value = plain(node)
        if isinstance(node, Scalar) and any(value == known and type(value) is type(known) for known in self.values):
            return value
        words = [known for known in self.values if isinstance(known, str)]
        fix = suggest(value, words) if isinstance(value, str) else ""
        return report.mismatch(node, path, self.describe(), fix)

    def describe(self) -> str:
        names = [show_plain(value) for value in self.values]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Anything(_ScalarType):
    """Any plain YAML value: checked by whoever uses it."""

    def accepts(self, node: Node) -> bool:
        return True

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        return plain(node)

    def describe(self) -> str:
        return "any value"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class ListOf:
    """A list of one kind. With `single`, one bare item is read as a list of one (as on the upstream's command line)."""

    item: ValueType
    length: Length = field(default_factory=Length)
    single: bool = False

    def accepts(self, node: Node) -> bool:
        return isinstance(node, ListNode) or (self.single and self.item.accepts(node))

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        if isinstance(node, ListNode):
            return self._check_items(node, path, report)
        if not self.accepts(node):
            return report.mismatch(node, path, self.describe())
        value = self.item.check(node, path, report)
        return INVALID if value is INVALID else [value]

    def _check_items(self, node: ListNode, path: str, report: CheckReport) -> Any:
        values = [self.item.check(item, f"{path}[{i}]", report) for i, item in enumerate(node.items)]
        if INVALID in values:
            return INVALID
        if len(values) < self.length.least:
            return report.mismatch(node, path, f"a list of at least {self.length.least}")
        if self.length.unique and any(value in values[:i] for i, value in enumerate(values)):
            return report.add(node.origin, f"{path} names the same thing twice", "keep one of them")
        return values

    def make(self, value: Any) -> Any:
        return tuple(self.item.make(item) for item in value)

    def describe(self) -> str:
        return f"a list of {self.item.describe()}"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        items: dict[str, Any] = {"type": "array", "items": self.item.schema(defs)}
        if self.length.least:
            items["minItems"] = self.length.least
        if self.length.unique:
            items["uniqueItems"] = True
        return {"anyOf": [items, self.item.schema(defs)]} if self.single else items


@dataclass(frozen=True)
class Interval:
    """[low, high]: the two ends of a range, ascending."""

    end: Number

    def accepts(self, node: Node) -> bool:
        return isinstance(node, ListNode)

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        if not isinstance(node, ListNode) or len(node.items) != 2:
            number = plain(node) if self.end.accepts(node) else None
            fix = "" if number is None else f"for one value write [{number}, {number}]"
            return report.mismatch(node, path, self.describe(), fix)
        values = [self.end.check(item, f"{path}[{i}]", report) for i, item in enumerate(node.items)]
        if INVALID in values:
            return INVALID
        if values[0] > values[1]:
            fix = f"write [{values[1]:g}, {values[0]:g}]"
            return report.add(node.origin, f"{path} must ascend, got [{values[0]:g}, {values[1]:g}]", fix)
        return values

    def make(self, value: Any) -> Any:
        return tuple(self.end.make(item) for item in value)

    def describe(self) -> str:
        return f"[low, high], each {self.end.describe()}"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "items": self.end.schema(defs), "minItems": 2, "maxItems": 2}


@dataclass(frozen=True)
class NamedParams:
    """`{name: ..., params: {...}}`: the name picks the section that judges the parameters."""

    load: Callable[[], Mapping[str, Section]]

    @property
    def sections(self) -> Mapping[str, Section]:
        """Name -> what its parameters may be; a plugin may have added some."""
        return self.load()

    def accepts(self, node: Node) -> bool:
        return isinstance(node, MapNode)

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        names = Choice(tuple(self.sections))
        outer = {"name": Field("name", names, required=True), "params": Field("params", MapOf(Anything()))}
        values = Section("", outer).check(node, path, report)
        if values is INVALID:
            return INVALID
        assert isinstance(node, MapNode)
        inner = self.sections[values["name"]]
        given = node.entries["params"].node if "params" in node.entries else MapNode({}, node.origin)
        params = inner.check(given, f"{path}.params", report)
        return INVALID if params is INVALID else {"name": values["name"], "params": params}

    def make(self, value: Any) -> Any:
        return self.sections[value["name"]].make(value["params"])

    def describe(self) -> str:
        return "a mapping with `name` and `params`"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for name, section in self.sections.items():
            properties = {"name": {"const": name}, "params": section.schema(defs)}
            needed = ["name", "params"] if any(item.required for item in section.fields.values()) else ["name"]
            choices.append(
                {"type": "object", "additionalProperties": False, "properties": properties, "required": needed}
            )
        return {"oneOf": choices}


@dataclass(frozen=True)
class MapOf:
    """A mapping with free keys and one kind of value."""

    item: ValueType

    def accepts(self, node: Node) -> bool:
        return isinstance(node, MapNode)

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        if not isinstance(node, MapNode):
            return report.mismatch(node, path, self.describe())
        values = {key: self.item.check(entry.node, f"{path}.{key}", report) for key, entry in node.entries.items()}
        return INVALID if INVALID in values.values() else values

    def make(self, value: Any) -> Any:
        return {key: self.item.make(item) for key, item in value.items()}

    def describe(self) -> str:
        return "a mapping"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.item.schema(defs)}


@dataclass(frozen=True)
class AnyOf:
    """One of several kinds; the node's shape picks the one that judges it."""

    options: tuple[ValueType, ...]

    def accepts(self, node: Node) -> bool:
        return any(option.accepts(node) for option in self.options)

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        fitting = [option for option in self.options if option.accepts(node)]
        for option in fitting:
            trial = report.scratch()
            value = option.check(node, path, trial)
            if value is not INVALID:
                return value
            if len(fitting) == 1:
                report.problems.extend(trial.problems)
                return INVALID
        options = [option for option in self.options if not isinstance(option, Null)]
        if len(options) == 1 and not (isinstance(node, Scalar) and node.value is None):
            return options[0].check(node, path, report)
        return report.mismatch(node, path, self.describe())

    def make(self, value: Any) -> Any:
        if value is None:
            return None
        options = [option for option in self.options if not isinstance(option, Null)]
        return next(option for option in options if _fits(option, value)).make(value)

    def describe(self) -> str:
        return " or ".join(option.describe() for option in self.options)

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [option.schema(defs) for option in self.options]}


def _fits(option: ValueType, value: Any) -> bool:
    """Whether a checked plain value came from this option: lists and mappings are told apart by their shape."""
    if isinstance(value, dict):
        return isinstance(option, MapOf | Section | NamedParams | Anything)
    if isinstance(value, list):
        return isinstance(option, ListOf | Interval | Anything)
    return not isinstance(option, MapOf | Section | NamedParams | ListOf | Interval)


@dataclass(frozen=True)
class Field:
    """One key of a section: its kind, its default and one line about it."""

    name: str
    type: ValueType
    default: Any = NO_DEFAULT
    doc: str = ""
    required: bool = False
    old: bool = False


@dataclass(frozen=True)
class Section:
    """A mapping with known keys; `build` makes the program's object from the values by name."""

    name: str
    fields: Mapping[str, Field]
    build: Callable[..., Any] = dict
    doc: str = ""

    def accepts(self, node: Node) -> bool:
        return isinstance(node, MapNode)

    def check(self, node: Node, path: str, report: CheckReport) -> Any:
        if not isinstance(node, MapNode):
            return report.mismatch(node, path or "the file", "a mapping")
        values = {}
        for key, entry in node.entries.items():
            where = f"{path}.{key}" if path else key
            if key in self.fields:
                values[key] = self.fields[key].type.check(entry.node, where, report)
            else:
                values[key] = report.add(
                    entry.origin, f"unknown key `{printable(where, limit=80)}`", self._hint(where, key, report)
                )
        for key, known in self.fields.items():
            if known.required and key not in values:
                values[key] = report.add(node.origin, f"{path or 'the file'} has no `{key}`", f"add `{key}: ...`")
        return INVALID if INVALID in values.values() else values

    def _hint(self, path: str, key: str, report: CheckReport) -> str:
        if len(report.problems) > MAX_HINTS:
            return ""
        names = [name for name, known in self.fields.items() if not known.old]
        return report.hint(path) or report.hints.get(key) or suggest(key, names)

    def make(self, value: Any) -> Any:
        return self.build(**{key: self.fields[key].type.make(item) for key, item in value.items()})

    def describe(self) -> str:
        return "a mapping"

    def schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        if self.name not in defs:
            defs[self.name] = {}
            defs[self.name] = self._schema(defs)
        return {"$ref": f"#/$defs/{self.name}"}

    def _schema(self, defs: dict[str, Any]) -> dict[str, Any]:
        properties = {}
        for name, known in self.fields.items():
            properties[name] = {**known.type.schema(defs), **({"description": known.doc} if known.doc else {})}
            if known.old:
                properties[name]["deprecated"] = True
            if known.default is not NO_DEFAULT and not isinstance(known.type, Section):
                properties[name]["default"] = known.default
        out = {"type": "object", "additionalProperties": False, "properties": properties}
        required = [name for name, known in self.fields.items() if known.required]
        out |= {"required": required} if required else {}
        return {**out, "description": self.doc} if self.doc else out
