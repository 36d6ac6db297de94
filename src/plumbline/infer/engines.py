"""The engine of a planned run; this is where torch and weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from plumbline.batch.lengths import PixelLimits
from plumbline.infer.engine import Engine
from plumbline.model.checkpoints import Card


class EngineSettings(Protocol):
    """What a run's settings say about its engine."""

    @property
    def batch_size(self) -> int: ...
    @property
    def servers(self) -> tuple[str, ...]: ...
    @property
    def served_model(self) -> str | None: ...


class EnginePlan(Protocol):
    """What a run's plan knows about its engine."""

    @property
    def settings(self) -> EngineSettings: ...
    @property
    def model(self) -> Path: ...
    @property
    def adapter(self) -> Path | None: ...
    @property
    def card(self) -> Card: ...


def open_engine(plan: EnginePlan) -> Engine:
    """Servers where there are any, else the model in this process."""
    settings, max_pixels = plan.settings, plan.card.max_pixels
    if settings.servers:
        from plumbline.infer.served import OpenAIEngine

        limits = PixelLimits.of_folder(plan.model, max_pixels)
        return OpenAIEngine(settings.servers, settings.served_model, limits=limits)
    from plumbline.infer.local import TransformersEngine

    return TransformersEngine(plan.model, plan.adapter, batch_size=settings.batch_size, max_pixels=max_pixels)
