"""Verbs of configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from plumbline.cli.app import AsJson, BaseConfig, config_app

Kind = Annotated[
    Literal["train", "stage-b", "missions"] | None,
    Parameter(help="What FILE configures; recognised by its content without it."),
]


@config_app.command(name="check")
def config_check(file: Path, *, base_config: BaseConfig = None, kind: Kind = None, as_json: AsJson = False) -> int:
    """Check each key of FILE by itself: names, types, ranges. Exit 0 or 2.

    Example: `plumbline config check my.yaml --base_config configs/base.yaml`
    """
    from plumbline.stage_b import config_verbs as stage_b_verbs
    from plumbline.train import config_verbs

    if (found := kind or stage_b_verbs.recognised(file) or "train") != "train":
        return stage_b_verbs.check(file, found, as_json=as_json)
    return config_verbs.check(file, base_config, as_json)


@config_app.command(name="show")
def config_show(file: Path, *, base_config: BaseConfig = None, kind: Kind = None, as_json: AsJson = False) -> int:
    """Print what FILE results in, each value with the place it comes from.

    Example: `plumbline config show configs/stage_3_gkd.yaml`
    """
    from plumbline.stage_b import config_verbs as stage_b_verbs
    from plumbline.train import config_verbs

    if (found := kind or stage_b_verbs.recognised(file) or "train") != "train":
        return stage_b_verbs.show(file, found, as_json=as_json)
    return config_verbs.show(file, base_config, as_json)


@config_app.command(name="new")
def config_new(
    name: Annotated[str | None, Parameter(help="A recipe; without it they are listed.")] = None,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="NAME.yaml without it.")] = None,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace a file that is there.")] = False,
) -> int:
    """Write a recipe that ships as one file of your own.

    Example: `plumbline config new stage_3_gkd_forward_only -o my.yaml`
    """
    from plumbline.train import config_verbs

    return config_verbs.new(name, output, overwrite=overwrite)


@config_app.command(name="migrate")
def config_migrate(
    old: Path,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="Standard output without it.")] = None,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace a file that is there.")] = False,
) -> int:
    """Rewrite an earlier configuration in today's names, comments kept; what a person must decide is printed.

    Exit 0, or 3 where something is left to decide.

    Example: `plumbline config migrate old.yaml --output new.yaml`
    """
    from plumbline.stage_b import config_verbs as stage_b_verbs
    from plumbline.train import config_verbs

    return config_verbs.migrate(old, output, stage_b_verbs.problems_of, overwrite=overwrite)


@config_app.command(name="diff")
def config_diff(first: Path, second: Path, *, as_json: AsJson = False) -> int:
    """Print the keys in which two resolved configurations differ.

    Example: `plumbline config diff configs/stage_2_llm_lora.yaml configs/stage_2_llm_lora_gkd.yaml`
    """
    from plumbline.train import config_verbs

    return config_verbs.diff(first, second, as_json)


@config_app.command(name="schema")
def config_schema(*, kind: Annotated[Literal["train", "stage-b"], Parameter(help="Of which run.")] = "train") -> int:
    """Print the JSON Schema (draft 2020-12) of a run's YAML, for editors.

    Example: `plumbline config schema > plumbline.schema.json`
    """
    from plumbline.stage_b import config_verbs as stage_b_verbs
    from plumbline.train import config_verbs

    return config_verbs.schema() if kind == "train" else stage_b_verbs.schema()


@config_app.command(name="reference")
def config_reference(
    *, stage_b: Annotated[bool, Parameter(negative=(), help="Of a Stage-B run instead of a training run.")] = False
) -> int:
    """Print the reference page of every key.

    Example: `plumbline config reference > docs/CONFIG.md`
    """
    if stage_b:
        from plumbline.stage_b.reference import reference_page
    else:
        from plumbline.train.reference import reference_page
    print(reference_page(), end="")
    return 0
