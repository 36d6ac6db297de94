"""The samples of a run, from its configuration: sources, mixture, augmentation, and the schedule of their steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from plumbline.augment.pipeline import ScheduledAugmentation
from plumbline.batch.lengths import PixelLimits
from plumbline.batch.packing import CLOCK, LengthMeter, RunLength, plan_packs
from plumbline.batch.schedule import Schedule, SingleSchedule, StepShape
from plumbline.batch.tokens import TokenCounter
from plumbline.data.config import FusionSource
from plumbline.data.dataset import DatasetSettings, RecordFile
from plumbline.data.epoch import EpochDataset, Source
from plumbline.data.mixture import Mixture, Share
from plumbline.errors import DataError, Problem
from plumbline.train.config import TrainRun
from plumbline.train.drift import PROBE
from plumbline.train.preflight import TARGET, eval_strategy, image_policy, jsonl_keys, mode_of, prompts_of
from plumbline.train.token_shares import with_token_shares

_SEED = 42
"""Upstream's own default of `seed` and `data_seed`."""
_UNTOLD = {
    "chat": ("records are no chats, which mode chat needs", "put them into a source with another mode"),
    "irrelevant": (
        "records are chats of their own, which mode irrelevant cannot use",
        "put them into a source with mode: chat",
    ),
}
"""(what, fix) for records that a mode cannot use."""


def open_datasets(run: TrainRun) -> tuple[EpochDataset, EpochDataset | None]:
    """The training and validation samples of a run; DataError with file:line for records that break the contract."""
    sources = with_token_shares(run, _sources(run, "train_jsonl", run.custom.train_sample_limit))
    train = EpochDataset(sources, _mixture(run, sources, shuffle=run.upstream.get("train_dataloader_shuffle", True)))
    val_sources = _sources(run, "val_jsonl", run.custom.val_sample_limit) if eval_strategy(run) != "no" else ()
    if not val_sources:
        return train, None
    whole = tuple(replace(source, share=replace(source.share, ratio=1.0, target=True)) for source in val_sources)
    return train, EpochDataset(whole, _mixture(run, whole, shuffle=False))


def anchor_names(run: TrainRun) -> frozenset[str]:
    """The sources that hold the base's own answers."""
    fusion = run.custom.fusion
    return frozenset({PROBE, *(source.name for source in (fusion.sources if fusion else ()) if source.is_anchor)})


def _mixture(run: TrainRun, sources: tuple[Source, ...], *, shuffle: bool) -> Mixture:
    custom = run.custom
    return Mixture(
        shares=tuple(source.share for source in sources),
        seed=int(run.upstream.get("data_seed", run.upstream.get("seed", _SEED))),
        summary_ratio=custom.summary_ratio,
        images_per_turn=custom.images_per_user_turn,
        shuffle=shuffle,
    )


def _sources(run: TrainRun, key: str, limit: int | None) -> tuple[Source, ...]:
    """key: "train_jsonl" or "val_jsonl"; limit: first records of each file, None for `custom.sample_limit`."""
    custom, fusion = run.custom, run.custom.fusion
    limit = custom.sample_limit if limit is None else limit
    named: list[tuple[FusionSource, bool]] = []
    plain = getattr(custom, key)
    if plain:
        own = FusionSource(name=TARGET, train_jsonl=plain, val_jsonl=plain, mode=None)
        named.append((own, True))
    if fusion is not None:
        named += [(source, True) for source in fusion.targets]
        if key == "train_jsonl" or fusion.evaluate_sources:
            named += [(source, False) for source in fusion.sources]
        else:
            named += [(source, False) for source in fusion.sources if source.is_anchor]
    if key == "val_jsonl" and custom.drift is not None and custom.drift.probe is not None:
        probe = FusionSource(name=PROBE, train_jsonl="", val_jsonl=custom.drift.probe, mode="chat", role="anchor")
        named.append((probe, False))
    opened = (_source(run, source, getattr(source, key), target, limit) for source, target in named)
    return tuple(source for source in opened if source is not None)


def _source(run: TrainRun, named: FusionSource, path: str | None, target: bool, limit: int | None) -> Source | None:
    if path is None:
        return None
    records = RecordFile(path)
    count = len(records) if limit is None else min(limit, len(records))
    mode = named.mode or mode_of(run)
    chats = records.chats_among(count)
    if mode in ("chat", "irrelevant"):
        if run.custom.strict:
            _require_mode(records, count, mode, chats)
        chats = frozenset()
    return Source(
        name=named.name,
        records=records,
        settings=_settings(run, named, mode),
        share=Share(count, named.ratio, target, mode, named.without_replacement, chats),
        augmented=named.augmentation and not named.is_anchor,  # the base answered about the picture as it is
        max_objects=named.max_objects_per_image,
    )


def _require_mode(records: RecordFile, count: int, mode: str, chats: frozenset[int]) -> None:
    """Raise DataError naming the first of `count` records, some of them chats, that the mode cannot use."""
    untold = chats if mode == "irrelevant" else set(range(count)) - chats
    if untold:
        what, fix = _UNTOLD[mode]
        raise DataError(Problem(records[min(untold)].place, f"{len(untold)} {what}", fix))


def _settings(run: TrainRun, named: FusionSource, mode: str) -> DatasetSettings:
    prompts = prompts_of(run)
    if named.user_prompt is not None:
        prompts = replace(prompts, user_dense=named.user_prompt, user_summary=named.user_prompt)
    if named.system_prompt is not None:
        prompts = replace(prompts, system_dense=named.system_prompt, system_summary=named.system_prompt)
    return DatasetSettings(
        mode=mode,
        prompts=prompts,
        emit_norm=run.custom.emit_norm,
        ordering=run.custom.object_ordering,
        policy=image_policy(run),
        form=run.custom.answer,
    )


def files_in_use(run: TrainRun) -> dict[str, int | None]:
    """The JSONL files of a run and how many records of each are used (None: all)."""
    custom = run.custom
    limits = {"train_jsonl": custom.train_sample_limit, "val_jsonl": custom.val_sample_limit}
    found = {}
    for key, path in jsonl_keys(run):
        limit = limits.get(key.rpartition(".")[2])
        found[path] = custom.sample_limit if limit is None else limit
    return found


def step_shape(upstream: Mapping[str, Any], ranks: int) -> StepShape:
    """How the trainer will group units into optimiser steps. ranks: data-parallel processes."""
    batch = int(upstream.get("per_device_train_batch_size", 1))
    # Upstream's default aims at 16 samples per step.
    accumulation = upstream.get("gradient_accumulation_steps") or math.ceil(16 / batch / ranks)
    return StepShape(batch, int(accumulation), ranks, bool(upstream.get("dataloader_drop_last", False)))


def steps_planned(upstream: Mapping[str, Any], units: int, shape: StepShape) -> int:
    """Optimiser steps of a run. units: samples per epoch, or packs."""
    if upstream.get("max_steps", -1) and upstream.get("max_steps", -1) > 0:
        return int(upstream["max_steps"])
    return math.ceil(shape.updates(units) * upstream.get("num_train_epochs", 3.0))


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained when. unplanned: samples that no pack holds because they cannot be measured or are too long."""

    samples: EpochDataset
    schedule: Schedule
    shape: StepShape
    steps: int
    unplanned: tuple[Problem, ...] = ()


def plan_training(
    run: TrainRun, samples: EpochDataset, ranks: int, progress: Callable[[int], Any] = lambda done: None
) -> TrainingPlan:
    """The run's augmentation and the units of its steps; packs are planned here, before any weight is loaded.

    Raises DataError, in a strict run, for samples that cannot be packed.
    """
    shape = step_shape(run.upstream, ranks)
    if not run.upstream.get("packing"):
        single = SingleSchedule(len(samples), shape)
        steps = steps_planned(run.upstream, len(single), shape)
        return TrainingPlan(augmented(run, samples, steps), single, shape, steps)
    samples = augmented(run, samples, CLOCK)
    model = str(run.upstream["model"])
    limits = PixelLimits.of_folder(model, run.upstream.get("max_pixels"))
    max_steps = max(0, int(run.upstream.get("max_steps") or 0))
    length = RunLength(float(run.upstream.get("num_train_epochs", 3.0)), shape, max_steps)
    meter = LengthMeter(samples, TokenCounter(model), limits)
    packed = plan_packs(meter, int(run.upstream["max_length"]), length, progress)
    if packed.problems and run.custom.strict:
        raise DataError(packed.problems[:20])
    return TrainingPlan(samples, packed, shape, steps_planned(run.upstream, len(packed), shape), packed.problems)


def augmented(run: TrainRun, samples: EpochDataset, total_steps: int) -> EpochDataset:
    """The training samples with the run's augmentation; total_steps: the clock of a curriculum's percents."""
    config = run.custom.augmentation
    if not config.enabled:
        return samples
    return EpochDataset(samples.sources, samples.mixture, ScheduledAugmentation(config, total_steps))
