"""Upstream's pipelines with our data, our adapter checks and our trainers in them."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from plumbline.batch.lengths import PixelLimits
from plumbline.data.epoch import EpochDataset
from plumbline.errors import ConfigError, DataError, Problem
from plumbline.model.checkpoints import Card
from plumbline.model.loading import bars_on_terminals_only, loading
from plumbline.model.packed_attention import enable_packing
from plumbline.model.upstream import SwiftRLHF, SwiftSft, install_trainer, load_frozen_model
from plumbline.storage.files import write_atomically
from plumbline.train.adopt import adopt_weights
from plumbline.train.batches import BatchCollator, EncodedSamples, Encoder
from plumbline.train.callbacks import EpochAccount, FrozenGuard, Observed, Observer, StopOnSignal
from plumbline.train.config import TrainRun
from plumbline.train.datasets import TrainingPlan
from plumbline.train.drift import DriftControl
from plumbline.train.gkd import DistillationParts
from plumbline.train.health import check_targets, trainable_by_part
from plumbline.train.objective.features import can_move
from plumbline.train.objective.weights import Objective
from plumbline.train.progress import phase
from plumbline.train.rollout import SamplingSettings
from plumbline.train.step import SaveDelay, TrainerParts, base_of
from plumbline.train.targets import VISUAL_SIDE_STAYS, TrainingTargets
from plumbline.train.teacher.cache import TeacherCache, teacher_fingerprint
from plumbline.train.teacher.plan import TeacherPlan
from plumbline.train.teacher.server import TeacherServer

logger = logging.getLogger(__name__)

SAMPLES_CHECKED = 8

install_trainer("causal_lm", "plumbline.train.sft.SftTrainer")
install_trainer("gkd", "plumbline.train.gkd.GKDMonitorTrainer")


@dataclass
class Job:
    """Everything that a pipeline needs besides upstream's arguments.

    plan, val: the samples and their order; weights_from: another run's adapter; max_pixels: largest area of a picture;
    dump_conversation: a file for the first sample as text; stop: the signal callback; collator: made by the pipeline;
    observers: look at the run after each evaluation.
    """

    run: TrainRun
    plan: TrainingPlan
    val: EpochDataset | None
    card: Card
    targets: TrainingTargets
    objective: Objective
    strict: bool
    packing: bool
    save_delay: SaveDelay
    drift: DriftControl | None = None
    weights_from: str | None = None
    max_pixels: int | None = None
    dump_conversation: Path | None = None
    distillation: Distillation | None = None
    stop: StopOnSignal = field(default_factory=StopOnSignal)
    collator: BatchCollator | None = None
    observers: tuple[Observer, ...] = ()

    @property
    def source_names(self) -> list[str]:
        """Of training, then of sources that are evaluated alone; rows are numbered by them."""
        sources = (*self.plan.samples.sources, *(() if self.val is None else self.val.sources))
        return list(dict.fromkeys(source.name for source in sources))


@dataclass(frozen=True)
class Distillation:
    """The teacher of a run. cache: folder of its rows; only_cache: fill that folder, train nothing."""

    teacher: TeacherPlan
    sampling: SamplingSettings
    cache: Path | None = None
    only_cache: bool = False


class PipelineMixin:
    """Hooks of upstream's pipeline where Plumbline takes over. Comes before an upstream pipeline class."""

    args: Any
    model: Any
    processor: Any
    template: Any

    def __init__(self, arguments: Any, job: Job):
        self.job = job
        super().__init__(arguments)  # type: ignore[call-arg]

    def _prepare_model_tokenizer(self, **kwargs: Any) -> None:
        bars_on_terminals_only()
        with phase("loading the model"), loading(self.args.model):
            super()._prepare_model_tokenizer(**kwargs)  # type: ignore[misc]

    def _prepare_template(self) -> None:
        with loading(self.args.model):
            super()._prepare_template()  # type: ignore[misc]

    def _prepare_dataset(self) -> list[EncodedSamples | None]:
        job, config, train = self.job, self.model.config, self.job.plan.samples
        limits = PixelLimits.of_processor(self.processor.image_processor, job.max_pixels)
        self._encoder = encoder = Encoder(
            template=self.template,
            limits=limits,
            max_length=self.args.max_length,
            image_token_id=config.image_token_id,
            merge=config.vision_config.spatial_merge_size,
            with_chat=job.distillation is not None and job.distillation.teacher.server is not None,
        )
        names = job.source_names
        job.collator = BatchCollator(self.template, job.strict, job.packing, len(names))
        for problem in job.plan.unplanned:
            job.collator.skip(problem)
        datasets = [
            None
            if samples is None
            else EncodedSamples(
                samples,
                encoder,
                names,
                keyed=job.distillation is not None and job.distillation.cache is not None,
                with_kinds=job.objective.token_weights is not None,
            )
            for samples in (train, job.val)
        ]
        for dataset in datasets:
            if dataset is not None:
                self._check_samples(dataset)
        if job.dump_conversation is not None and self.args.rank in (-1, 0) and datasets[0] is not None:
            write_atomically(job.dump_conversation, self._conversation(datasets[0][0][0]))
        return datasets

    def _check_samples(self, dataset: EncodedSamples) -> None:
        """Encode the first records before the model is prepared, so that a broken set stops at once."""
        rows = [row for index in range(min(SAMPLES_CHECKED, len(dataset))) for row in dataset[index]]
        problems = [row["problem"] for row in rows if "problem" in row]
        if problems and (self.job.strict or len(problems) == len(rows)):
            raise DataError(problems)

    def _conversation(self, row: dict[str, Any]) -> str:
        """The first sample as text, with what is supervised marked."""
        if "problem" in row:
            return f"{row['problem']}\n"
        ids, labels = list(row["input_ids"]), list(row["labels"])
        answer = [token for token, label in zip(ids, labels, strict=True) if label != -100]
        return f"{self.template.safe_decode(ids)}\n\n--- supervised ---\n{self.template.tokenizer.decode(answer)}\n"

    def prepare_model(self, args: Any, model: Any, **kwargs: Any) -> Any:
        """Upstream's adapter, checked against the configuration, then another run's weights where requested."""
        try:
            model = super().prepare_model(args, model, **kwargs)  # type: ignore[misc]
        except ValueError as error:
            raise ConfigError(Problem("tuner", f"the adapter cannot be built: {error}", "check its targets")) from error
        check_targets(model, self.job.targets)
        if self.job.objective.visual_kd is not None and not can_move(base_of(model).model.visual):
            raise ConfigError(VISUAL_SIDE_STAYS)
        if self.job.packing:
            enable_packing(base_of(model))
        if self.job.weights_from is not None:
            adopted = adopt_weights(model, self.job.weights_from)
            logger.info("%d tensors taken from %s, %d start fresh", adopted.copied, adopted.source, adopted.fresh)
        for part, counts in trainable_by_part(model).items():
            logger.info(
                "%s: %s parameters train, %s are frozen", part, f"{counts['trainable']:,}", f"{counts['frozen']:,}"
            )
        return model

    def _get_trainer_kwargs(self) -> dict[str, Any]:
        return {"parts": TrainerParts(**self._shared_parts())}

    def _shared_parts(self) -> dict[str, Any]:
        """The fields of TrainerParts."""
        job = self.job
        account = EpochAccount(Path(self.args.output_dir))
        sources = tuple(job.source_names)
        return {
            "account": account,
            "sources": sources if len(sources) > 1 else (),
            "drift": job.drift,
            "collator": job.collator,
            "schedule": job.plan.schedule,
            "shape": job.plan.shape,
            "card": job.card,
            "objective": job.objective,
            "callbacks": (FrozenGuard(), account, job.stop, Observed(job.run, self.processor, job.observers)),
            "save_delay": job.save_delay,
        }


class SftPipeline(PipelineMixin, SwiftSft):
    """Plain fine-tuning."""


class GKDPipeline(PipelineMixin, SwiftRLHF):
    """Distillation: the teacher is ours to choose, upstream only prepares the frozen copy for the devices."""

    def _get_trainer_kwargs(self) -> dict[str, Any]:
        distillation = self.job.distillation
        assert distillation is not None
        plan = distillation.teacher
        logger.info("teacher: %s", plan.reason)
        kwargs: dict[str, Any] = {"teacher_use_disable_adapter": plan.adapters_off}
        server = None if plan.server is None else TeacherServer(plan.server, plan.folder or None, plan.top)
        if server is None and not plan.adapters_off:
            with loading(plan.folder):
                kwargs["teacher_model"] = load_frozen_model(self.args, plan.folder, list(plan.adapters))
            if self.job.packing:
                enable_packing(base_of(kwargs["teacher_model"]))
        cache = None if distillation.cache is None else self._teacher_cache(plan, distillation.cache)
        shared = self._shared_parts()
        return kwargs | {
            "parts": DistillationParts(
                **shared, sampling=distillation.sampling, teacher_cache=cache, teacher_server=server
            )
        }

    def _teacher_cache(self, plan: TeacherPlan, folder: Path) -> TeacherCache:
        """The cache of this teacher's rows, and how large it is and will be."""
        args, config = self.args, self.model.config
        computed = {
            "dtype": str(self.model.dtype),
            "mixed": "bf16" if args.bf16 else "fp16" if args.fp16 else None,
            "quantised": [args.quant_method, args.quant_bits],
        }
        logger.info("teacher cache: reading the teacher's weights to know them again")
        cache = TeacherCache(folder, *teacher_fingerprint(Path(plan.folder), plan.adapters, computed))
        samples = EncodedSamples(self.job.plan.samples, self._encoder, keyed=True)
        probed = [row["entry"][1] for number in _spread(len(samples)) for row in samples[number] if "entry" in row]
        per_token = config.text_config.hidden_size * self.model.dtype.itemsize
        size = per_token * len(samples) * sum(probed) / max(1, len(probed))
        logger.info(
            "teacher cache: %s holds %d samples; an epoch has %d, about %s of rows (estimated from %d of them)",
            cache.folder,
            len(cache),
            len(samples),
            f"{size / 1e6:,.1f} MB",
            len(probed),
        )
        return cache

    def train(self, trainer: Any) -> Any:
        """Upstream's training, or the teacher's pass over the samples alone."""
        if self.job.distillation is None or not self.job.distillation.only_cache:
            return super().train(trainer)
        trainer.build_teacher_cache(lambda: self.job.stop.received is not None)
        cache = trainer.parts.teacher_cache
        return {"folder": str(cache.folder), "samples": len(cache), "bytes": cache.nbytes}


def _spread(length: int) -> list[int]:
    """A few positions, evenly spread."""
    return sorted({length * number // SAMPLES_CHECKED for number in range(SAMPLES_CHECKED)}) if length else []


def run_pipeline(arguments: Any, job: Job) -> dict[str, Any]:
    """Train; returns upstream's summary (`last_model_checkpoint`, `log_history`, ...)."""
    pipeline = (SftPipeline if job.distillation is None else GKDPipeline)(arguments, job)
    job.stop.install()
    try:
        # What upstream prints belongs to the log: standard output is for our own result.
        with redirect_stdout(sys.stderr):
            return pipeline.main()
    finally:
        job.stop.uninstall()


def records_skipped(job: Job) -> int:
    """Records that could not be encoded, over all ranks."""
    skipped = set() if job.collator is None else set(job.collator.skipped)
    if dist.is_available() and dist.is_initialized():
        everywhere: list[set[str] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, skipped)
        skipped = set().union(*(names for names in everywhere if names is not None))
    return len(skipped)
