"""Write the table of the upstream's argument names from the installed packages, without importing them.

`python -m plumbline.config.snapshot` rewrites `upstream_keys.json`. The sources are read as syntax trees (a fraction
of a second) because importing ms-swift takes about ten; a test compares the committed table with the installed version.
Only names, rough types, choices, defaults and the owning class are taken.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("upstream_keys.json")
PROGRAMS = {"sft": ("swift.arguments.sft_args", "SftArguments"), "rlhf": ("swift.arguments.rlhf_args", "RLHFArguments")}
ENUMS = {
    "SchedulerType": "transformers.trainer_utils",
    "IntervalStrategy": "transformers.trainer_utils",
    "SaveStrategy": "transformers.trainer_utils",
    "HubStrategy": "transformers.trainer_utils",
    "OptimizerNames": "transformers.training_args",
}
ENUM_FIELDS = {  # fields that the upstream re-declares as plain text although an enum reads them
    "lr_scheduler_type": "SchedulerType",
    "eval_strategy": "IntervalStrategy",
}
REGISTRIES = {"optimizer": ("swift.optimizers.mapping", "optimizers_map")}
# The upstream sets this one in code that looks at the installed torch.
COMPUTED_DEFAULTS = {"optim": "adamw_torch_fused"}

Class = tuple[str, str]  # module, name


def snapshot() -> dict[str, Any]:
    """The table: versions, and per key its types, choices, default, owner and the programs that know it."""
    keys: dict[str, dict[str, Any]] = {}
    for program, start in PROGRAMS.items():
        for name, (owner, node) in _fields(start).items():
            _record(keys, name, program, _entry(name, owner, node))
    versions = {package: importlib.metadata.version(package) for package in ("ms-swift", "transformers")}
    return {"versions": versions, "keys": dict(sorted(keys.items()))}


def render(table: dict[str, Any]) -> str:
    """One key per line, so that an upgrade reads as a diff."""
    lines = [f'  "{name}": {json.dumps(entry, ensure_ascii=False)}' for name, entry in table["keys"].items()]
    return f'{{"versions": {json.dumps(table["versions"])},\n "keys": {{\n' + ",\n".join(lines) + "\n}}\n"


def _record(keys: dict[str, dict[str, Any]], name: str, program: str, entry: dict[str, Any]) -> None:
    known = keys.setdefault(name, {**entry, "programs": []})
    known["programs"].append(program)
    known["types"] = sorted({*known["types"], *entry["types"]})
    if "choices" in known and "choices" not in entry:
        del known["choices"]


def _fields(start: Class) -> dict[str, tuple[str, ast.AnnAssign]]:
    """Annotated fields in dataclass order: later classes of the resolution order override earlier ones."""
    stand_in = _stand_in(start)
    fields: dict[str, tuple[str, ast.AnnAssign]] = {}
    for cls in reversed(stand_in.__mro__[:-1]):
        module, name = cls.source  # type: ignore[attr-defined]
        for item in _class_node((module, name)).body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                fields[item.target.id] = (name, item)
    return fields


@cache
def _stand_in(source: Class) -> type:
    """An empty class with the same bases, so that Python computes the resolution order for us."""
    bases = tuple(_stand_in(base) for base in _bases(source))
    return type(source[1], bases, {"source": source})


def _bases(source: Class) -> Iterator[Class]:
    for base in _class_node(source).bases:
        if isinstance(base, ast.Name) and base.id != "object":
            yield _find(source[0], base.id)


def _find(module: str, name: str) -> Class:
    """Where `name`, as seen in `module`, is defined: follows imports and package re-exports."""
    tree = _tree(module)
    if any(isinstance(item, ast.ClassDef) and item.name == name for item in tree.body):
        return module, name
    for item in ast.walk(tree):
        if isinstance(item, ast.ImportFrom):
            for alias in item.names:
                if (alias.asname or alias.name) == name:
                    return _find(_absolute(module, item), alias.name)
    raise LookupError(f"{name} is not defined in {module} and not imported there")


def _absolute(module: str, item: ast.ImportFrom) -> str:
    if not item.level:
        return item.module or ""
    parts = module.split(".")
    keep = len(parts) - item.level + (1 if _path(module).name == "__init__.py" else 0)
    return ".".join([*parts[:keep], *([item.module] if item.module else [])])


@cache
def _path(module: str) -> Path:
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"{package} is not installed")
    base = Path(spec.submodule_search_locations[0], *rest)
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


@cache
def _class_node(source: Class) -> ast.ClassDef:
    module, name = source
    found = [item for item in _tree(module).body if isinstance(item, ast.ClassDef) and item.name == name]
    return found[-1]


def _entry(name: str, owner: str, node: ast.AnnAssign) -> dict[str, Any]:
    types: set[str] = set()
    choices: list[Any] = []
    _read_annotation(node.annotation, types, choices)
    default = COMPUTED_DEFAULTS[name] if name in COMPUTED_DEFAULTS else _default(node.value)
    if default is None:
        types.add("null")
    choices = _named_elsewhere(name) or choices
    if False in choices:  # "false or any text": the text makes the choice open
        choices = []
    entry: dict[str, Any] = {"types": sorted(types), "default": default, "owner": owner}
    if choices:
        entry["choices"] = choices
    return entry


def _named_elsewhere(name: str) -> list[Any]:
    """Choices that the upstream keeps outside the annotation."""
    if name in ENUM_FIELDS:
        return _enum_values(ENUM_FIELDS[name])
    if name in REGISTRIES:
        return _registry(*REGISTRIES[name])
    return _tuners() if name == "tuner_type" else []


def _registry(module: str, name: str) -> list[str]:
    """The keys of a dictionary that a module assigns to `name`."""
    for item in _tree(module).body:
        match item:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Dict(keys=keys)) if found == name:
                return [ast.literal_eval(key) for key in keys if key is not None]
    raise LookupError(f"{module} assigns no dictionary to {name}")


def _tuners() -> list[str]:
    """The names in `get_supported_tuners` and those of the tuner plugins."""
    for item in ast.walk(_tree("swift.arguments.base_args.base_args")):
        match item:
            case ast.FunctionDef(
                name="get_supported_tuners", body=[ast.Return(value=ast.BinOp(left=ast.Set() as own))]
            ):
                return sorted({*ast.literal_eval(own), *_registry("swift.tuner_plugin.mapping", "tuners_map")})
    raise LookupError("get_supported_tuners has another form now")


def _read_annotation(node: ast.expr, types: set[str], choices: list[Any]) -> None:
    """Collects rough types (bool, int, float, str, dict, any, list[...], null) and literal choices."""
    match node:
        case ast.Constant(value=None):
            types.add("null")
        case ast.BinOp(left=left, right=right):
            _read_annotation(left, types, choices)
            _read_annotation(right, types, choices)
        case ast.Name(id=name) if name in ENUMS:
            types.add("str")
            choices.extend(_enum_values(name))
        case ast.Name(id=name):
            types.add(name if name in ("bool", "int", "float", "str", "dict") else "any")
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            _read_literal(inside, types, choices)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inside):
            types.add("null")
            _read_annotation(inside, types, choices)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            for part in parts:
                _read_annotation(part, types, choices)
        case ast.Subscript(value=ast.Name(id="List" | "list"), slice=inside):
            items: set[str] = set()
            _read_annotation(inside, items, [])
            types.add(f"list[{'|'.join(sorted(items))}]")
        case ast.Subscript(value=ast.Name(id="Dict" | "dict")):
            types.add("dict")
        case _:
            types.add("any")


def _read_literal(inside: ast.expr, types: set[str], choices: list[Any]) -> None:
    for part in inside.elts if isinstance(inside, ast.Tuple) else [inside]:
        value = ast.literal_eval(part)
        types.add("null" if value is None else type(value).__name__)
        if value is not None:
            choices.append(value)


@cache
def _enum_values(name: str) -> list[str]:
    body = _class_node((ENUMS[name], name)).body
    return [ast.literal_eval(item.value) for item in body if isinstance(item, ast.Assign)]


def _default(node: ast.expr | None) -> Any:
    """The default as a plain value; what code computes is null."""
    if isinstance(node, ast.Call):
        keywords = {word.arg: word.value for word in node.keywords}
        if "default" in keywords:
            return _default(keywords["default"])
        factory = keywords.get("default_factory")
        if isinstance(factory, ast.Lambda):
            return _default(factory.body)
        return {"list": [], "dict": {}}.get(factory.id if isinstance(factory, ast.Name) else "")
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


if __name__ == "__main__":
    TABLE.write_text(render(snapshot()), encoding="utf-8")
    print(f"wrote {TABLE}")
