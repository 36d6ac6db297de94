"""Knowledge distillation towards the frozen base: CE learns, JSD anchors, both logged apart.

The teacher is the base under the adapters (adapters switched off, `modules_to_save` restored) or a frozen copy.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from plumbline.errors import writing
from plumbline.model.packed_attention import segments_of
from plumbline.model.upstream import GKDTrainer, without_checkpointing
from plumbline.train.batches import IGNORED, MODEL_INPUTS
from plumbline.train.identity import CacheEntry
from plumbline.train.objective.features import VisualKd, feature_distances, watched
from plumbline.train.objective.taught import Taught
from plumbline.train.objective.weights import LossWeights
from plumbline.train.rollout import DATASET, STUDENT, SamplingSettings, choose_source, completions, generate_answers
from plumbline.train.step import StepMixin, TrainerParts, base_of, head_weight
from plumbline.train.teacher.cache import TeacherCache
from plumbline.train.teacher.server import TeacherServer
from plumbline.train.teacher.shared import (
    kept_after,
    layers_in_common,
    shares_tower,
    started_after,
    started_at_mergers,
)

logger = logging.getLogger(__name__)

OWN_ANSWERS = SamplingSettings()
"""Nothing is sampled."""


@dataclass(frozen=True)
class DistillationParts(TrainerParts):
    """What distillation needs besides: sampled answers, and where the teacher's side comes from if not from a model."""

    sampling: SamplingSettings = OWN_ANSWERS
    teacher_cache: TeacherCache | None = None
    teacher_server: TeacherServer | None = None


class GKDMonitorTrainer(StepMixin, GKDTrainer):
    """Upstream's GKD trainer with our step: every term measured, normalised over the accumulated step."""

    parts: DistillationParts

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._source = DATASET
        self._common: tuple[bool, int] | None = None
        super().__init__(*args, **kwargs)

    def _prepare_resample_data_iterator(self) -> None:
        """Upstream would replace a record that fails to encode by another one; ours are named instead."""

    def _weights(self, mode: str) -> LossWeights:
        weights = super()._weights(mode)
        if mode == "train" and self._source == STUDENT:
            # The student's own samples are no ground truth: they are anchored, not learned.
            return LossWeights(0.0, weights.llm_kd_weight, weights.beta, weights.kd_temperature)
        return weights

    def _has_answers(self, mode: str) -> bool:
        return mode == "eval" or self._source != STUDENT

    def _before_step(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace the answers of a step by sampled ones when its turn is on-policy or sequential KD."""
        sampling = self.parts.sampling
        self._source = choose_source(self.args.seed, self.state.global_step, sampling.lmbda, sampling.seq_kd)
        if self._source == DATASET:
            return batches
        student = self.accelerator.unwrap_model(self.model)
        with nullcontext(student) if self._source == STUDENT else self._loaded_teacher(student) as model:
            return [self._sampled(model, batch, number) for number, batch in enumerate(batches)]

    def _sampled(self, model: nn.Module, batch: dict[str, Any], number: int) -> dict[str, Any]:
        key = (self.args.seed, self.state.global_step, number, self.accelerator.process_index)
        sampled = generate_answers(
            base_of(model),
            self._prepare_inputs(batch),
            temperature=self.parts.sampling.temperature,
            max_new_tokens=self.parts.sampling.max_completion_length,
            tokenizer=self.template.tokenizer,
            key=key,
        )
        if self.parts.sampling.completions is not None:
            self._write_completions(self.parts.sampling.completions, sampled)
        return sampled

    def _write_completions(self, path: Path, sampled: dict[str, Any]) -> None:
        """Append what was sampled, a line each."""
        where = {"step": self.state.global_step + 1, "rank": self.accelerator.process_index, "by": self._source}
        lines = [
            json.dumps({**where, "prompt": prompt, "completion": completion}, ensure_ascii=False) + "\n"
            for prompt, completion in completions(sampled, self.template.tokenizer)
        ]
        with writing(path), path.open("a", encoding="utf-8") as stream:
            stream.write("".join(lines))

    def _teacher(self, student: nn.Module) -> AbstractContextManager[Any]:
        """Context that yields the teacher: the frozen copy, or the student with its adapters off."""
        if self.teacher_model is not None:
            return nullcontext(self.accelerator.unwrap_model(self.teacher_model))
        return _AdaptersOff(student)

    @contextmanager
    def _loaded_teacher(self, student: nn.Module) -> Iterator[Any]:
        """The teacher, on the device also where `rlhf.offload_teacher_model` keeps it elsewhere between its turns."""
        with self._teacher(student) as teacher, self.load_teacher_model_context():
            yield teacher

    def _teacher_side(
        self,
        model: nn.Module,
        needed: bool,
        inputs: dict[str, Any],
        keep: Tensor,
        extras: Mapping[str, Any],
    ) -> Taught | None:
        # Sharded parameters are gathered by all ranks together: there every rank lets the teacher read, or none.
        if not needed and self._visual_kd() is None and not self._reads_together():
            return None
        if self.parts.teacher_server is not None:
            return Taught(None, None, top=self.parts.teacher_server.top_tokens(extras.get("chats", ())))
        cache, entries = self.parts.teacher_cache, extras.get("entries", ())
        if cache is not None:
            rows = cache.rows(entries, base_of(model).config.text_config.hidden_size)
            if rows is not None:
                with self._teacher(model) as teacher:
                    head = head_weight(base_of(teacher))
                return Taught(rows.to(keep.device), head.to(keep.device))
        taught = self._taught(model, inputs, keep)
        if cache is not None:
            assert taught.hidden is not None
            cache.add(entries, taught.hidden)
        return taught

    def _reads_together(self) -> bool:
        """Whether the teacher's forward is a common act of all ranks."""
        return self.is_deepspeed_enabled and any(own.llm_kd_weight for own in self._anchors.values())

    def _taught(self, model: nn.Module, inputs: dict[str, Any], keep: Tensor) -> Taught:
        """The teacher's forward."""
        # Read before the adapters go off, which freezes their tensors.
        tower, layers = self._in_common(model)
        # Before the student's forward: switching adapters toggles `requires_grad` of their tensors.
        with torch.no_grad(), self._loaded_teacher(model) as teacher:
            base = base_of(teacher)
            with (
                without_checkpointing(base, self.args.gradient_checkpointing_kwargs),
                watched(base.model.visual) as mergers,
                kept_after(base.model.language_model, layers) as trunk,
            ):
                hidden = base.model(**inputs, use_cache=False).last_hidden_state
            rows, head = hidden[:, :-1][keep], head_weight(base)
            if self.args.offload_teacher_model:
                head = head.detach()  # stays where it is when the parameter goes
            return Taught(rows, head, mergers, tower, layers, trunk[0] if trunk else None)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's loop; what the teacher said is on disk when it ends, however it ends."""
        cache = self.parts.teacher_cache
        if cache is None:
            return super().train(*args, **kwargs)
        try:
            return super().train(*args, **kwargs)
        finally:
            cache.flush()
            logger.info("teacher cache: %d of %d samples found", cache.hits, cache.hits + cache.misses)

    def build_teacher_cache(self, stopped: Callable[[], bool]) -> None:
        """Let the teacher read every sample of the run once, and keep what it says.

        Epochs differ where something is drawn again in each; the first that shows only samples of earlier ones ends it,
        whatever an interrupted build has left in the folder. stopped: called before every batch; what was computed
        until then is kept.
        """
        cache, parts = self.parts.teacher_cache, self.parts
        assert cache is not None
        self.model.eval()
        train = self.get_train_dataloader()
        per_epoch = max(1, parts.shape.updates(len(parts.schedule)))
        steps = self.args.max_steps if self.args.max_steps > 0 else math.ceil(per_epoch * self.args.num_train_epochs)
        epochs = math.ceil(steps / per_epoch)
        evaluated = (
            self.get_eval_dataloader()
            if self.eval_dataset is not None and (parts.objective.evaluation.llm_kd_weight or self._anchors)
            else []
        )
        console = Console(stderr=True)
        with Progress(disable=not sys.stderr.isatty(), console=console) as bar:
            shown: set[CacheEntry] = set()
            task = bar.add_task("asking the teacher", total=epochs * len(train) + len(evaluated))
            try:
                for loader, epoch in [(evaluated, 0), *((train, number) for number in range(epochs))]:
                    if loader is train:
                        train.batch_sampler.set_epoch(epoch)
                    known = len(shown)
                    for batch in loader:
                        if stopped():
                            return
                        self._ask_teacher(batch, cache)
                        shown.update(batch.get("entries", ()))
                        bar.advance(task)
                    if loader is train and len(shown) == known:
                        return
            finally:
                cache.flush()

    def _is_compared(self, batch: dict[str, Any]) -> bool:
        """Whether a sample of a batch is compared with the teacher."""
        if self.parts.objective.training.llm_kd_weight or "present" not in batch:
            return True
        return any(self._anchors[number].llm_kd_weight for number in batch["present"] if number in self._anchors)

    @torch.no_grad()
    def _ask_teacher(self, batch: dict[str, Any], cache: TeacherCache) -> None:
        self.parts.collator.raise_for_problems(batch)
        entries = batch.get("entries", ())
        if not cache.missing(entries) or not self._is_compared(batch):
            return
        keep = batch["labels"][:, 1:] != IGNORED
        inputs = self._prepare_inputs({name: batch[name] for name in MODEL_INPUTS if name in batch})
        with self.accelerator.autocast():
            model = self.accelerator.unwrap_model(self.model)
            taught = self._taught(model, inputs | segments_of(inputs.get("position_ids")), keep.to(self.args.device))
        assert taught.hidden is not None
        cache.add(entries, taught.hidden)

    def _visual_kd(self) -> VisualKd | None:
        """The term as it applies now."""
        kd = self.parts.objective.visual_kd
        return kd if kd is not None and (self.model.training or kd.in_evaluation) else None

    def _in_common(self, model: nn.Module) -> tuple[bool, int]:
        """(whether the vision tower, how many language layers) run once for both sides.

        Decided at the first step: which parameters train does not change in a run.
        """
        if self._common is None:
            student = base_of(model)
            copy = None if self.teacher_model is None else base_of(self.accelerator.unwrap_model(self.teacher_model))
            teacher = student if copy is None else copy
            self._common = shares_tower(student.model.visual, teacher.model.visual), layers_in_common(student, teacher)
            if self._common[0]:
                logger.info("the vision tower is frozen: it runs once for both sides")
            if self._common[1]:
                logger.info("the lowest %d language layers are frozen: they run once for both sides", self._common[1])
        return self._common

    def _student_side(
        self, base: Any, inputs: dict[str, Any], taught: Taught | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if taught is None:
            return super()._student_side(base, inputs, taught)
        visual, kd = base.model.visual, self._visual_kd()
        seen = bool(taught.mergers.left)
        with ExitStack() as shortcuts:
            if taught.tower_shared and seen:
                shortcuts.enter_context(started_at_mergers(visual, taught.mergers))
            if taught.trunk is not None:
                shortcuts.enter_context(started_after(base.model.language_model, taught.layers, taught.trunk))
            mergers = shortcuts.enter_context(watched(visual))
            hidden, _ = super()._student_side(base, inputs, taught)
        if kd is None or not seen:
            return hidden, {}
        return hidden, feature_distances(mergers.left, taught.mergers.left, kd)


class _AdaptersOff:
    """`with` yields the PEFT model computing as its base; adapters and saved modules are restored on leaving."""

    def __init__(self, model: Any):
        self._model = model
        self._context = model.disable_adapter()

    def __enter__(self) -> Any:
        self._context.__enter__()
        return self._model

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
