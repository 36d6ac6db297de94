"""The program behind `plumbline train`: load, check, plan, launch, train, report."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import EXIT_FINDINGS, EXIT_OK, ConfigError, Problem, UserError, writing
from plumbline.model.hub import downloaded, is_hub_name
from plumbline.train.arguments import upstream_arguments
from plumbline.train.config import LoadedRun, TrainRun, load_run
from plumbline.train.datasets import open_datasets
from plumbline.train.folder import Continuation, prepare_folder
from plumbline.train.launch import (
    LAUNCHED,
    TrainOptions,
    launch,
    rank,
    report_outcome,
    start_of_launcher,
    wanted_processes,
    world_size,
)
from plumbline.train.logs import configure_logging
from plumbline.train.outlook import foresee, plan_steps, show_plan
from plumbline.train.preflight import check_run
from plumbline.train.progress import phase
from plumbline.train.start import Start, decide_start, manifest_of

if TYPE_CHECKING:
    from plumbline.train.callbacks import Observer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOutcome:
    """exit_code: for the shell; folder: the run folder when this process trained in it and writes its report."""

    exit_code: int
    folder: Path | None = None


def run_training(config: Path, options: TrainOptions, observers: tuple[Observer, ...] = ()) -> TrainOutcome:
    """Run a training configuration, from its YAML to its last checkpoint.

    Args:
        config: The YAML.
        options: What the command line would add to it.
        observers: Look at the run after each evaluation, on the main process.

    Returns:
        The exit code, and the run folder when this process trained in it.

    Raises:
        UserError: A mistake in the configuration, the data, the model or the folder, before anything is trained.
    """
    loaded = load_run(config, options.base_config)
    run, main_process = loaded.run, rank() == 0
    configure_logging(debug=options.debug, rank=rank())
    if main_process:
        for note in loaded.notes:
            logger.info("note: %s", note)
    if run.is_downloaded:
        loaded = replace(loaded, run=with_downloads(run, only_local=options.dry_run or not main_process))
        run = loaded.run
    check_run(run)
    datasets = open_datasets(run)
    processes = wanted_processes(options.gpus)
    if options.build_teacher_cache and not options.dry_run:
        return TrainOutcome(_build_teacher_cache(config, run, datasets, options, processes))
    start = start_of_launcher() or decide_start(
        loaded, resume=options.resume, extend=options.extend, main_process=rank() == 0
    )
    folder = Path(run.upstream["output_dir"])
    if options.dry_run:
        show_plan(run, start.how, foresee(run, *datasets, processes), as_json=options.as_json)
        return TrainOutcome(EXIT_OK)
    if start.how.finished:
        _say({"output_dir": str(folder), "last_checkpoint": str(start.how.checkpoint)}, as_json=options.as_json)
        return TrainOutcome(EXIT_OK, folder)
    if main_process and LAUNCHED not in os.environ:
        foresee(run, *datasets, processes)
        start = replace(start, data=start.data or manifest_of(run))
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        return TrainOutcome(launch(config, options, processes, start))
    code = _train_or_clean_up(loaded, datasets, start, options, observers)
    return TrainOutcome(report_outcome(code), folder if main_process else None)


def with_downloads(run: TrainRun, *, only_local: bool) -> TrainRun:
    """The run with the folders of the models that it names as on the hub. only_local: nothing is fetched."""
    model, rlhf = str(run.upstream.get("model")), run.rlhf
    if (
        rlhf is not None
        and rlhf.teacher_model
        and is_hub_name(rlhf.teacher_model)
        and not run.upstream.get("teacher_model_server")
    ):
        rlhf = replace(rlhf, teacher_model=str(downloaded(rlhf.teacher_model, only_local=only_local)))
    if is_hub_name(model):
        model = str(downloaded(model, only_local=only_local))
    return replace(run, rlhf=rlhf, upstream={**run.upstream, "model": model})


def _train_or_clean_up(
    loaded: LoadedRun, datasets: Any, start: Start, options: TrainOptions, observers: tuple[Observer, ...]
) -> int:
    """Train; a folder that this process made for a run that was refused before its first checkpoint goes again."""
    folder = Path(loaded.run.upstream["output_dir"])
    existed = folder.exists()
    ours = not existed or not any(folder.iterdir())
    try:
        with writing(folder, unless_named=True):
            return _train_here(loaded, datasets, start, options, observers)
    except UserError as error:
        report_outcome(error.exit_code)
        if rank() == 0 and ours and not any(folder.glob("checkpoint-*")):
            shutil.rmtree(folder, ignore_errors=True)
            if existed:
                folder.mkdir()
        raise


def _train_here(
    loaded: LoadedRun, datasets: Any, start: Start, options: TrainOptions, observers: tuple[Observer, ...]
) -> int:
    began, run = time.monotonic(), loaded.run
    with phase("loading the libraries"):
        from plumbline.model.upstream import set_verbosity
        from plumbline.train.job import job_of
        from plumbline.train.pipeline import records_skipped, run_pipeline

    set_verbosity(debug=options.debug, main_process=rank() == 0)
    job = job_of(run, plan_steps(run, datasets[0], world_size()), datasets[1], observers)
    arguments = upstream_arguments(run, start.how)
    if rank() == 0 and start.data is not None:
        prepare_folder(Path(run.upstream["output_dir"]), loaded.to_yaml(), start.data, start.how)
    result = run_pipeline(arguments, job)
    skipped = records_skipped(job)
    summary = {
        "output_dir": str(run.upstream["output_dir"]),
        "steps": result["global_step"],
        "last_checkpoint": result["last_model_checkpoint"],
        "best_checkpoint": result["best_model_checkpoint"],
        "records_skipped": skipped,
        "wall_s": round(time.monotonic() - began, 1),
    }
    if rank() == 0:
        _say(summary, as_json=options.as_json)
    return job.stop.exit_code or (EXIT_FINDINGS if skipped else EXIT_OK)


def _build_teacher_cache(config: Path, run: TrainRun, datasets: Any, options: TrainOptions, processes: int) -> int:
    """Fill `rlhf.teacher_cache`; the run folder is not touched."""
    if run.rlhf is None or run.rlhf.teacher_cache is None:
        what = "--build-teacher-cache: the run has no rlhf.teacher_cache"
        raise ConfigError(Problem("rlhf.teacher_cache", what, "name the folder in the YAML"))
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        return launch(config, options, processes, Start(Continuation(None), None))
    from plumbline.model.upstream import set_verbosity
    from plumbline.train.job import job_of
    from plumbline.train.pipeline import run_pipeline

    set_verbosity(debug=options.debug, main_process=rank() == 0)
    job = job_of(run, plan_steps(run, datasets[0], world_size()), datasets[1], only_teacher_cache=True)
    with tempfile.TemporaryDirectory() as folder:
        # Upstream writes its arguments somewhere.
        run = replace(run, upstream={**run.upstream, "output_dir": folder, "report_to": ["none"]})
        result = run_pipeline(upstream_arguments(run, Continuation(None)), job)
    if rank() == 0:
        _say(result, as_json=options.as_json)
    return report_outcome(job.stop.exit_code or EXIT_OK)


def _say(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    for key, value in summary.items():
        logger.info("%s: %s", key, value)
