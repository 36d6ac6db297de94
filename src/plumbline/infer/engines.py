"""The engine that a command's flags ask for; this is where torch and weights are loaded."""

from __future__ import annotations

from pathlib import Path

from plumbline.batch.lengths import PixelLimits
from plumbline.infer.engine import Engine


def open_engine(
    model: Path,
    adapter: Path | None,
    *,
    batch_size: int,
    max_pixels: int | None,
    servers: tuple[str, ...] = (),
    served_model: str | None = None,
) -> Engine:
    """Servers where there are any, else the model in this process."""
    if servers:
        from plumbline.infer.served import OpenAIEngine

        return OpenAIEngine(servers, served_model, limits=PixelLimits.of_folder(model, max_pixels))
    from plumbline.infer.local import TransformersEngine

    return TransformersEngine(model, adapter, batch_size=batch_size, max_pixels=max_pixels)
