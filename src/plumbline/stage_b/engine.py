"""The engine of a Stage-B run; this is where weights are loaded."""

from __future__ import annotations

from pathlib import Path

from plumbline.errors import DataError, Problem, UserError
from plumbline.infer.engine import Engine
from plumbline.infer.plan import find_weights
from plumbline.infer.replay import ReplayEngine
from plumbline.infer.runner import ERROR
from plumbline.model.checkpoints import weights_stamp
from plumbline.stage_b.config import EngineConfig
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_recorded

WINDOW_REPLAYED = 256
WINDOW_SERVED = 64


def open_verdict_engine(config: EngineConfig) -> Engine:
    """Servers where there are any, else what `kind` says. Raises UserError for what cannot be opened."""
    if config.servers:
        from plumbline.infer.served import OpenAIEngine

        return OpenAIEngine(config.servers, config.served_model)
    if config.kind == "replay":
        assert config.replies is not None
        return ReplayEngine(recorded_replies(Path(config.replies)), f"replay of {Path(config.replies).name}")
    assert config.model is not None
    model, adapter, _ = find_weights(Path(config.model), None if config.adapter is None else Path(config.adapter))
    if config.kind == "vllm":
        from plumbline.infer.vllm import VllmEngine

        return VllmEngine(model)
    from plumbline.infer.local import TransformersEngine

    return TransformersEngine(model, adapter, batch_size=config.batch_size)


def recorded_replies(path: Path) -> dict[str, str]:
    """key -> text of recorded replies: rows with `text`, or trajectories."""
    return {row["key"]: _text(row, path) for row in read_recorded(path) if not row["status"].startswith(ERROR)}


def _text(row: JsonObject, path: Path) -> str:
    result = row.get("result")
    text = result.get("text") if isinstance(result, dict) else row.get("text")
    if not isinstance(text, str):
        raise DataError(Problem(str(path), f"the row {row['key']!r} has no text"))
    return text


def window_of(config: EngineConfig) -> int:
    """Questions prepared at a time."""
    if config.servers:
        return WINDOW_SERVED
    return WINDOW_REPLAYED if config.kind == "replay" else 2 * config.batch_size


def who_answers(config: EngineConfig) -> JsonObject:
    """What makes replies comparable. Of servers only the model's name is known."""
    if config.servers:
        return {"model": config.served_model or "served"}
    if config.kind == "replay":
        return {"model": f"replay of {config.replies}"}
    adapter = None if config.adapter is None else str(Path(config.adapter).resolve())
    return {"model": str(Path(config.model or "").resolve()), "adapter": adapter, "weight_files": _stamps(config)}


def _stamps(config: EngineConfig) -> list[str]:
    """Of the weights: other ones may have been written to the same folder. Empty where there are none, as on a machine
    that only shows a run."""
    try:
        model, adapter, _ = find_weights(Path(config.model or ""), Path(config.adapter) if config.adapter else None)
    except UserError:
        return []
    return [weights_stamp(folder) for folder in (model, adapter) if folder is not None]
