"""What a run will ask, told before anything is loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from plumbline.infer.rows import read_heads
from plumbline.infer.work import ERROR
from plumbline.stage_b.guidance import prompt_of
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.rollout import candidates_of, question

TOKENS_PER_CHARACTER = 0.8
"""Of Chinese text in Qwen's vocabulary, rounded up; ASCII takes fewer."""


@dataclass(frozen=True)
class Estimate:
    """calls: questions that are left, the gate's for every edit included; tokens: prompts and the longest replies."""

    mission: str
    tickets: int
    labels: str
    candidates: int
    calls: int
    tokens: int
    price: float
    folder: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(run: MissionRun) -> Estimate:
    """Count questions and tokens of what is left. Touches no file."""
    config = run.config
    ways = candidates_of(config.sampler, config.seed, 1)
    epochs = config.runner.epochs
    edits = epochs * config.reflection.edits_per_epoch if config.reflection.enabled else 0
    gate = round(len(run.tickets) * config.splits.shares.gate) * len(ways) * (edits + 1) if edits else 0
    calls = max(0, len(run.tickets) * len(ways) * epochs - _done(run)) + gate + (epochs if edits else 0)
    system = len(prompt_of(run.first_guidance()))
    characters = sum(len(question(ticket)) for ticket in run.tickets) / max(1, len(run.tickets)) + system
    longest = sum(way.max_new_tokens for way in ways) / len(ways)
    tokens = round(calls * (TOKENS_PER_CHARACTER * characters + longest))
    labels = Counter(ticket.label for ticket in run.tickets)
    return Estimate(
        run.mission,
        len(run.tickets),
        ", ".join(f"{count} {label}" for label, count in labels.items()),
        len(ways),
        calls,
        tokens,
        tokens / 1e6 * config.runner.price_per_million_tokens,
        str(run.folder),
    )


def _done(run: MissionRun) -> int:
    if not run.trajectories.exists():
        return 0
    return sum(not status.startswith(ERROR) for _, status in read_heads(run.trajectories))
