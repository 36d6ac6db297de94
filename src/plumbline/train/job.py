"""A checked run as what a pipeline takes: typed groups, each built once."""

from __future__ import annotations

from pathlib import Path

from plumbline.data.answer_kinds import KINDS
from plumbline.data.epoch import EpochDataset
from plumbline.train.callbacks import Observer
from plumbline.train.config import RlhfConfig, TrainRun
from plumbline.train.datasets import TrainingPlan
from plumbline.train.drift import PROBE, DriftControl
from plumbline.train.objective.features import VisualKd
from plumbline.train.objective.weights import LossWeights, Objective
from plumbline.train.pipeline import Distillation, Job
from plumbline.train.preflight import card_of, teacher_plan
from plumbline.train.rollout import SamplingSettings
from plumbline.train.step import SaveDelay
from plumbline.train.targets import TrainingTargets

COMPLETIONS = "completions.jsonl"
"""In the run folder: what was sampled, with rlhf.log_completions."""


def job_of(
    run: TrainRun,
    plan: TrainingPlan,
    val: EpochDataset | None,
    observers: tuple[Observer, ...] = (),
    *,
    only_teacher_cache: bool = False,
) -> Job:
    """What a pipeline takes from a checked run.

    Args:
        run: The run.
        plan: Its samples and their order.
        val: Its validation samples.
        observers: Look at the run after each evaluation.
        only_teacher_cache: The teacher reads the samples, nothing trains.
    """
    custom, folder = run.custom, Path(run.upstream["output_dir"])
    return Job(
        run=run,
        plan=plan,
        val=val,
        card=card_of(run),
        targets=TrainingTargets.of(run.upstream),
        objective=objective_of(run),
        strict=custom.strict,
        packing=bool(run.upstream.get("packing")),
        save_delay=SaveDelay(custom.save_delay_steps or 0, custom.save_delay_epochs or 0.0),
        weights_from=run.weights_from,
        max_pixels=run.upstream.get("max_pixels"),
        dump_conversation=folder / "conversation.txt" if custom.dump_conversation_text else None,
        drift=drift_of(run),
        observers=observers,
        distillation=_distillation_of(run, only_cache=only_teacher_cache),
    )


def objective_of(run: TrainRun) -> Objective:
    """What a run minimises, in training and in evaluation."""
    rlhf, custom = run.rlhf, run.custom
    if rlhf is None:
        return Objective(anchors=_anchors(run, 0.5, 1.0))
    training = LossWeights(rlhf.sft_alpha, rlhf.llm_kd_weight, rlhf.beta, rlhf.kd_temperature)
    plain = LossWeights(rlhf.sft_alpha or 1.0, 0.0, rlhf.beta, rlhf.kd_temperature)
    visual, tokens = custom.visual_kd, rlhf.token_weights
    return Objective(
        training=training,
        evaluation=training if custom.eval_teacher else plain,
        visual_kd=VisualKd(visual.weight, visual.targets, visual.distance, custom.eval_teacher)
        if visual.enabled
        else None,
        token_weights=None if tokens is None else tuple(getattr(tokens, kind) for kind in KINDS),
        anchors=_anchors(run, rlhf.beta, rlhf.kd_temperature),
        anchored_evaluation=custom.eval_teacher,
    )


def drift_of(run: TrainRun) -> DriftControl | None:
    """The budget of a run, where it has one."""
    drift = run.custom.drift
    return None if drift is None else DriftControl(drift.budget, drift.on_budget)


def _anchors(run: TrainRun, beta: float, temperature: float) -> dict[str, LossWeights]:
    """Weights of the sources that are anchors: held to the base, not learned, unless they say otherwise."""
    fusion, drift = run.custom.fusion, run.custom.drift
    probe = {} if drift is None or drift.probe is None else {PROBE: LossWeights(0.0, 1.0, 0.0)}
    return probe | {
        source.name: LossWeights(
            *source.anchor_weights,
            beta if source.beta is None else source.beta,
            temperature,
        )
        for source in (() if fusion is None else fusion.sources)
        if source.is_anchor
    }


def _distillation_of(run: TrainRun, *, only_cache: bool) -> Distillation | None:
    plan, rlhf = teacher_plan(run), run.rlhf
    if plan is None or rlhf is None:
        return None
    cache = None if rlhf.teacher_cache is None else Path(rlhf.teacher_cache)
    return Distillation(plan, _sampling_of(run, rlhf), cache, only_cache)


def _sampling_of(run: TrainRun, rlhf: RlhfConfig) -> SamplingSettings:
    logged = Path(run.upstream["output_dir"]) / COMPLETIONS if run.upstream.get("log_completions") else None
    return SamplingSettings(rlhf.lmbda, rlhf.seq_kd, rlhf.temperature, rlhf.max_completion_length, logged)
