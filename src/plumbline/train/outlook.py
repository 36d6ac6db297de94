"""What a run will meet: its plan, its longest samples, its disk; and how `--dry-run` prints it."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from plumbline.batch.packing import PackedSchedule
from plumbline.data.dataset import Survey
from plumbline.data.epoch import EpochDataset
from plumbline.train.arguments import upstream_arguments
from plumbline.train.config import TrainRun
from plumbline.train.datasets import TrainingPlan, anchor_names, plan_training
from plumbline.train.folder import Continuation
from plumbline.train.forecast import Long, check_disk, check_lengths, check_pictures, longest_of
from plumbline.train.launch import rank
from plumbline.train.preflight import teacher_plan
from plumbline.train.progress import phase
from plumbline.train.targets import TrainingTargets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outlook:
    """What a run will meet."""

    survey: Survey
    plan: TrainingPlan
    longest: tuple[Long, ...]
    val_records: int
    checkpoint_bytes: int
    checkpoints_kept: int


def show_plan(run: TrainRun, how: Continuation, outlook: Outlook, *, as_json: bool) -> None:
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
    check_pictures(train, val, strict=run.custom.strict, anchors=anchor_names(run))
    survey = train.survey()
    _say_negatives(train, survey)
    plan = plan_steps(run, train, processes)
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
        if source.share.mode not in ("dense", "mixed") or len(source.share.chats) == source.share.records:
            continue
        if count := survey.negatives.get(source.name, 0):
            logger.info("%s: %d records say that there is no object", source.name, count)
        else:
            fix = 'a picture without any has "objects": []'
            logger.warning("%s: nothing teaches the model to say that there is no object (%s)", source.name, fix)


def plan_steps(run: TrainRun, samples: EpochDataset, ranks: int) -> TrainingPlan:
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
    if rank() == 0:
        _warn_of_packs(packs, run)
    return plan


def _warn_of_packs(packs: PackedSchedule, run: TrainRun) -> None:
    """Say what packing costs this run."""
    if packs.shortfall:
        logger.warning("packs are not full: %s", packs.shortfall)
    if run.custom.augmentation.enabled and run.custom.augmentation.curriculum is not None and packs.stages == 1:
        why = "too few packs to divide an epoch; train more epochs, or without packing"
        logger.warning("the curriculum does not move: all is planned as at the middle of the run (%s)", why)
