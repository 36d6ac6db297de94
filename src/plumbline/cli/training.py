"""Training, and what is done with its checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plumbline.cli.app import AsJson, BaseConfig, app
from plumbline.storage.text import next_command


@app.command
def train(
    config: Annotated[Path, Parameter(help="The run's YAML; --config FILE does as well.")],
    *,
    base_config: BaseConfig = None,
    gpus: Annotated[str | None, Parameter(help="Devices such as 0,1: one process each.")] = None,
    resume: Annotated[bool, Parameter(help="Go on where an interrupted run in output_dir stopped.")] = True,
    extend: Annotated[
        bool,
        Parameter(negative=(), help="Train a run on, by more max_steps or num_train_epochs than it was made with."),
    ] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Check everything, load no weights, write nothing.")] = False,
    build_teacher_cache: Annotated[
        bool, Parameter(negative=(), help="Fill rlhf.teacher_cache with the teacher's rows, then stop.")
    ] = False,
    debug: Annotated[bool, Parameter(negative=(), help="More log lines, upstream's included.")] = False,
    as_json: AsJson = False,
) -> int:
    """Fine-tune from YAML: SFT, or distillation where the YAML has an rlhf block.

    Example: `plumbline train configs/tiny/smoke.yaml`
    """
    from plumbline.evaluate.in_run import AnswersAtEvaluation
    from plumbline.report.run import write_run_report
    from plumbline.train.launch import TrainOptions
    from plumbline.train.run import run_training

    options = TrainOptions(base_config, debug, dry_run, gpus, resume, as_json, build_teacher_cache, extend)
    outcome = run_training(config, options, (AnswersAtEvaluation(), lambda at: write_run_report(at.folder)))
    if outcome.folder is not None:
        page = write_run_report(outcome.folder)
        print(f"report: {page}", file=sys.stderr)
        if not as_json:
            print(
                next_command("infer", "--model", outcome.folder, "--input", "val.jsonl", "--output", "captions.jsonl")
            )
    return outcome.exit_code


def read_shares(words: list[str]) -> list[float]:
    """The numbers of `--alpha`; UserError for anything else."""
    from plumbline.errors import Problem, UserError

    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UserError(Problem("--alpha", f"{words}: not numbers", "numbers from 0 to 1, or auto alone")) from error


@app.command
def runs(
    folders: Annotated[tuple[Path, ...], Parameter(negative=(), help="Where runs are looked for.")] = (Path("output"),),
    /,
    *,
    as_json: AsJson = False,
) -> int:
    """List training runs, newest first: state, loss, best checkpoint, drift, leaks and size.

    Example: `plumbline runs output/`
    """
    from plumbline.report.runs import list_runs

    return list_runs(folders, as_json=as_json)


@app.command
def watch(
    folders: Annotated[tuple[Path, ...], Parameter(negative=(), help="Runs, or folders of runs.")] = (Path("output"),),
    /,
    *,
    output: Annotated[Path | None, Parameter(help="Write the page that compares them, and serve nothing.")] = None,
    port: Annotated[int, Parameter(help="On 127.0.0.1; 0 for any that is free.")] = 0,
) -> int:
    """Serve the reports of training runs while they train: several side by side, with what differs. Ctrl-C ends it.

    Example: `plumbline watch output/stage_2 output/stage_3`
    """
    from plumbline.report.watch import watch

    return watch(folders, output, port)


@app.command(name="merge")
def merge(
    *,
    adapter: Path,
    output: Path,
    base: Path | None = None,
    alpha: Annotated[
        list[str] | None,
        Parameter(
            negative=(), help="Share of the way from base to merged weights; several make a folder each; or auto."
        ),
    ] = None,
    probe: Annotated[
        Path | None, Parameter(help="With --alpha auto: the base's answers (anchors build --val).")
    ] = None,
    domain: Annotated[Path | None, Parameter(help="With --alpha auto: records of the domain.")] = None,
    drift_budget: Annotated[float, Parameter(help="With --alpha auto: most drift in nats per token.")] = 0.05,
    max_shard_size: str = "5GB",
    dtype: str | None = None,
    verify: bool = True,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> int:
    """Merge an adapter into its base model: one folder, proven equal to base plus adapter.

    Example: `plumbline merge --adapter output/run/checkpoint-100 --output output/merged`

    Within a budget of drift: `plumbline merge --adapter output/run --output output/merged --alpha auto --probe
    anchors_val.jsonl --domain val.jsonl`

    A sweep: `plumbline merge --adapter output/run --output output/sweep --alpha 0.3 --alpha 0.5 --alpha 0.7`
    """
    from plumbline.model.verbs import merge_verb

    if alpha == ["auto"]:
        from plumbline.evaluate.alpha_verb import auto_alpha

        shares = [auto_alpha(adapter, base, probe, domain, drift_budget)]
    else:
        shares = read_shares(alpha or ["1"])
    return merge_verb(adapter, output, base, shares, max_shard_size, dtype, verify, overwrite, as_json)


@app.command(name="quantize")
def quantize(
    *,
    model: Path,
    output: Path,
    method: Annotated[str, Parameter(help="bnb4, bnb8 (extra `quantize`), or fp8 (a GPU).")] = "bnb4",
    overwrite: bool = False,
    as_json: AsJson = False,
) -> int:
    """Write a base or merged model in fewer bits, its card with it.

    Example: `plumbline quantize --model output/merged --output output/merged-4bit`
    """
    from plumbline.model.verbs import quantize_verb

    return quantize_verb(model, output, method, overwrite, as_json)


@app.command(name="inspect-lora")
def inspect_lora(checkpoint: Path, *, as_json: AsJson = False) -> int:
    """Show what is in an adapter: counts and norms per language model, vision encoder and aligner.

    Example: `plumbline inspect-lora output/run/checkpoint-100`
    """
    from plumbline.model.verbs import inspect_verb

    return inspect_verb(checkpoint, as_json)
