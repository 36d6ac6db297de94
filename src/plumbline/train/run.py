"""The program behind `plumbline train`: check, prepare the folder, launch, train, report."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.batch.packing import PackedSchedule
from plumbline.data.answer_kinds import KINDS
from plumbline.data.dataset import Survey
from plumbline.data.epoch import EpochDataset
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, ConfigError, Problem, UserError, writing
from plumbline.model.checkpoints import latest_complete
from plumbline.model.hub import downloaded, is_hub_name
from plumbline.train.config import LoadedRun, TrainRun, load_train_run
from plumbline.train.datasets import TrainingPlan, files_in_use, open_datasets, plan_training
from plumbline.train.folder import Continuation, data_manifest, find_continuation, prepare_folder, require_trainer_state
from plumbline.train.forecast import Long, check_disk, check_lengths, check_pictures, longest_of
from plumbline.train.preflight import (
    card_of,
    check_run,
    eval_strategy,
    image_policy,
    teacher_plan,
)
from plumbline.train.progress import phase
from plumbline.train.targets import TrainingTargets

if TYPE_CHECKING:
    from plumbline.train.kd.losses import LossWeights
    from plumbline.train.pipeline import Job

logger = logging.getLogger(__name__)

LAUNCHED = "PLUMBLINE_LAUNCHED"
"""Folder through which a launching process tells its children the start, and rank 0 tells it the exit code."""
COMPLETIONS = "completions.jsonl"
"""In the run folder: what was sampled, with rlhf.log_completions."""
SAVE_SECONDS = 600
"""How long torchrun lets the processes save after a signal before it kills them."""


@dataclass(frozen=True)
class TrainOptions:
    """What the command line says beside the YAML.

    gpus: device numbers such as "0,1", one process each; resume: go on in a folder that holds a run;
    build_teacher_cache: let the teacher read the samples, train nothing; extend: train a run on for more steps.
    """

    base_config: Path | None = None
    debug: bool = False
    dry_run: bool = False
    gpus: str | None = None
    resume: bool = True
    as_json: bool = False
    build_teacher_cache: bool = False
    extend: bool = False


@dataclass(frozen=True)
class Outlook:
    """What a run will meet."""

    survey: Survey
    plan: TrainingPlan
    longest: tuple[Long, ...]
    val_records: int
    checkpoint_bytes: int
    checkpoints_kept: int


@dataclass(frozen=True)
class TrainOutcome:
    """exit_code: for the shell; folder: the run folder when this process trained in it and writes its report."""

    exit_code: int
    folder: Path | None = None


def run_training(config: Path, options: TrainOptions) -> TrainOutcome:
    """Run a training configuration, from its YAML to its last checkpoint."""
    loaded = load_train_run(config, options.base_config)
    run, rank = loaded.run, _rank()
    configure_logging(debug=options.debug, rank=rank)
    if rank == 0:
        for note in loaded.notes:
            logger.info("note: %s", note)
    if run.is_downloaded:
        loaded = replace(loaded, run=with_downloads(run, only_local=options.dry_run or rank != 0))
        run = loaded.run
    check_run(run)
    datasets = open_datasets(run)
    processes = wanted_processes(options.gpus)
    if options.build_teacher_cache and not options.dry_run:
        return TrainOutcome(_build_teacher_cache(config, run, datasets, options, processes))
    start = _told_start() or _decide(loaded, options)
    folder = Path(run.upstream["output_dir"])
    if options.dry_run:
        _show_plan(run, start.how, foresee(run, *datasets, processes), as_json=options.as_json)
        return TrainOutcome(EXIT_OK)
    if start.how.finished:
        _say({"output_dir": str(folder), "last_checkpoint": str(start.how.checkpoint)}, as_json=options.as_json)
        return TrainOutcome(EXIT_OK, folder)
    if rank == 0 and LAUNCHED not in os.environ:
        foresee(run, *datasets, processes)
        start = replace(start, data=start.data or _manifest(run))
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        return TrainOutcome(launch(config, options, processes, start))
    code = _train_or_clean_up(loaded, datasets, start, options)
    return TrainOutcome(_report_outcome(code), folder if rank == 0 else None)


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


def _train_or_clean_up(loaded: LoadedRun, datasets: Any, start: Start, options: TrainOptions) -> int:
    """Train; a folder that this process made for a run that was refused before its first checkpoint goes again."""
    folder = Path(loaded.run.upstream["output_dir"])
    existed = folder.exists()
    ours = not existed or not any(folder.iterdir())
    try:
        with writing(folder, unless_named=True):
            return _train_here(loaded, datasets, start, options)
    except UserError as error:
        _report_outcome(error.exit_code)
        if _rank() == 0 and ours and not any(folder.glob("checkpoint-*")):
            shutil.rmtree(folder, ignore_errors=True)
            if existed:
                folder.mkdir()
        raise


# ---------------------------------------------------------------------------------------------------------- processes
def wanted_processes(gpus: str | None) -> int:
    """One process per named GPU; NPROC_PER_NODE says it where there is none to name."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        return len([number for number in gpus.split(",") if number.strip()])
    if "LOCAL_RANK" not in os.environ and "NPROC_PER_NODE" not in os.environ:
        # A single process that sees several GPUs would split the model over them.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return int(os.environ.get("NPROC_PER_NODE", "1"))


def launch(config: Path, options: TrainOptions, processes: int, start: Start) -> int:
    """Start the same command under torchrun, with the start decided here; returns rank 0's exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [f"--shutdown-timeout={SAVE_SECONDS}", "-m", "plumbline", "train", str(config)]
    command += ["--base-config", str(options.base_config)] if options.base_config else []
    command += ["--debug"] if options.debug else []
    command += ["--json"] if options.as_json else []
    command += ["--build-teacher-cache"] if options.build_teacher_cache else []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = start.how.checkpoint
        told = {"checkpoint": None if checkpoint is None else str(checkpoint), "data": start.data}
        (Path(folder) / "start.json").write_text(json.dumps(told), encoding="utf-8")
        code = _wait_for(command, os.environ | {LAUNCHED: folder})
        outcome = Path(folder) / "exit_code"
        return int(outcome.read_text()) if outcome.is_file() else code


def _wait_for(command: list[str], environment: dict[str, str]) -> int:
    """Run a command in a session of its own; one signal is passed on, so that its processes save and stop."""
    received: list[int] = []
    with subprocess.Popen(command, env=environment, start_new_session=True) as child:

        def pass_on(number: int, frame: Any) -> None:
            if not received:
                child.send_signal(signal.SIGTERM)
            received.append(number)

        previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        code = child.wait()
    for number, handler in previous.items():
        signal.signal(number, handler)
    return 128 + received[0] if received and code else code


def _told_start() -> Start | None:
    """What the launching process decided; None when this process decides for itself."""
    if LAUNCHED not in os.environ:
        return None
    told = json.loads((Path(os.environ[LAUNCHED]) / "start.json").read_text(encoding="utf-8"))
    return Start(Continuation(told["checkpoint"] and Path(told["checkpoint"])), told["data"])


def _report_outcome(code: int) -> int:
    """Leave rank 0's exit code for the launching process; a launched process that trained ends with 0."""
    if LAUNCHED not in os.environ:
        return code
    if _rank() == 0:
        (Path(os.environ[LAUNCHED]) / "exit_code").write_text(str(code))
    return EXIT_OK


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


class _ToStderr(logging.Handler):
    """Prints to what is stderr at that moment: runs of one process may have several."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def configure_logging(*, debug: bool, rank: int) -> None:
    """Info on rank 0, warnings from every rank, more with --debug."""
    own = logging.getLogger("plumbline")
    own.setLevel(logging.DEBUG if debug else logging.INFO if rank == 0 else logging.WARNING)
    if not own.handlers:
        handler = _ToStderr()
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s {'' if rank == 0 else f'[rank {rank}] '}%(message)s", "%H:%M:%S")
        )
        own.addHandler(handler)
        own.propagate = False
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())


# --------------------------------------------------------------------------------------------------------------- plan
def _show_plan(run: TrainRun, how: Continuation, outlook: Outlook, *, as_json: bool) -> None:
    """Print what the run would do; nothing is written and no weight is loaded."""
    _check_arguments(run)
    upstream, plan, survey = run.upstream, teacher_plan(run), outlook.survey
    facts: dict[str, Any] = {
        "model": upstream["model"],
        "output_dir": upstream["output_dir"],
        "start": "finished: nothing to do" if how.finished else f"from {how.checkpoint}" if how.checkpoint else "fresh",
        "tuner_type": upstream.get("tuner_type", "lora"),
        "frozen": sorted(TrainingTargets.of(upstream).frozen),
        "teacher": plan.reason if plan else None,
        "train_records": survey.records,
        "samples_per_epoch": len(outlook.plan.samples),
        "val_records": outlook.val_records,
        "objects": survey.objects,
        "negatives": sum(survey.negatives.values()),
        "objects_clipped": survey.clipped,
        "objects_dropped": survey.dropped,
        "steps": outlook.plan.steps,
        "max_length": upstream.get("max_length"),
        "longest": [item._asdict() for item in outlook.longest],
        "checkpoint_bytes": outlook.checkpoint_bytes,
        "checkpoints_kept": outlook.checkpoints_kept,
    }
    if isinstance(packs := outlook.plan.schedule, PackedSchedule):
        facts |= {"packs_per_epoch": len(packs), "fill": round(packs.fill, 4), "fill_bound": round(packs.fill_bound, 4)}
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    facts["longest"] = "".join(f"\n    {item.tokens:,} tokens  {item.place}" for item in outlook.longest)
    facts["checkpoint_bytes"] = f"about {outlook.checkpoint_bytes:,}"
    for key, value in facts.items():
        print(f"{key}: {', '.join(value) or 'nothing' if isinstance(value, list) else value}")


def _check_arguments(run: TrainRun) -> None:
    """Raise ConfigError for what the upstream refuses, without leaving the folder that it makes."""
    with phase("loading the libraries"), tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        upstream_arguments(replace(run, upstream={**run.upstream, "output_dir": folder}), Continuation(None))


def foresee(run: TrainRun, train: EpochDataset, val: EpochDataset | None, processes: int) -> Outlook:
    """What the run will meet, from the data, the model's headers and the disk; raises UserError for what stops it."""
    check_pictures(train, val, strict=run.custom.strict)
    survey = train.survey()
    _say_negatives(train, survey)
    plan = _plan(run, train, processes)
    if isinstance(packs := plan.schedule, PackedSchedule):
        longest = longest_of(plan.samples, packs.lengths[0].tolist())
    else:
        longest = check_lengths(run, plan.samples, "measuring the training samples")
    if val is not None:
        check_lengths(run, val, "measuring the validation samples")
    size, copies = check_disk(run, plan.steps)
    return Outlook(survey, plan, longest, 0 if val is None else len(val), size, copies)


def _say_negatives(train: EpochDataset, survey: Survey) -> None:
    """Warn of a dense source in which every picture has an object; say how many have none elsewhere."""
    for source in train.sources:
        if source.share.mode not in ("dense", "mixed"):
            continue
        if count := survey.negatives.get(source.name, 0):
            logger.info("%s: %d records say that there is no object", source.name, count)
        else:
            fix = 'a picture without any has "objects": []'
            logger.warning("%s: nothing teaches the model to say that there is no object (%s)", source.name, fix)


def _plan(run: TrainRun, samples: EpochDataset, ranks: int) -> TrainingPlan:
    """The plan of a run's steps; packing says how far it is and how well it went."""
    if not run.upstream.get("packing"):
        return plan_training(run, samples, ranks)
    began = time.monotonic()
    with phase("measuring samples for packing", len(samples)) as advance:
        plan = plan_training(run, samples, ranks, advance)
    packs = plan.schedule
    assert isinstance(packs, PackedSchedule)
    logger.info(
        "%d samples in %d packs of %d tokens per epoch, %.1f %% full (%.1f %% possible), planned in %.1f s",
        len(samples),
        len(packs),
        packs.capacity,
        100 * packs.fill,
        100 * packs.fill_bound,
        time.monotonic() - began,
    )
    if _rank() == 0:
        _warn_of_packs(packs, run)
    return plan


def _warn_of_packs(packs: PackedSchedule, run: TrainRun) -> None:
    """Say what packing costs this run."""
    if packs.shortfall:
        logger.warning("packs are not full: %s", packs.shortfall)
    if run.custom.augmentation.enabled and run.custom.augmentation.curriculum is not None and packs.stages == 1:
        why = "too few packs to divide an epoch; train more epochs, or without packing"
        logger.warning("the curriculum does not move: all is planned as at the middle of the run (%s)", why)


@dataclass(frozen=True)
class Start:
    """how: from where; data: the run's manifest, None where it was not needed yet or is rank 0's to make."""

    how: Continuation
    data: dict[str, Any] | None


def _decide(loaded: LoadedRun, options: TrainOptions) -> Start:
    """How the run starts, from its folder; nothing is written."""
    run = loaded.run
    folder = Path(run.upstream["output_dir"])
    data = _manifest(run) if _rank() == 0 and latest_complete(folder).folder is not None else None
    if run.continue_from is not None:
        checkpoint = _named_checkpoint(Path(run.continue_from), folder)
        require_trainer_state(checkpoint)
        how = Continuation(checkpoint, notes=(f"continuing from {checkpoint}",))
    else:
        how = find_continuation(folder, loaded.resolved, data, resume=options.resume, extend=options.extend)
    if _rank() == 0:
        for note in how.notes:
            logger.info("%s", note)
    return Start(how, data)


def _manifest(run: TrainRun) -> dict[str, Any]:
    with phase("digesting the data"):
        return data_manifest(files_in_use(run), image_policy(run), strict=run.custom.strict)


def _named_checkpoint(named: Path, folder: Path) -> Path:
    """The checkpoint to continue; inside the run's own folder the newest, when an interrupted continuation left one."""
    if named.resolve().parent != folder.resolve():
        return named
    return latest_complete(folder).folder or named


# -------------------------------------------------------------------------------------------------------------- train
def loss_weights(run: TrainRun) -> tuple[LossWeights, LossWeights]:
    """The weights of the objective in training and in evaluation."""
    from plumbline.train.kd.losses import LossWeights

    if run.rlhf is None:
        return LossWeights(), LossWeights()
    rlhf = run.rlhf
    weights = LossWeights(rlhf.sft_alpha, rlhf.llm_kd_weight, rlhf.beta, rlhf.kd_temperature)
    if run.custom.eval_teacher:
        return weights, weights
    return weights, LossWeights(rlhf.sft_alpha or 1.0, 0.0, rlhf.beta, rlhf.kd_temperature)


def job_of(run: TrainRun, datasets: Any) -> Job:
    """The flat values that a pipeline takes from a checked run."""
    from plumbline.train.pipeline import Job

    weights, eval_weights = loss_weights(run)
    custom, rlhf = run.custom, run.rlhf
    plan = _plan(run, datasets[0], int(os.environ.get("WORLD_SIZE", "1")))
    job = Job(
        train=plan.samples,
        schedule=plan.schedule,
        shape=plan.shape,
        packing=bool(run.upstream.get("packing")),
        unplanned=plan.unplanned,
        val=datasets[1],
        card=card_of(run),
        targets=TrainingTargets.of(run.upstream),
        weights=weights,
        eval_weights=eval_weights,
        teacher=teacher_plan(run),
        weights_from=run.weights_from,
        strict=custom.strict,
        save_delay_steps=custom.save_delay_steps or 0,
        save_delay_epochs=custom.save_delay_epochs or 0.0,
        max_pixels=run.upstream.get("max_pixels"),
        dump_conversation=Path(run.upstream["output_dir"]) / "conversation.txt"
        if custom.dump_conversation_text
        else None,
    )
    if rlhf is not None:
        if custom.visual_kd.enabled:
            from plumbline.train.kd.features import VisualKd

            visual = custom.visual_kd
            job.visual_kd = VisualKd(visual.weight, visual.targets, visual.distance, custom.eval_teacher)
        if rlhf.token_weights is not None:
            job.token_weights = tuple(getattr(rlhf.token_weights, kind) for kind in KINDS)
        job.teacher_cache = None if rlhf.teacher_cache is None else Path(rlhf.teacher_cache)
        if run.upstream.get("log_completions"):
            job.completions = Path(run.upstream["output_dir"]) / COMPLETIONS
        job.lmbda, job.seq_kd = rlhf.lmbda, rlhf.seq_kd
        job.sampling_temperature, job.max_completion_length = rlhf.temperature, rlhf.max_completion_length
    return job


def upstream_arguments(run: TrainRun, start: Continuation) -> Any:
    """Upstream's argument object; what it refuses becomes a ConfigError."""
    from plumbline.model.devices import device_problems
    from plumbline.model.upstream import build_arguments, start_process_group_on_cpu

    if problems := list(device_problems(run.upstream)):
        raise ConfigError(problems)
    values = dict(run.upstream)
    values["eval_strategy"] = eval_strategy(run)
    values["val_dataset"] = ["plumbline"] if values["eval_strategy"] != "no" else []
    values.setdefault("disable_tqdm", not sys.stderr.isatty())
    if "LOCAL_RANK" not in os.environ:
        values.pop("ddp_backend", None)  # upstream would ask for a process group that one process does not have
    if start.checkpoint is not None:
        values["resume_from_checkpoint"] = str(start.checkpoint)
    if run.deepspeed.enabled:
        values["deepspeed"] = run.deepspeed.config
    if run.rlhf is not None:
        rlhf = run.rlhf
        values |= {"beta": rlhf.beta, "sft_alpha": rlhf.sft_alpha, "lmbda": rlhf.lmbda}
        values |= {"temperature": rlhf.temperature, "max_completion_length": rlhf.max_completion_length}
    for ours in ("teacher_model_server", "gkd_logits_topk"):
        values.pop(ours, None)  # asked by us (`train/kd/server.py`)
    if run.deepspeed.enabled and values.get("use_cpu"):
        start_process_group_on_cpu()
    try:
        return build_arguments(values, rlhf_type=None if run.rlhf is None else run.rlhf.rlhf_type)
    except (ValueError, AssertionError, TypeError) as error:
        raise ConfigError(Problem("the upstream's arguments", str(error), "correct the key that it names")) from error


def _train_here(loaded: LoadedRun, datasets: Any, start: Start, options: TrainOptions) -> int:
    began, run = time.monotonic(), loaded.run
    with phase("loading the libraries"):
        from plumbline.model.upstream import set_verbosity
        from plumbline.train.pipeline import records_skipped, run_pipeline

    set_verbosity(debug=options.debug, main_process=_rank() == 0)
    job, arguments = job_of(run, datasets), upstream_arguments(run, start.how)
    if _rank() == 0 and start.data is not None:
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
    if _rank() == 0:
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
    from plumbline.train.pipeline import run_pipeline

    set_verbosity(debug=options.debug, main_process=_rank() == 0)
    job = job_of(run, datasets)
    job.only_teacher_cache = True
    with tempfile.TemporaryDirectory() as folder:
        # Upstream writes its arguments somewhere.
        run = replace(run, upstream={**run.upstream, "output_dir": folder, "report_to": ["none"]})
        result = run_pipeline(upstream_arguments(run, Continuation(None)), job)
    if _rank() == 0:
        _say(result, as_json=options.as_json)
    return _report_outcome(job.stop.exit_code or EXIT_OK)


def _say(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    for key, value in summary.items():
        logger.info("%s: %s", key, value)
