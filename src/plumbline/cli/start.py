"""The first steps: from photos to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plumbline.cli.app import AsJson, app


@app.command
def start(
    photos: Path,
    labels: Annotated[
        Path | None, Parameter(help="Annotations, in any format that is read; without it those among the photos.")
    ] = None,
    /,
    *,
    output: Annotated[Path, Parameter(help="Folder for data, configuration and model.")],
    model: Annotated[
        Path | None, Parameter(help="Folder of the base; without it the only one in models/, or you are asked.")
    ] = None,
    recipe: Annotated[str | None, Parameter(help="As `config new` lists them; the labels decide without it.")] = None,
    group: Annotated[
        str | None, Parameter(help="As `data split --group`; without it many small folders are kept whole.")
    ] = None,
    keep_empty: Annotated[
        bool, Parameter(negative=(), help="Photos without objects say that nothing is there; else they are left out.")
    ] = False,
    seed: int = 0,
    overwrite: Annotated[bool, Parameter(negative=(), help="Write into a folder that is not empty.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make a run of photos and their annotations: recognised, converted, split, checked, measured, configured.

    Exit 0, or 3 where annotations were lost, something is wrong with them, or there are none yet.

    Example: `plumbline start photos instances.json --model models/Qwen3-VL-4B-Instruct --output racks`, then
    `plumbline train racks/run.yaml`
    """
    from plumbline.start.verb import StartOptions, chosen_model
    from plumbline.start.verb import start as make

    options = StartOptions(photos, labels, output, chosen_model(model), recipe, group, keep_empty, seed, overwrite)
    return make(options, as_json=as_json)
