"""The YAML of a Stage-B run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from plumbline.config.limits import Length, Range
from plumbline.config.load import load_tree
from plumbline.config.render import render_yaml
from plumbline.config.spec import section_of
from plumbline.config.tree import MapNode, leaves
from plumbline.config.types import INVALID, AnyOf, CheckReport, Field, ListOf, Section, Text
from plumbline.errors import ConfigError, Problem
from plumbline.infer.config import Sampling
from plumbline.stage_b.gate import GateRules
from plumbline.stage_b.judge import JudgeWeights
from plumbline.stage_b.splits import Fractions
from plumbline.storage.objects import JsonObject


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What reads the summaries and gives verdicts; it stays frozen."""

    kind: Literal["transformers", "vllm", "replay"] = "transformers"
    """transformers, vllm: the weights in this process. replay: recorded replies. Servers come before all of them."""
    model: str | None = None
    """Folder of a base or merged model, of an adapter, a checkpoint or a run."""
    adapter: str | None = None
    """Folder of an adapter for a base model."""
    servers: tuple[str, ...] = ()
    """OpenAI-compatible servers that answer instead; then `model` is not loaded."""
    served_model: str | None = None
    """The model's name on the servers, where they have several."""
    replies: str | None = None
    """JSONL with `key` and `text`, for replay; such as the trajectories of an earlier run."""
    batch_size: Annotated[int, Range(ge=1)] = 8
    """Candidates decoded at a time in this process."""
    cache: str | None = None
    """File in which replies are kept by what they depend on, so that the same question is never sent twice."""


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """Where guidance starts and how much of its past is kept."""

    path: str | None = None
    """guidance.json to begin with; without it the mission's focus alone."""
    retention: Annotated[int, Range(ge=1)] = 20
    """Snapshots kept; older ones are removed, except those that an epoch was made with."""


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """One way to decode."""

    temperature: Annotated[float, Range(ge=0, le=10)] = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Range(gt=0, le=1)] = 0.95
    """Share of the probability that tokens are drawn from."""
    max_new_tokens: Annotated[int, Range(ge=1)] = 256
    """Longest reply in tokens."""
    seed: int | None = None
    """Of the draws; the run's `seed` without it."""
    stop: tuple[str, ...] = ()
    """Texts at which a reply ends."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """The candidates of a ticket."""

    grid: Annotated[tuple[DecodeConfig, ...], Length(least=1)] = (DecodeConfig(),)
    """Ways to decode, each used for every ticket."""
    samples_per_decode: Annotated[int, Range(ge=1)] = 1
    """Candidates per way; more than one needs a temperature above 0."""
    format_filter: bool = True
    """Replies that are not a verdict and its reason do not vote; off, a ticket with such a reply goes to review too."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How candidates are scored."""

    weights: JudgeWeights = field(default_factory=JudgeWeights)
    """What `semantic_advantage` is made of."""


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """How candidates become one verdict; labels play no part."""

    policy: Literal["majority", "weighted_vote", "top_semantic"] = "weighted_vote"
    """majority: a vote each. weighted_vote: weighed by semantic_advantage. top_semantic: the best one decides."""
    tie_break: Literal["semantic", "first"] = "semantic"
    """Which of the winners speaks; a tie between the verdicts is always 不通过 and a review."""


@dataclass(frozen=True, kw_only=True)
class ReflectionConfig:
    """Whether the model proposes edits of the guidance after each epoch."""

    enabled: bool = False
    """Edits come by hand (`stage-b edit`) without it."""
    edits_per_epoch: Annotated[int, Range(ge=1)] = 1
    """Edits that are tried after an epoch."""
    max_rules: Annotated[int, Range(ge=1)] = 16
    """Active rules at most; beyond that only edits that do not add one."""
    tickets_shown: Annotated[int, Range(ge=1)] = 8
    """Misclassified tickets of the propose split that the model sees."""
    max_new_tokens: Annotated[int, Range(ge=1)] = 512
    """Longest proposal in tokens."""


@dataclass(frozen=True, kw_only=True)
class SplitsConfig:
    """How the tickets of a mission are parted."""

    shares: Fractions = field(default_factory=Fractions)
    """Share of the tickets in each split; together 1."""
    image_root: str | None = None
    """Folder that the tickets' image names start at: near-duplicate photos then fall into the same split."""


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """How long a run goes on."""

    epochs: Annotated[int, Range(ge=1)] = 1
    """Passes over all tickets, shuffled by `seed`."""
    limit: Annotated[int, Range(ge=1)] | None = None
    """Only so many tickets of each mission."""
    max_calls: Annotated[int, Range(ge=1)] | None = None
    """Questions after which the run stops (exit 5); the same command goes on."""
    max_tokens: Annotated[int, Range(ge=1)] | None = None
    """Tokens, read (estimated from some tickets) and written, after which the run stops in the same way."""
    max_price: Annotated[float, Range(gt=0)] | None = None
    """The same in money, by `price_per_million_tokens`."""
    max_hours: Annotated[float, Range(gt=0)] | None = None
    """Hours after which the run stops in the same way."""
    max_error_rate: Annotated[float, Range(ge=0, le=1)] | None = None
    """Share of candidates without a reply that ends the run (exit 5)."""
    price_per_million_tokens: Annotated[float, Range(ge=0)] = 0.0
    """Prompt and reply alike; for the estimate of `--dry-run`, what a run reports, and `max_price`."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where artifacts go: `<root>/<mission>/<run>/`."""

    root: str = "output/stage_b"
    """Folder of all missions."""
    run: str = "default"
    """Name of this run."""


@dataclass(frozen=True, kw_only=True)
class StageBConfig:
    """One run of `plumbline stage-b`."""

    stage_a_paths: Annotated[tuple[str, ...], Length(least=1)]
    """Files of tickets that Stage-A wrote; each mission in them is a run of its own."""
    missions_file: str = "configs/missions.yaml"
    """Mission -> focus: what a pass takes, in a sentence."""
    seed: int = 0
    """Of the order of tickets, the splits and the draws."""
    engine: EngineConfig
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    reflection: ReflectionConfig = field(default_factory=ReflectionConfig)
    gate: GateRules = field(default_factory=GateRules)
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


@dataclass(frozen=True)
class MissionEntry:
    """A mission: what passes, and which things it is about."""

    focus: str
    """What a pass takes, in a sentence."""
    items: tuple[str, ...] = ()
    """Kinds of things whose faults count, as summaries name them; without them those that the focus names."""


@dataclass(frozen=True)
class LoadedStageB:
    """A run that can be started, and its YAML with every default filled in and each value's origin."""

    run: StageBConfig
    resolved_yaml: str


def load_stage_b(path: Path | str) -> LoadedStageB:
    """Read a Stage-B YAML; raises ConfigError with every problem at once. Paths in it are not opened."""
    report = CheckReport({})
    tree = load_tree(path, None, lambda node, _: node, report.problems)
    if not tree.entries and report.problems:  # nothing could be read: what is missing in it says nothing more
        raise ConfigError(report.problems)
    values = stage_b_section().check(tree, "", report)
    origins = {name: entry.node.origin for name, entry in leaves(tree)}
    if report.problems or values is INVALID:
        raise ConfigError(report.problems)
    run: StageBConfig = section_of(StageBConfig).make(values)
    if problems := list(_between_keys(run, origins, str(path))):
        raise ConfigError(problems)
    return LoadedStageB(run, resolved_yaml(run, origins))


def resolved_yaml(run: StageBConfig, origins: Mapping[str, Any]) -> str:
    """The configuration with every value, and where each comes from."""
    return render_yaml(_plain(run), origins)


def stage_b_section() -> Section:
    """The whole file's schema."""
    own = section_of(StageBConfig)
    paths = AnyOf((Text(), ListOf(Text())))
    extends = Field(
        "extends", paths, None, "Files below this one, relative to it, or names of recipes; the later wins."
    )
    return Section("stage_b", {**own.fields, "extends": extends}, doc="A Stage-B run.")


def read_missions(path: Path | str) -> dict[str, MissionEntry]:
    """The missions of a YAML file by name, each a focus alone or a mapping; ConfigError for anything else in it."""
    report, section = CheckReport({}), section_of(MissionEntry)
    tree = load_tree(path, None, lambda node, _: node, report.problems)
    found: dict[str, MissionEntry] = {}
    for name, entry in tree.entries.items():
        if isinstance(entry.node, MapNode):
            values = section.check(entry.node, name, report)
        else:
            values = {"focus": getattr(entry.node, "value", None)}
        if values is INVALID:
            continue
        if not isinstance(values["focus"], str) or not values["focus"].strip():
            report.add(entry.node.origin, f"the focus of {name} is not a text", "say what passes")
        else:
            found[name] = MissionEntry(values["focus"].strip(), tuple(values.get("items", ())))
    if report.problems:
        raise ConfigError(report.problems)
    return found


def sampling_of(decode: DecodeConfig, seed: int) -> Sampling:
    """As engines take it."""
    return Sampling(decode.max_new_tokens, decode.temperature, decode.top_p, seed, decode.stop)


def _between_keys(run: StageBConfig, origins: Mapping[str, Any], file: str) -> list[Problem]:
    def where(key: str) -> str:
        return str(origins.get(key, file))

    problems = []
    engine = run.engine
    if engine.kind == "replay" and engine.replies is None:
        problems.append(Problem(where("engine.kind"), "engine.replies is needed for replay", "name recorded replies"))
    if engine.kind != "replay" and not engine.servers and engine.model is None:
        problems.append(Problem(where("engine"), "engine.model is needed", "or engine.servers, or kind: replay"))
    if run.sampler.samples_per_decode > 1 and any(way.temperature == 0 for way in run.sampler.grid):
        what = "samples_per_decode is more than 1, and a way of the grid is greedy: its samples would be equal"
        problems.append(Problem(where("sampler.samples_per_decode"), what, "give it a temperature"))
    if run.runner.max_price is not None and not run.runner.price_per_million_tokens:
        what = "nothing has a price: runner.price_per_million_tokens is 0"
        problems.append(Problem(where("runner.max_price"), what, "set it, or take max_price out"))
    name = run.output.run
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        problems.append(Problem(where("output.run"), f"{name!r} is not a folder's name"))
    return problems


def _plain(run: StageBConfig) -> JsonObject:
    from dataclasses import asdict

    plain: JsonObject = json.loads(json.dumps(asdict(run)))
    return plain
