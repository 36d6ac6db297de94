"""What a Stage-A run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from plumbline.errors import ConfigError, Problem
from plumbline.infer.config import Sampling

PROMPTS = Path("configs/prompts")
MAX_NEW_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class StageASettings:
    """One run of `plumbline stage-a`.

    model: folder of a base or merged model, of an adapter, a checkpoint or a run; adapter: of an adapter for a base.
    input: root of missions, one mission, a folder of pictures, or a JSONL. output: a folder, or a JSONL where one file
    results. missions: only these, or for an input without tickets the one whose prompt is used. prompts: folder with
    one text per mission. groups: so many tickets per mission, drawn by `seed`. The rest is as in
    `plumbline.infer.config.InferSettings`.
    """

    model: Path
    input: Path
    output: Path
    missions: tuple[str, ...] = ()
    prompts: Path = PROMPTS
    adapter: Path | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(MAX_NEW_TOKENS))
    batch_size: int = 8
    groups: int | None = None
    seed: int = 0
    resume: bool = True
    image_roots: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None
    max_error_rate: float | None = None
    replies: Path | None = None
    servers: tuple[str, ...] = ()
    served_model: str | None = None

    def __post_init__(self) -> None:
        wrong = []
        if not self.input.exists():
            wrong.append(Problem("--input", f"{self.input}: no such file or folder", "name a folder or a JSONL"))
        if self.batch_size < 1:
            wrong.append(Problem("--batch-size", f"{self.batch_size} is not at least 1"))
        if self.groups is not None and self.groups < 1:
            wrong.append(Problem("--groups", f"{self.groups} is not at least 1", "leave it out to take every ticket"))
        if self.max_error_rate is not None and not 0 <= self.max_error_rate <= 1:
            wrong.append(Problem("--max-error-rate", f"{self.max_error_rate} is not between 0 and 1"))
        if wrong:
            raise ConfigError(wrong)
