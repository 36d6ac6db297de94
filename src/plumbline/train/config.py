"""A training run's configuration: YAML in, `TrainRun` out, every problem at once with its place. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from plumbline.config.limits import Range
from plumbline.config.load import load_tree
from plumbline.config.render import render_yaml
from plumbline.config.spec import section_of
from plumbline.config.tree import ListNode, MapNode, Origin, leaves, plain
from plumbline.config.types import (
    INVALID,
    AnyOf,
    Anything,
    Bool,
    CheckReport,
    Field,
    ListOf,
    Null,
    Number,
    Section,
    Text,
    ValueType,
)
from plumbline.config.upstream import SECTIONS, home, upstream_fields, version
from plumbline.errors import ConfigError, Problem
from plumbline.train.canonical import GONE, OWN_RLHF, RENAMED, WORDS, Canonical
from plumbline.train.old_names import OLD_NAMES
from plumbline.train.plugins import import_plugin
from plumbline.train.rules import ambiguity_problems, cross_key_notes, cross_key_problems
from plumbline.train.sections import (
    DEEPSPEED_NAMES,
    CustomConfig,
    DeepSpeedConfig,
    PromptsConfig,
    RlhfConfig,
    VisualKdConfig,
)

__all__ = [
    "DEEPSPEED_NAMES",
    "CheckedFile",
    "CustomConfig",
    "DeepSpeedConfig",
    "LoadedRun",
    "PromptsConfig",
    "RlhfConfig",
    "TrainRun",
    "VisualKdConfig",
    "check_file",
    "load_run",
    "root_section",
]
_RESUME = "resume_from_checkpoint"
_DOWNLOAD = "download"
_DEEPSPEED = section_of(DeepSpeedConfig)
_OWN = {"custom": CustomConfig, "prompts": PromptsConfig, "deepspeed": DeepSpeedConfig}


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """Everything that a training run needs to know, typed.

    upstream: every pass-through key under the upstream's own name, as written; `global_max_length` is already
        there as `max_length` and `max_model_len`. Keys that the YAML does not set are absent.
    weights_from: another run's checkpoint of which only the weights are taken (`tuner.resume_from_checkpoint`).
    continue_from: the checkpoint of the run to continue (`training.resume_from_checkpoint`).
    is_downloaded: models named as on the hub are downloaded (`model.download`).
    """

    rlhf: RlhfConfig | None
    custom: CustomConfig
    prompts: PromptsConfig
    deepspeed: DeepSpeedConfig
    upstream: Mapping[str, Any]
    weights_from: str | None
    continue_from: str | None
    is_downloaded: bool = False


@dataclass(frozen=True)
class CheckedFile:
    """A file of which each key was checked by itself.

    resolved: the merged values in canonical places, Plumbline's own defaults filled in; empty when there are problems.
    origins: dotted path -> where it was written; a path without one has its default.
    """

    resolved: dict[str, Any]
    origins: Mapping[str, Origin]
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]

    def to_yaml(self) -> str:
        """The resolved configuration as YAML, each value with its origin as a comment."""
        return render_yaml(self.resolved, self.origins)


@dataclass(frozen=True)
class LoadedRun:
    """A run that can be started: typed in `run`, and as plain values with their origins."""

    run: TrainRun
    resolved: dict[str, Any]
    origins: Mapping[str, Origin]
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """The resolved configuration as YAML, each value with its origin as a comment; loads to the same run."""
        return render_yaml(self.resolved, self.origins)


def load_run(path: Path | str, base_config: Path | str | None = None, *, plugins: bool = True) -> LoadedRun:
    """Read a run's YAML: each key by itself, then the rules between keys.

    Args:
        path: The YAML; paths inside it are not opened.
        base_config: A file below everything that `path` says and extends.
        plugins: Whether `custom.plugins` are imported.

    Returns:
        The run, typed, and as plain values with their origins and notes.

    Raises:
        ConfigError: Every problem at once.
    """
    checked = check_file(path, base_config, plugins=plugins)
    problems = checked.problems or cross_key_problems(checked.resolved, checked.origins, str(path))
    if problems:
        raise ConfigError(problems)
    notes = (*checked.notes, *cross_key_notes(checked.resolved, checked.origins))
    return LoadedRun(_typed(checked.resolved), checked.resolved, checked.origins, notes)


def check_file(path: Path | str, base_config: Path | str | None = None, *, plugins: bool = True) -> CheckedFile:
    """Check each key by itself: names, types, ranges. Never raises for what the files say.

    plugins: whether `custom.plugins` are imported, which may add operations.
    """
    canonical = Canonical()
    report = CheckReport(_hints())
    tree = load_tree(path, base_config, canonical, report.problems)
    if plugins:
        report.problems.extend(_plugin_problems(tree))
    values = root_section().check(tree, "", report)
    origins = {name: entry.node.origin for name, entry in leaves(tree)}
    resolved = {} if report.problems or values is INVALID else _complete(values, Path(path).stem)
    problems = report.problems or list(ambiguity_problems(resolved, origins))
    return CheckedFile({} if problems else resolved, origins, tuple(canonical.notes), tuple(problems))


def _plugin_problems(tree: MapNode) -> Iterator[Problem]:
    """Import what `custom.plugins` names; a problem for each that cannot be imported."""
    custom = tree.entries.get("custom")
    named = custom.node.entries.get("plugins") if custom is not None and isinstance(custom.node, MapNode) else None
    if named is not None and isinstance(named.node, ListNode):
        for item in named.node.items:
            if isinstance(name := plain(item), str) and (reason := import_plugin(name)):
                yield Problem(f"{item.origin}: custom.plugins", reason, "correct the plugin, or take it out")


@cache
def root_section() -> Section:
    """The whole file's schema."""
    through = {name: item for name, item in upstream_fields().items() if name not in (*OWN_RLHF, _RESUME)}
    through["deepspeed"] = Field(
        "deepspeed", _DEEPSPEED.fields["config"].type, None, "Short for the section's own keys."
    )
    old = {name: _old(name, f"Old name of `{now}`.", upstream_fields()[now].type) for name, now in RENAMED.items()}
    old |= {name: _old(name, "Has no effect any more.", Anything()) for name in GONE}
    plain = Section(
        "pass_through", {**old, **through}, doc=f"Arguments of ms-swift {version()}; any of them may be set here."
    )
    resumable = Section(
        "pass_through_with_resume", {**plain.fields, _RESUME: upstream_fields()[_RESUME]}, doc=plain.doc
    )
    sections: dict[str, Section] = {name: resumable if name in ("tuner", "training") else plain for name in SECTIONS}
    doc = "Download a model that is named as on the hub (Qwen/...), into Hugging Face's cache."
    sections["model"] = Section(
        "model", {**plain.fields, _DOWNLOAD: Field(_DOWNLOAD, Bool(), False, doc)}, doc=plain.doc
    )
    own = section_of(RlhfConfig)
    kind = replace(own.fields["rlhf_type"], required=False)  # a fragment may leave it to the file below; see rules.py
    sections["rlhf"] = Section("RlhfConfig", {**own.fields, "rlhf_type": kind, **plain.fields}, doc=own.doc)
    sections |= {name: section_of(cls) for name, cls in _OWN.items()}
    fields = {name: Field(name, section, doc=section.doc) for name, section in sections.items()}
    paths = AnyOf((Text(), ListOf(Text())))
    fields["extends"] = Field(
        "extends", paths, None, "Files below this one, relative to it, or names of recipes; the later wins."
    )
    length = AnyOf((Number("int", Range(ge=1)), Null()))
    fields["global_max_length"] = Field(
        "global_max_length", length, None, "Longest sample in tokens: sets template.max_length and model.max_model_len."
    )
    return Section("plumbline", fields, doc="A training run.")


def _old(name: str, doc: str, kind: ValueType) -> Field:
    return Field(name, kind, doc=doc, old=True)


@cache
def _hints() -> dict[str, str]:
    """For a key in the wrong section: where it belongs."""
    hints = {name: f"`{name}` belongs under `{home(name)}`" for name in upstream_fields()}
    for section, names in (("rlhf", OWN_RLHF), *((name, section_of(cls).fields) for name, cls in _OWN.items())):
        hints |= {name: f"`{name}` belongs under `{section}`" for name in names}
    hints |= {
        name: f"`{name}` is a section of its own, at the top level"
        for name in (*SECTIONS, "rlhf", *_OWN)
        if name not in hints
    }
    hints["global_max_length"] = "`global_max_length` belongs at the top level"
    hints[_RESUME] = f"write `tuner.{_RESUME}` to take weights only, `training.{_RESUME}` to continue a run"
    return hints | WORDS | OLD_NAMES


def _complete(values: dict[str, Any], stem: str) -> dict[str, Any]:
    """Values in the schema's order with the defaults of Plumbline's own keys; pass-through keys only where set.

    A run without an output_dir lands in `output/` under the name of its file.
    """
    values = {**values, "training": {"output_dir": f"output/{stem}", **values.get("training", {})}}
    out: dict[str, Any] = {name: dict(values[name]) for name in SECTIONS if values.get(name)}
    length = values.get("global_max_length")
    if length is not None:
        out = {"global_max_length": length, **out}
    if values.get("rlhf"):
        own = _with_defaults(section_of(RlhfConfig), values["rlhf"])
        out["rlhf"] = own | {key: value for key, value in values["rlhf"].items() if key not in own}
    for name, cls in _OWN.items():
        out[name] = _with_defaults(section_of(cls), values.get(name, {}))
    return out


def _with_defaults(section: Section, values: Mapping[str, Any]) -> dict[str, Any]:
    out = {}
    for name, item in section.fields.items():
        inner = item.type if isinstance(item.type, Section) else None
        if inner is not None:
            out[name] = _with_defaults(inner, values.get(name, {}))
        elif name in values:
            out[name] = values[name]
        elif name != "rlhf_type":
            out[name] = item.default
    return out


def _typed(resolved: Mapping[str, Any]) -> TrainRun:
    """The run's objects from checked values."""
    ours = (_RESUME, _DOWNLOAD, "dataset", "deepspeed")
    upstream = {key: value for name in SECTIONS for key, value in resolved.get(name, {}).items() if key not in ours}
    rlhf = resolved.get("rlhf")
    if rlhf:
        upstream |= {key: value for key, value in rlhf.items() if key not in OWN_RLHF}
    if "global_max_length" in resolved:
        upstream |= dict.fromkeys(("max_length", "max_model_len"), resolved["global_max_length"])
    custom = section_of(CustomConfig).make(resolved["custom"])
    prompts = section_of(PromptsConfig).make(resolved["prompts"])
    own = section_of(RlhfConfig).make({key: rlhf[key] for key in OWN_RLHF}) if rlhf else None
    return TrainRun(
        rlhf=own,
        custom=replace(custom, trainer_variant="gkd_monitor") if own and own.rlhf_type == "gkd" else custom,
        prompts=replace(
            prompts,
            user_dense=custom.user_prompt if prompts.user_dense is None else prompts.user_dense,
            system_summary=custom.system_prompt_summary if prompts.system_summary is None else prompts.system_summary,
        ),
        deepspeed=section_of(DeepSpeedConfig).make(resolved["deepspeed"]),
        upstream=upstream,
        weights_from=resolved.get("tuner", {}).get(_RESUME),
        continue_from=resolved.get("training", {}).get(_RESUME),
        is_downloaded=bool(resolved.get("model", {}).get(_DOWNLOAD)),
    )
