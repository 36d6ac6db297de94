"""The part of a training step that plain fine-tuning and distillation share.

`StepMixin` sits in front of an upstream trainer. It feeds batches that dataloader workers have encoded, computes the
objective from hidden rows of supervised tokens (never the logits of a batch), normalises it over the whole accumulated
step of all ranks, measures it with sums, and drops a step whose gradient is not finite.
"""

from __future__ import annotations

import itertools
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.data_loader import SkipBatchSampler
from torch import Tensor, nn
from transformers.trainer_utils import rotate_checkpoints, seed_worker

from plumbline.batch.schedule import EpochBatches, Schedule, StepShape
from plumbline.data.answer_kinds import KINDS
from plumbline.errors import EXIT_FAILURE, OutputError, Problem, UserError
from plumbline.model.checkpoints import Card, saving
from plumbline.model.packed_attention import SEGMENTS, segments_of
from plumbline.model.upstream import (
    DataLoaderMixin,
    DataLoaderShard,
    ForwardRedirection,
    HfTrainer,
    PrinterCallback,
    ProgressCallback,
    TensorBoardCallback,
    gathered,
)
from plumbline.train.batches import IGNORED, BatchCollator
from plumbline.train.callbacks import EpochAccount, RestoreDrift, finish_checkpoint
from plumbline.train.drift import DriftControl
from plumbline.train.objective import nonfinite
from plumbline.train.objective.features import visual_tokens, watched
from plumbline.train.objective.grouped import TeacherRows, grouped_terms
from plumbline.train.objective.nonfinite import fault_flags
from plumbline.train.objective.taught import Taught
from plumbline.train.objective.terms import HeadTerms, head_terms
from plumbline.train.objective.weights import LossWeights, Objective
from plumbline.train.step_lines import StepLines
from plumbline.train.telemetry import Meter, window_metrics

logger = logging.getLogger(__name__)

MAX_NONFINITE_STEPS = 5


class DivergedError(UserError):
    """The loss or its gradient stayed non-finite."""

    exit_code = EXIT_FAILURE


@dataclass(frozen=True)
class SaveDelay:
    """No checkpoint before this many steps and epochs."""

    steps: int = 0
    epochs: float = 0.0


NO_DELAY = SaveDelay()


@dataclass(frozen=True)
class TrainerParts:
    """What our trainers need beyond upstream's own arguments; `card` goes into every checkpoint."""

    collator: BatchCollator
    schedule: Schedule
    shape: StepShape
    account: EpochAccount
    card: Card
    objective: Objective
    callbacks: tuple[Any, ...] = ()
    sources: tuple[str, ...] = ()
    save_delay: SaveDelay = NO_DELAY
    drift: DriftControl | None = None


class _Rows(NamedTuple):
    """Where the supervised rows of a batch come from. sources: [N], None with one source; present: their numbers."""

    sources: Tensor | None
    present: tuple[int, ...]


class OncePrefixedTensorBoard(TensorBoardCallback):
    """TensorBoard tags equal our own names: upstream's writer would turn `train/x` into `train/train/x`."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write numbers only, `train/x` as `train/x` and `eval/x` as `eval/x`."""
        named = {}
        for key, value in (logs or {}).items():
            if isinstance(value, int | float):
                named[key.replace("eval/", "eval_", 1).removeprefix("train/")] = value
        super().on_log(args, state, control, logs=named, **kwargs)


def base_of(model: Any) -> Any:
    """The Qwen3-VL model under a PEFT wrapper (or itself)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_weight(base: Any) -> Tensor:
    """The active output head [V, H]; a head saved in full counts with its adapter state."""
    head = base.lm_head
    if hasattr(head, "modules_to_save"):
        head = head.original_module if head.disable_adapters else head.modules_to_save[head.active_adapter]
    return head.weight


def _feature_amounts(distances: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """Sums of the visual distances; a batch without pictures has none."""
    amounts = {f"visual/{name}": value.detach() for name, value in distances.items()}
    return amounts | {f"visual_tokens/{name}": tokens for name in distances}


def _kind_amounts(terms: HeadTerms, kinds: Tensor) -> dict[str, Tensor]:
    """Hits by what the tokens say; kinds: [N], numbers of `KINDS`."""
    amounts: dict[str, Tensor] = {}
    for number, name in enumerate(KINDS):
        mine = kinds == number
        amounts |= {f"hits/{name}": terms.row_hits[mine].sum(), f"tokens/{name}": mine.sum()}
    return amounts


class StepMixin(DataLoaderMixin):
    """Put before an upstream trainer class; see the module's text."""

    def __init__(self, *args: Any, parts: TrainerParts, **kwargs: Any) -> None:
        self.parts = parts
        self._meters = {mode: Meter(parts.sources) for mode in ("train", "eval")}
        named = {name: number for number, name in enumerate(parts.sources)}
        self._anchors = {named[name]: own for name, own in parts.objective.anchors.items() if name in named}
        self._nonfinite_in_a_row = 0
        self._step_faults: Tensor | None = None
        self._step_visual_tokens: Tensor | int = 1
        self._redirect = ForwardRedirection()
        super().__init__(*args, **kwargs)
        # Upstream removes old checkpoints before the new one is whole, and at the end, with a limit of 1, the last one.
        self._kept_checkpoints, self.args.save_total_limit = self.args.save_total_limit, None
        self.model_accepts_loss_kwargs = True  # the loss below is already normalised over the accumulated step
        # Every forward goes through `_objective`, which calls the inner model: upstream's hook has nothing to do there.
        self.template.register_post_encode_hook = lambda models: None
        self._install_callbacks()

    def _install_callbacks(self) -> None:
        for callback in self.parts.callbacks:
            self.add_callback(callback)
        if self.parts.drift is not None:
            self.add_callback(RestoreDrift(self.parts.drift))
        boards = [c for c in self.callback_handler.callbacks if isinstance(c, TensorBoardCallback)]
        for board in boards:
            self.remove_callback(board)
        if boards:
            self.add_callback(OncePrefixedTensorBoard())
        # The writer of logging.jsonl adds strings to the logs; it comes last so that everybody else sees numbers.
        talkers = [c for c in self.callback_handler.callbacks if isinstance(c, ProgressCallback | PrinterCallback)]
        for callback in talkers:
            self.remove_callback(callback)
        self.add_callback(StepLines(self.parts.account, with_bar=not self.args.disable_tqdm))

    def _get_data_collator(self, args: Any, template: Any) -> BatchCollator:
        return self.parts.collator

    def get_train_dataloader(self, skip_batches: int = 0) -> Any:
        """This rank's micro-batches, keyed by sample, epoch and step; `skip_batches` of them are behind a resumed run.

        The place of upstream's own loader, whose samples carry no keys.
        """
        args = self.args
        batches = EpochBatches(self.parts.schedule, self.parts.shape, self.accelerator.process_index)
        return DataLoaderShard(
            self.train_dataset,
            device=self.accelerator.device,
            batch_sampler=SkipBatchSampler(batches, skip_batches) if skip_batches else batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=args.dataloader_num_workers, rank=self.accelerator.process_index
            ),
        )

    # -- batches -----------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> tuple[list, Tensor | None]:
        """The micro-batches of one optimiser step and their supervised tokens over all ranks."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        for batch in batches:
            self.parts.collator.raise_for_problems(batch)
            self.parts.account.add(batch.pop("tally"))
        batches = self._before_step(batches)
        counts = [(batch["labels"][:, 1:] != IGNORED).sum() for batch in batches]
        visual = [self._visual_tokens(batch) for batch in batches]
        both = torch.stack([torch.stack(part).sum() if part else torch.zeros(()).long() for part in (counts, visual)])
        totals = self.accelerator.gather(both.to(device)[None]).sum(0).clamp(min=1)
        self._step_visual_tokens = totals[1]
        return batches, totals[0]

    def _before_step(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Hook for on-policy data; plain training takes the batches as they are."""
        return batches

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return HfTrainer._prepare_inputs(self, inputs)

    # -- the objective -----------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective of one micro-batch, normalised over `num_items_in_batch` supervised tokens of all ranks."""
        mode = "train" if self.model.training else "eval"
        labels = inputs.pop("labels")
        sources, kinds = inputs.pop("sources", None), inputs.pop("kinds", None)
        extras: dict[str, Any] = {name: inputs.pop(name) for name in ("entries", "chats", "present") if name in inputs}
        counted = labels[:, 1:] != IGNORED
        rows = _Rows(None if sources is None else sources[:, 1:][counted], tuple(extras.pop("present", ())))
        kinds = None if kinds is None else kinds[:, 1:][counted]
        for name in ("problems", "tally"):
            inputs.pop(name, None)
        weights = self._weights(mode)
        unwrapped = self.accelerator.unwrap_model(model)
        terms, tokens, distances, flags = self._redirect(
            model,
            unwrapped,
            lambda **tensors: self._objective(unwrapped, labels, weights, tensors, extras, kinds, rows),
            **inputs,
        )
        visual = self._visual_tokens(inputs)
        self._note_faults(mode, flags)
        amounts = self._amounts(mode, terms, tokens) | _feature_amounts(distances, visual)
        if rows.sources is not None and self._has_answers(mode):
            amounts |= self._source_amounts(terms, rows.sources)
        if self._anchors and rows.sources is not None:
            amounts |= self._learned_amounts(mode, terms, rows.sources, weights)
        if kinds is not None:
            amounts |= _kind_amounts(terms, kinds)
        self._measure(mode, amounts, flags, tokens)
        features = self._feature_weight() * torch.stack([*distances.values()]).sum() if distances else 0.0
        if num_items_in_batch is None:
            return terms.objective / tokens.clamp(min=1) + features / visual.clamp(min=1)
        # Gradients are averaged over processes, sums are not: undo the division.
        loss = terms.objective / num_items_in_batch + features / self._step_visual_tokens
        loss = loss * self.accelerator.num_processes
        return loss + self._regularisation(unwrapped) / self.current_gradient_accumulation_steps

    def _visual_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """Features that enter the language model for the pictures of a batch, a scalar."""
        grid = inputs.get("image_grid_thw")
        if grid is None:
            return torch.zeros((), dtype=torch.long, device=inputs["input_ids"].device)
        return visual_tokens(grid, base_of(self.accelerator.unwrap_model(self.model)).config.vision_config)

    def _feature_weight(self) -> float:
        kd = self.parts.objective.visual_kd
        return 0.0 if kd is None else kd.weight

    def _weights(self, mode: str) -> LossWeights:
        """Weights of the terms; on-policy steps have their own."""
        return self.parts.objective.training if mode == "train" else self.parts.objective.evaluation

    def _objective(
        self,
        model: nn.Module,
        labels: Tensor,
        weights: LossWeights,
        inputs: dict[str, Any],
        extras: Mapping[str, Any],
        kinds: Tensor | None,
        given: _Rows,
    ) -> tuple[HeadTerms, Tensor, dict[str, Tensor], Tensor]:
        """Runs inside the wrapped forward, so that gradients of all ranks synchronise; the last are `fault_flags`."""
        inputs = inputs | segments_of(inputs.get("position_ids"))
        with self.accelerator.autocast():
            targets = labels[:, 1:]
            keep = targets != IGNORED
            groups = self._groups(weights, given)
            needed = any(own.llm_kd_weight for _, own in groups)
            taught = self._teacher_side(model, needed, inputs, keep, extras)
            base = base_of(model)
            with watched(base.model.visual) as mergers:
                hidden, distances = self._student_side(base, inputs, taught)
            hidden = hidden + self._unused_vision(base, inputs)
            rows, head = hidden[:, :-1][keep], head_weight(base)
            teacher = None
            if taught is not None:
                counted = None if kinds is None else self._token_weights(kinds)
                teacher = TeacherRows(taught.hidden, taught.head, counted, taught.top)
            with gathered([head] if taught is None or taught.head is None else [head, taught.head]):
                terms = self._terms(rows, head, targets[keep], groups, teacher)
            flags = fault_flags(terms, distances, mergers, rows, () if taught is None else taught.tensors())
        return terms, keep.sum(), distances, flags

    def _groups(self, weights: LossWeights, given: _Rows) -> list[tuple[Tensor | None, LossWeights]]:
        """(rows, their weights) of the run's own sources and of each anchor in the batch; None stands for all rows."""
        if not self._anchors or given.sources is None:
            return [(None, weights)]
        groups: list[tuple[Tensor | None, LossWeights]] = []
        anchored = torch.zeros_like(given.sources, dtype=torch.bool)
        for number, own in self._anchors.items():
            if number in given.present:
                own = self._anchor_weights(own)
                mine = given.sources == number
                anchored |= mine
                groups.append((mine.nonzero()[:, 0], own))
        if any(number not in self._anchors for number in given.present):
            groups.append(((~anchored).nonzero()[:, 0], weights))
        return groups

    def _anchor_weights(self, own: LossWeights) -> LossWeights:
        """Of an anchor now: in evaluation its drift is measured, forward KL whatever it is trained with."""
        if not self.model.training:
            return LossWeights(1.0, float(self.parts.objective.anchored_evaluation), 0.0, 1.0)
        drift = self.parts.drift
        return own if drift is None else replace(own, llm_kd_weight=own.llm_kd_weight * drift.factor)

    def _terms(
        self,
        rows: Tensor,
        head: Tensor,
        targets: Tensor,
        groups: list[tuple[Tensor | None, LossWeights]],
        teacher: TeacherRows | None,
    ) -> HeadTerms:
        everyone, weights = groups[0]
        if everyone is None:
            side = teacher or TeacherRows()
            return head_terms(rows, head, targets, weights, side.rows, side.head, side.counted, side.top)
        return grouped_terms(rows, head, targets, [(index, own) for index, own in groups if index is not None], teacher)

    def _teacher_side(
        self,
        model: nn.Module,
        needed: bool,
        inputs: dict[str, Any],
        keep: Tensor,
        extras: Mapping[str, Any],
    ) -> Taught | None:
        """The teacher's side of a batch; plain fine-tuning has none.

        needed: whether a row of the batch is compared with the teacher's prediction; keep: [B, L - 1], rows whose next
        token counts; extras: what the batch holds besides tensors: `entries`, its samples in the teacher's cache, or
        `chats`, its samples as a server receives them.
        """
        return None

    def _student_side(
        self, base: Any, inputs: dict[str, Any], taught: Taught | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(hidden rows [B, L, H], distance of each visual target summed over visual tokens)."""
        return base.model(**inputs, use_cache=False).last_hidden_state, {}

    def _unused_vision(self, base: Any, inputs: dict[str, Any]) -> Tensor | float:
        """Zero that depends on the vision side: ranks without an image must still take part in its all-reduce."""
        alone = self.accelerator.num_processes == 1 and not self._needs_every_gradient()
        if "pixel_values" in inputs or alone or not self.model.training:
            return 0.0
        vision = base.config.vision_config
        side = vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.zeros(side * side, width, dtype=base.dtype, device=self.accelerator.device)
        grid = torch.tensor([[1, side, side]], device=self.accelerator.device)
        features = base.model.get_image_features(pixels, grid, return_dict=True)
        tensors = [*features.pooler_output, *itertools.chain(*features.deepstack_features)]
        return 0.0 * sum(tensor.float().sum() for tensor in tensors)

    def _needs_every_gradient(self) -> bool:
        """AdaLoRA ranks its directions by gradients and stops at a missing one."""
        return any(hasattr(config, "orth_reg_weight") for config in getattr(self.model, "peft_config", {}).values())

    def _regularisation(self, model: nn.Module) -> Tensor | float:
        """AdaLoRA's orthogonality penalty, which PEFT adds only to a loss that the full forward computed.

        Zhang et al. 2023, arXiv 2303.10512, eq. 4; PEFT's AdaLoraModel.forward.
        """
        config = getattr(model, "peft_config", {}).get("default")
        weight = getattr(config, "orth_reg_weight", 0.0) or 0.0
        if not weight:
            return 0.0
        penalties = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("lora_A" in name or "lora_B" in name):
                gram = parameter @ parameter.t() if "lora_A" in name else parameter.t() @ parameter
                penalties.append(torch.linalg.norm(gram - torch.eye(gram.shape[0], device=gram.device)))
        return weight * torch.stack(penalties).mean() if penalties else 0.0

    def _has_answers(self, mode: str) -> bool:
        """Whether the supervised tokens are answers to learn, so that their raw CE says something."""
        return True

    def _note_faults(self, mode: str, flags: Tensor) -> None:
        """Keep the flags of a training step until its gradient is known."""
        if mode == "train":
            self._step_faults = flags if self._step_faults is None else torch.maximum(self._step_faults, flags)

    def _measure(self, mode: str, amounts: dict[str, Tensor], flags: Tensor, tokens: Tensor) -> None:
        """Add a micro-batch to the meter; one that is not finite is counted apart, its NaN would blot out the rest.

        tokens: all supervised ones of the batch, anchors included.
        """
        bad = flags.any()
        kept = {name: torch.where(bad, torch.zeros_like(amount), amount) for name, amount in amounts.items()}
        kept["nonfinite_tokens"] = torch.where(bad, tokens, torch.zeros_like(tokens))
        self._meters[mode].add(**kept, **dict(zip(nonfinite.NAMES, flags, strict=True)))

    def _amounts(self, mode: str, terms: HeadTerms, tokens: Tensor) -> dict[str, Tensor]:
        """The sums of the objective and its two terms."""
        amounts = {"objective": terms.objective.detach(), "kd": terms.kd, "tokens": tokens, "hits": terms.hits}
        return amounts | ({"ce": terms.ce, "ce_tokens": tokens} if self._has_answers(mode) else {})

    def _source_amounts(self, terms: HeadTerms, sources: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of each data source; sources: [N], the source of each supervised row."""
        amounts: dict[str, Tensor] = {}
        for number, name in enumerate(self.parts.sources):
            mine = sources == number
            amounts |= {f"ce/{name}": terms.row_ce[mine].sum(), f"ce_tokens/{name}": mine.sum()}
            if number in self._anchors:
                weights = self._anchor_weights(self._anchors[number])
                amounts[f"kd/{name}"] = terms.row_kd[mine].sum() * weights.llm_kd_weight
        return amounts

    def _learned_amounts(self, mode: str, terms: HeadTerms, sources: Tensor, weights: LossWeights) -> dict[str, Tensor]:
        """What anchors must not change: the figures of learning are those of the rows that are learned.

        In evaluation the objective is theirs alone: an anchor does not decide which checkpoint is the best.
        """
        learned = torch.ones_like(sources, dtype=torch.bool)
        weighted = terms.row_kd * weights.llm_kd_weight
        for number, own in self._anchors.items():
            mine = sources == number
            learned &= ~mine
            weighted = torch.where(mine, terms.row_kd * self._anchor_weights(own).llm_kd_weight, weighted)
        amounts = {"kd": weighted.sum()}
        if self._has_answers(mode):
            amounts |= {"ce": terms.row_ce[learned].sum(), "ce_tokens": learned.sum()}
        if mode == "eval":
            ce, kd = terms.row_ce[learned].sum(), weighted[learned].sum()
            amounts |= {"objective": weights.sft_alpha * ce + kd, "kd": kd, "tokens": learned.sum()}
            amounts["hits"] = terms.row_hits[learned].sum()
        return amounts

    def _token_weights(self, kinds: Tensor) -> Tensor:
        """Weights of the distillation term [N]; kinds: [N], numbers of `KINDS`."""
        return torch.tensor(self.parts.objective.token_weights, dtype=torch.float32, device=kinds.device)[kinds]

    # -- steps -------------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch forward and backward; a non-finite loss is not added to the running one (it never leaves)."""
        loss = HfTrainer.training_step(self, model, inputs, num_items_in_batch)
        return torch.where(torch.isfinite(loss), loss, torch.zeros_like(loss))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm; a step whose norm is not finite is dropped, counted, and ends the run when it repeats."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        value = float(norm) if norm is not None else 0.0
        flags, self._step_faults = self._step_faults, None
        self._meters["train"].add(steps=1.0)
        scaled = self.accelerator.scaler is not None
        # fp16: the scaler looks for its scale by overflowing, and skips such steps itself; a loss never overflows so.
        if math.isfinite(value) or (scaled and (flags is None or not nonfinite.over_ranks(flags).any())):
            self._nonfinite_in_a_row = 0
            return norm
        self._drop_step(value, flags)
        if not scaled:
            keep = self._needs_every_gradient()
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if keep and parameter.requires_grad else None
        return norm

    def _drop_step(self, norm: float, flags: Tensor | None) -> None:
        """Count a step that is not finite and warn; raise DivergedError when too many come in a row."""
        self._meters["train"].add(nonfinite=1.0)
        self._nonfinite_in_a_row += 1
        step = self.state.global_step + 1
        counts = dict.fromkeys(nonfinite.NAMES, 0.0)
        if flags is not None:
            counts = dict(zip(nonfinite.NAMES, nonfinite.over_ranks(flags).tolist(), strict=True))
        cause = nonfinite.where_from(counts) or "the loss is finite, it overflows on the way back"
        logger.warning("step %d: the gradient is not finite (norm %s): %s; the step is skipped", step, norm, cause)
        if self._nonfinite_in_a_row >= MAX_NONFINITE_STEPS or self.is_deepspeed_enabled:
            raise DivergedError(
                Problem(
                    f"step {step}",
                    f"{self._nonfinite_in_a_row} step(s) in a row had a non-finite gradient: {cause}",
                    "lower training.learning_rate, check the data (`plumbline data check`), or train in bf16/fp32",
                )
            )

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Loss of one evaluation batch; the exact, token-weighted figures come from the meter."""
        self.parts.collator.raise_for_problems(inputs)
        inputs = self._prepare_inputs(inputs)
        self._ignore_repeated_samples(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def _ignore_repeated_samples(self, inputs: dict[str, Any]) -> None:
        """Ranks get equal numbers of batches by repeating samples at the end of the set: those must not count twice."""
        gradient_state = self.accelerator.gradient_state
        rest = gradient_state.remainder if gradient_state.end_of_dataloader else 0
        if self.accelerator.num_processes == 1 or rest <= 0:
            return
        kept = max(rest - self.accelerator.process_index * self.args.per_device_eval_batch_size, 0)
        if "entries" in inputs:
            inputs["entries"] = inputs["entries"][:kept]
        segments = segments_of(inputs.get("position_ids")).get(SEGMENTS)
        if segments is None:
            inputs["labels"][kept:] = IGNORED
        else:
            inputs["labels"][:, sum(segments[:kept]) :] = IGNORED

    # -- logging and saving ------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the window's metrics to upstream's own log line."""
        if "loss" in logs and self.model.training:
            sums = self._meters["train"].reduce_and_reset(self.accelerator.device)
            logs.update(self._window_metrics(sums, "train", self.parts.objective.training))
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluation whose `eval_loss` is the token-weighted objective, not a mean of batch means."""
        self._meters["eval"] = Meter(self.parts.sources)
        output = super().evaluation_loop(*args, **kwargs)
        sums = self._meters["eval"].reduce_and_reset(self.accelerator.device)
        metrics = self._window_metrics(sums, "eval", self.parts.objective.evaluation)
        output.metrics["eval_loss"] = metrics.get("eval/loss", output.metrics["eval_loss"])
        output.metrics.update(metrics)
        if sums["nonfinite_tokens"] and self.accelerator.is_main_process:
            logger.warning(
                "evaluation at step %d: %d of %d supervised tokens had no finite loss (%s); the figures are of the "
                "rest, and this checkpoint cannot become the best",
                self.state.global_step,
                sums["nonfinite_tokens"],
                metrics["eval/token_count"],
                nonfinite.where_from(sums),
            )
        if self.parts.drift is not None:
            output.metrics.update(self.parts.drift.assess(metrics, self.state.global_step))
            if self.parts.drift.on_budget == "stop" and self.parts.drift.is_exceeded(output.metrics):
                self.control.should_save = self.control.should_training_stop = True
        finite = {name: value for name, value in output.metrics.items() if math.isfinite(value)}
        return output._replace(metrics=finite)

    def _window_metrics(self, sums: dict[str, float], mode: str, weights: LossWeights) -> dict[str, float]:
        # With anchors the sum is weighted already: each source has its own factor.
        held = [
            self.parts.sources[number] for number, own in self._anchors.items() if own.llm_kd_weight or mode == "eval"
        ]
        weight = float(weights.llm_kd_weight > 0 or bool(held and mode == "train"))
        return window_metrics(
            sums,
            mode,
            llm_kd_weight=weight if self._anchors else weights.llm_kd_weight,
            visual_kd_weight=self._feature_weight(),
            anchors=held if mode == "train" or self.parts.objective.anchored_evaluation else (),
        )

    def delays_saving(self) -> bool:
        """True while `custom.save_delay_*` holds checkpoints back."""
        epoch = self.state.epoch or 0.0
        return self.state.global_step < self.parts.save_delay.steps or epoch < self.parts.save_delay.epochs

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # An evaluation inside the delay must not become the best: nothing was saved, and it would block a later best.
        # Nor may one that left out a part of the set: its mean is over other tokens than those it is compared with.
        if self.delays_saving() or metrics.get("eval/nonfinite_tokens"):
            return False
        if self.parts.drift is not None and self.parts.drift.is_exceeded(metrics):
            return False
        # `metric_for_best_model: token_acc` means our `eval/token_acc`; upstream looks for `eval_token_acc`.
        ours = {key.replace("eval/", "eval_", 1): value for key, value in metrics.items() if key.startswith("eval/")}
        return super()._determine_best_metric({**ours, **metrics}, trial)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        last = self.state.global_step >= self.state.max_steps or self.control.should_training_stop
        if self.delays_saving() and not last:
            logger.info("step %d: saving is delayed by custom.save_delay_*", self.state.global_step)
            return
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            with saving(folder):
                super()._save_checkpoint(*args, **kwargs)
                finish_checkpoint(folder, self.parts.card)
        except OutputError:
            shutil.rmtree(folder, ignore_errors=True)  # a torn checkpoint serves nobody, and its room is needed
            raise
        # Older checkpoints go only after this one is whole: a kill in between must leave one to go on from.
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=self._kept_checkpoints,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
