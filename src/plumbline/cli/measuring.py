"""Measuring models: how good their answers are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from plumbline.cli.app import AsJson, app
from plumbline.cli.data import ImageRoots, Limit


@app.command
def evaluate(
    truth: Annotated[Path, Parameter(help="Annotated JSONL.")],
    predictions: Annotated[Path, Parameter(help="What `plumbline infer` wrote about the same pictures.")],
    /,
    *,
    against: Annotated[
        Path | None, Parameter(help="Predictions of another model: paired differences, losses first.")
    ] = None,
    mode: Annotated[Literal["dense", "summary"] | None, Parameter(help="Found out from the files by default.")] = None,
    html: Annotated[Path | None, Parameter(help="Also write a page: figures, errors, the worst pictures.")] = None,
    shown: Annotated[int, Parameter(help="Pictures on the page.")] = 60,
    image_root: ImageRoots = None,
    output: Annotated[Path | None, Parameter(help="Also write the result as JSON.")] = None,
    min_f1: Annotated[float | None, Parameter(help="Exit 3 below it: F1 at IoU 0.5, or over summary items.")] = None,
    bootstraps: Annotated[int, Parameter(help="Draws of the intervals; 0 for none.")] = 1000,
    limit: Limit = None,
    as_json: AsJson = False,
) -> int:
    """Measure predictions against annotations: F1, AP, descriptions, hallucinations, errors by kind. Exit 0, or 3.

    Example: `plumbline evaluate val.jsonl captions.jsonl --html evaluation.html`
    """
    from plumbline.data.images import ImagePolicy
    from plumbline.evaluate import verbs

    page = None
    if html is not None:
        from plumbline.report.evaluation import write_evaluation

        policy = ImagePolicy(roots=tuple(map(str, image_root or [])))
        page = partial(write_evaluation, html, policy=policy, shown=shown, against=against)
    options = verbs.EvaluateOptions(mode, against, limit, bootstraps, output, min_f1)
    return verbs.evaluate(truth, predictions, options, page, as_json=as_json)
