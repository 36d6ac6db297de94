"""What must hold for every configuration."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.config.parse import parse_text
from plumbline.config.render import inline, render_yaml
from plumbline.config.spec import section_of
from plumbline.config.tree import Entry, MapNode, Node, Origin, Scalar, merge, plain
from plumbline.config.types import (
    AnyOf,
    Anything,
    Bool,
    Choice,
    Interval,
    ListOf,
    MapOf,
    NamedParams,
    Null,
    Number,
    Range,
    Section,
    Text,
    ValueType,
)
from plumbline.config.upstream import SECTIONS, home, upstream_fields
from plumbline.errors import Problem
from plumbline.train.canonical import OWN_RLHF
from plumbline.train.config import RlhfConfig, check_file, load_run, root_section
from plumbline.train.unused import PROVEN, needs, without_effect

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
KEYS = st.text(min_size=1, max_size=8).filter(lambda key: key != "<<")
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def parse(text: str) -> Any:
    problems: list[Problem] = []
    tree = parse_text(text, "f", problems)
    assert not problems, problems
    assert tree is not None
    return plain(tree)


@given(st.dictionaries(KEYS, PLAIN, min_size=1, max_size=5))
def test_what_is_rendered_reads_back_equal(values: dict[str, Any]) -> None:
    assert parse(render_yaml(values, {})) == values
    assert parse(f"key: {inline(values)}") == {"key": values}


@given(st.text(max_size=200))
def test_any_text_is_read_or_told_never_raised(text: str) -> None:
    problems: list[Problem] = []
    tree = parse_text(text, "f", problems)
    assert (tree is None) <= bool(problems)


def _node(value: Any) -> Node:
    origin = Origin("f", 1, 1)
    if isinstance(value, Mapping):
        return MapNode({key: Entry(origin, _node(item)) for key, item in value.items()}, origin)
    return Scalar(value, origin)


TREES = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
LAYERS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(LAYERS, LAYERS)
def test_the_upper_layer_always_wins(below: dict[str, Any], above: dict[str, Any]) -> None:
    merged = plain(merge(_node(below), _node(above)))
    assert merged.keys() == below.keys() | above.keys()
    for key, value in above.items():
        if not (isinstance(value, dict) and isinstance(below.get(key), dict)):
            assert merged[key] == value
    assert plain(merge(_node(merged), _node(above))) == merged, "merging the same layer again changes nothing"


def _named(name: str, section: Section) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"name": st.just(name), "params": _sections(section, list(section.fields))})


def values_of(kind: ValueType) -> st.SearchStrategy[Any]:
    """Values that the kind accepts."""
    match kind:
        case Null():
            return st.none()
        case Bool():
            return st.booleans()
        case Choice():
            return st.sampled_from(kind.values)
        case Number():
            return _numbers(kind)
        case Text():
            if kind.limit:
                return st.sampled_from(kind.limit.names) | st.just("some/file.json")
            return st.text(min_size=1, max_size=10)
        case ListOf():
            return st.lists(values_of(kind.item), min_size=kind.length.least, max_size=3, unique=kind.length.unique)
        case Interval():
            return st.tuples(values_of(kind.end), values_of(kind.end)).map(sorted)
        case NamedParams():
            named = [_named(name, section) for name, section in kind.sections.items()]
            return st.one_of(named)
        case MapOf():
            return st.dictionaries(KEYS, values_of(kind.item), max_size=3)
        case AnyOf():
            return st.one_of([values_of(option) for option in kind.options])
        case Section():
            return _sections(kind, list(kind.fields))
        case Anything():
            return SCALARS
    raise AssertionError(kind)


def _numbers(kind: Number) -> st.SearchStrategy[Any]:
    bounds: Range = kind.bounds
    lowest = bounds.ge if bounds.ge is not None else bounds.gt
    highest = bounds.le if bounds.le is not None else bounds.lt
    if kind.kind == "int":
        return st.integers(None if lowest is None else int(lowest), None if highest is None else int(highest))
    return st.floats(
        lowest,
        highest,
        allow_nan=False,
        allow_infinity=False,
        exclude_min=bounds.gt is not None,
        exclude_max=bounds.lt is not None,
    )


def _sections(section: Section, names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    usable = {name: section.fields[name] for name in names if not section.fields[name].old}
    required = {name: values_of(item.type) for name, item in usable.items() if item.required}
    others = {name: values_of(item.type) for name, item in usable.items() if not item.required}
    return st.fixed_dictionaries(required, optional=others)


# Keys that a rule ties to another key, or that are translated, have tests of their own.
TIED = {
    *without_effect(),
    *PROVEN,
    *(name for name in upstream_fields() if needs(name)),
    "neftune_noise_alpha",
    "init_weights",
    "deepspeed",
    "max_length",
    "max_model_len",
    "dataset",
}
TIED |= {
    "model",
    "teacher_model_server",
    "warmup_steps",
    "fp16",
    "user_prompt",
    "system_prompt_summary",
    "summary_ratio",
}
THROUGH = [name for name in upstream_fields() if name not in (*TIED, *OWN_RLHF, "resume_from_checkpoint")]


def _own(section: str) -> st.SearchStrategy[dict[str, Any]]:
    kind = root_section().fields[section].type
    assert isinstance(kind, Section)
    return _sections(kind, [name for name in kind.fields if name not in TIED])


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """A run whose keys do not contradict each other: pass-through keys anywhere, our own where they belong."""
    out: dict[str, Any] = {name: draw(_own(name)) for name in ("custom", "prompts", "deepspeed")}
    for name in SECTIONS:
        out[name] = {}
    for key in draw(st.lists(st.sampled_from(THROUGH), max_size=12, unique=True)):
        out[draw(st.sampled_from(SECTIONS))][key] = draw(values_of(upstream_fields()[key].type))
    out["model"]["model"] = "m"
    out["custom"] |= {"train_jsonl": "t.jsonl", "trainer_variant": None}
    out["custom"].get("visual_kd", {}).pop("enabled", None)  # it needs a teacher
    out["custom"].pop("plugins", None)  # they would be imported
    for phase in ((out["custom"].get("augmentation") or {}).get("curriculum") or {}).get("phases") or ():
        if phase.get("until_percent"):
            phase["until_percent"] = max(1.0, phase["until_percent"])  # a share below 1 is refused as ambiguous
    out["global_max_length"] = draw(st.none() | st.integers(1, 10**6))
    kind = draw(st.none() | st.sampled_from(["gkd", "grpo"]))
    ours = section_of(RlhfConfig)
    if kind or any(home(key) == "rlhf" for name in SECTIONS for key in out[name]):
        alone = [name for name in ours.fields if name not in ("teacher_cache", "token_weights")]  # ask for own answers
        out["rlhf"] = draw(_sections(ours, alone)) | {"rlhf_type": kind or "gkd", "teacher_model": "m"}
        out["rlhf"].setdefault("llm_kd_weight", 1.0)  # beta: 0 without it is refused as ambiguous
    out["tuner"]["resume_from_checkpoint"] = draw(st.none() | st.just("a/b"))
    return out


@settings(max_examples=60)
@given(runs())
def test_a_resolved_run_loads_to_the_same_run(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, resolved = Path(folder, "run.yaml"), Path(folder, "resolved.yaml")
        file.write_text(render_yaml(values, {}), encoding="utf-8")
        loaded = load_run(file)
        resolved.write_text(loaded.to_yaml(), encoding="utf-8")
        again = load_run(resolved)
    assert again.run == loaded.run
    assert again.resolved == loaded.resolved
    given_keys = {key for name in SECTIONS for key in values[name]} - {"resume_from_checkpoint"}
    assert given_keys <= loaded.run.upstream.keys()


@settings(max_examples=60)
@given(runs())
def test_valid_keys_pass_and_resolve_to_themselves(values: dict[str, Any]) -> None:
    values = {name: value for name, value in values.items() if name in ("custom", "prompts", "deepspeed")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.yaml")
        file.write_text(render_yaml(values, {}), encoding="utf-8")
        checked = check_file(file)
    assert checked.problems == ()
    for section, keys in values.items():
        for key, value in keys.items():
            if not isinstance(value, dict):
                assert checked.resolved[section][key] == value


@settings(max_examples=25)
@given(st.dictionaries(KEYS, PLAIN, max_size=4))
def test_any_tree_is_judged_without_a_crash(values: dict[str, Any]) -> None:
    for name in root_section().fields:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "run.yaml")
            file.write_text(f"{name}: {inline(values)}\n", encoding="utf-8")
            assert check_file(file) is not None
