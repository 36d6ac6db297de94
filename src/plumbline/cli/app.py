"""The command line itself and the parameters that several of its verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from plumbline import __version__

app = App(
    name="plumbline",
    help="Fine-tune Qwen3-VL from YAML, keep it true to its base, and use what was trained.",
    version=__version__,
)
config_app = App(name="config", help="Show, compare, check and document configurations.")
data_app = App(name="data", help="Check, measure and convert JSONL data.")
stage_b_app = App(name="stage-b", help="Verdicts for groups of photos: run, edit the guidance, calibrate.")
anchors_app = App(name="anchors", help="Answers of the base that a fine-tune is held to.")
app.command(anchors_app)
app.command(config_app)
app.command(data_app)
app.command(stage_b_app)

app.register_install_completion_command()

BaseConfig = Annotated[
    Path | None,
    Parameter(name=("--base_config", "--base-config"), help="A file below everything that FILE says and extends."),
]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object.")]
