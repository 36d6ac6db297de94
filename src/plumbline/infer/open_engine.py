"""The engine of a planned run; this is where torch and weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from plumbline.batch.lengths import PixelLimits
from plumbline.errors import ConfigError, Problem
from plumbline.infer.config import RunSettings
from plumbline.infer.engine import Engine
from plumbline.model.checkpoints import Card


class EnginePlan(Protocol):
    """What a run's plan knows about its engine."""

    @property
    def settings(self) -> RunSettings: ...
    @property
    def model(self) -> Path: ...
    @property
    def adapter(self) -> Path | None: ...
    @property
    def card(self) -> Card: ...


def open_engine(plan: EnginePlan, on_text: Callable[[str], None] | None = None) -> Engine:
    """Servers where there are any, else the weights, run as the settings say.

    on_text: hears the text of a reply as it grows, from the engine that decodes here (`transformers`).
    """
    settings, max_pixels = plan.settings, plan.card.max_pixels
    if settings.servers:
        from plumbline.infer.served import OpenAIEngine

        limits = PixelLimits.of_folder(plan.model, max_pixels)
        return OpenAIEngine(settings.servers, settings.served_model, limits=limits)
    if settings.engine == "vllm":
        from plumbline.infer.vllm import VllmEngine

        if plan.adapter is not None:
            what = "vllm leaves out what an adapter changes in the vision encoder"
            raise ConfigError(Problem("--engine", what, "merge it first (plumbline merge)"))
        trained = plan.card.max_length
        longest = None if trained is None else trained + settings.sampling.max_new_tokens
        longest = settings.max_model_len or longest
        return VllmEngine(plan.model, max_pixels=max_pixels, max_length=longest, dtype=settings.dtype)
    from plumbline.infer.local import TransformersEngine

    engine = TransformersEngine(
        plan.model,
        plan.adapter,
        batch_size=settings.batch_size,
        max_pixels=max_pixels,
        dtype=settings.dtype,
        attn_impl=settings.attn_impl,
    )
    engine.on_text = on_text
    return engine
