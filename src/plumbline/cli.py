"""The command line: one verb per command; heavy imports happen inside the verb that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from plumbline import __version__

app = App(name="plumbline", help="Fine-tune Qwen3-VL from YAML, keep it true to its base, and use what was trained.",
          version=__version__)
config_app = App(name="config", help="Show, compare, check and document configurations.")
data_app = App(name="data", help="Check, measure and convert JSONL data.")
app.command(config_app)
app.command(data_app)

BaseConfig = Annotated[
    Path | None,
    Parameter(name=("--base_config", "--base-config"), help="A file below everything that FILE says and extends."),
]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object.")]


@config_app.command(name="check")
def config_check(file: Path, *, base_config: BaseConfig = None, as_json: AsJson = False) -> int:
    """Judge each key of FILE by itself: names, types, ranges. Exit 0 or 2.

    Example: `plumbline config check my.yaml --base_config configs/base.yaml`
    """
    from plumbline.train import config_verbs

    return config_verbs.check(file, base_config, as_json)


@config_app.command(name="show")
def config_show(file: Path, *, base_config: BaseConfig = None, as_json: AsJson = False) -> int:
    """Print what FILE results in, each value with the place it comes from.

    Example: `plumbline config show configs/stage_3_gkd.yaml`
    """
    from plumbline.train import config_verbs

    return config_verbs.show(file, base_config, as_json)


@config_app.command(name="diff")
def config_diff(first: Path, second: Path, *, as_json: AsJson = False) -> int:
    """Print the keys in which two resolved configurations differ.

    Example: `plumbline config diff configs/stage_2_llm_lora.yaml configs/stage_2_llm_lora_gkd.yaml`
    """
    from plumbline.train import config_verbs

    return config_verbs.diff(first, second, as_json)


@config_app.command(name="schema")
def config_schema() -> int:
    """Print the JSON Schema (draft 2020-12) of a run's YAML, for editors.

    Example: `plumbline config schema > plumbline.schema.json`
    """
    from plumbline.train import config_verbs

    return config_verbs.schema()


@config_app.command(name="reference")
def config_reference() -> int:
    """Print the reference page of every key.

    Example: `plumbline config reference > docs/CONFIG.md`
    """
    from plumbline.train import config_verbs

    return config_verbs.reference()


def main() -> None:
    """Run the command line; user errors print one clean message, bugs keep their traceback."""
    from plumbline.errors import UserError

    try:
        code = app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
