"""Options of a Stage-A run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from plumbline.config.limits import Range
from plumbline.errors import Problem
from plumbline.infer.config import RunSettings, Sampling

PROMPTS = Path("configs/prompts")
MAX_NEW_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class StageASettings(RunSettings):
    """One run of `plumbline stage-a`.

    input: root of missions, one mission, a folder of pictures, or a JSONL. output: a folder, or a JSONL where one file
    results. missions: only these, or for an input without tickets the one whose prompt is used. prompts: folder with
    one text per mission. groups: so many tickets per mission, drawn by `seed`. runner: `local`, in this process, or
    `ray`, on a cluster in `workers` processes (None: one per GPU, one where there is none).
    """

    sampling: Sampling = field(default_factory=lambda: Sampling(MAX_NEW_TOKENS))
    batch_size: Annotated[int, Range(ge=1)] = 8
    missions: tuple[str, ...] = ()
    prompts: Path = PROMPTS
    groups: Annotated[int | None, Range(ge=1)] = None
    seed: int = 0
    runner: Literal["local", "ray"] = "local"
    workers: Annotated[int | None, Range(ge=1)] = None

    def problems(self) -> list[Problem]:
        wrong = super().problems()
        if not self.input.exists():
            wrong.append(Problem("--input", f"{self.input}: no such file or folder", "name a folder or a JSONL"))
        if self.workers is not None and self.runner != "ray":
            wrong.append(Problem("--workers", "there is one process, this one", "give --runner ray"))
        if self.replies is not None and self.runner == "ray":
            wrong.append(Problem("--replies", "is a file of one process, a cluster has several", "leave it out"))
        return wrong
