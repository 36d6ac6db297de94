"""The demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plumbline.cli.app import app


@app.command
def demo(
    *,
    output: Path = Path("output/demo"),
    prepare_only: Annotated[bool, Parameter(negative=(), help="Make the tiny model and the data, then stop.")] = False,
    steps: Annotated[int | None, Parameter(help="Steps of the anchored run; the plain one has a quarter.")] = None,
) -> int:
    """Run the whole road on a tiny model in minutes: check, train, distil, merge, describe, report.

    Example: `plumbline demo --output output/demo`
    """
    from plumbline.demo.run import DemoOptions, run_demo

    return run_demo(DemoOptions(output, prepare_only, steps))
