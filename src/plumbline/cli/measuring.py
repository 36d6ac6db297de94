"""Measuring models, and what holds them to their base."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from plumbline.cli.app import AsJson, anchors_app, app
from plumbline.cli.data import ImageRoots, Limit
from plumbline.cli.inference import IN_PROCESS, Answering


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
        page = partial(write_evaluation, html, policy=policy, shown=shown)
    options = verbs.EvaluateOptions(mode, against, limit, bootstraps, output, min_f1)
    return verbs.evaluate(truth, predictions, options, page, as_json=as_json)


@anchors_app.command(name="build")
def anchors_build(
    *,
    model: Annotated[Path, Parameter(help="The base: what the fine-tune starts from.")],
    output: Annotated[Path, Parameter(help="JSONL of chats for a source with role: anchor.")],
    photos: Annotated[
        list[Path] | None, Parameter(negative=(), help="Folder of unlabelled photos of other domains; may be repeated.")
    ] = None,
    training: Annotated[
        list[Path] | None, Parameter(negative=(), help="JSONL whose pictures are asked other questions than theirs.")
    ] = None,
    questions: Annotated[Path | None, Parameter(help="A question per line, in place of the 60 that ship.")] = None,
    per_photo: Annotated[int, Parameter(help="Questions about each photo.")] = 2,
    text: Annotated[bool, Parameter(help="Also ask questions without a picture.")] = True,
    val: Annotated[Path | None, Parameter(help="File for a part that training does not see.")] = None,
    val_share: float = 0.1,
    seed: int = 0,
    batch_size: int = 8,
    max_new_tokens: int = 512,
    limit: Annotated[int | None, Parameter(help="Most questions.")] = None,
    answering: Answering = IN_PROCESS,
    as_json: AsJson = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Count the questions, load nothing.")] = False,
) -> int:
    """Let the base answer other questions, so that training can hold a model to it. Goes on where it was stopped.

    Example: `plumbline anchors build --model Qwen3-VL-4B-Instruct --training train.jsonl --photos street/ --output
    anchors.jsonl --val anchors_val.jsonl`
    """
    from plumbline.infer import verbs
    from plumbline.infer.anchors import AnchorSettings
    from plumbline.infer.config import InferSettings

    run = InferSettings(
        model=model,
        input=Path(),
        output=output,
        batch_size=batch_size,
        limit=limit,
        **answering.settings(max_new_tokens),
    )
    settings = AnchorSettings(
        run, tuple(photos or ()), tuple(training or ()), questions, per_photo, text, val, val_share, seed
    )
    return verbs.anchors(settings, as_json, dry_run)


@app.command(name="drift")
def drift(
    base: Annotated[Path, Parameter(help="What the fine-tune started from.")],
    tuned: Annotated[Path, Parameter(help="The fine-tune: an adapter, a checkpoint, a run or a merged model.")],
    /,
    *,
    anchors: Annotated[Path, Parameter(help="The base's own answers: what `anchors build --val` wrote.")],
    domain: Annotated[Path | None, Parameter(help="Records of the domain: its words, its question.")] = None,
    output: Annotated[Path | None, Parameter(help="Also write the result as JSON.")] = None,
    margin_kl: Annotated[float, Parameter(help="Nats per token that still count as the same.")] = 0.05,
    margin_leak: Annotated[float, Parameter(help="Share of leaking answers that still counts as the same.")] = 0.05,
    margin_tasks: Annotated[float, Parameter(help="Part of the base's score on a group that may be lost.")] = 0.05,
    tasks: Annotated[list[Path] | None, Parameter(help="JSONL of known answers, or of summaries; repeatable.")] = None,
    no_bundled_tasks: Annotated[bool, Parameter(negative=(), help="Leave out the 156 questions that ship.")] = False,
    page: Annotated[Path | None, Parameter(help="Also write the result as an HTML page.")] = None,
    gate: Annotated[bool, Parameter(negative=(), help="Exit 4 when a cell has drifted beyond its margin.")] = False,
    max_new_tokens: Annotated[int, Parameter(help="Of the fine-tune's own answers.")] = 128,
    limit: Annotated[int | None, Parameter(help="Most probes of each kind.")] = None,
    image_root: ImageRoots = None,
    as_json: AsJson = False,
) -> int:
    """Measure how far TUNED is from BASE, on other questions, other photos and text. Exit 0, or 4 with --gate.

    Example: `plumbline drift Qwen3-VL-4B-Instruct output/my_run --anchors anchors_val.jsonl --domain val.jsonl --gate`
    """
    from plumbline.evaluate import drift_verb
    from plumbline.evaluate.drift import Margins
    from plumbline.report.drift import write_drift

    options = drift_verb.DriftOptions(
        anchors,
        domain,
        output,
        Margins(margin_kl, margin_leak, margin_tasks),
        max_new_tokens,
        limit,
        tuple(map(str, image_root or [])),
        gate,
        tuple(tasks or ()),
        not no_bundled_tasks,
        page,
    )
    return drift_verb.drift(base, tuned, options, write_drift, as_json=as_json)
