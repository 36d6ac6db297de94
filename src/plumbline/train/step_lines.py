"""What a person sees of a run that trains: a bar on a terminal, and one line per logged step everywhere."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from plumbline.errors import writing
from plumbline.model.upstream import ProgressCallback, add_train_message
from plumbline.train.callbacks import EpochAccount
from plumbline.train.folder import LOG

logger = logging.getLogger(__name__)

_TERMS = (("sft_loss", "sft"), ("llm_kd_loss", "kd"), ("vision_kd_loss", "vision"))
_POSITION, _LEFT, _MEMORY = "global_step/max_steps", "remaining_time", "memory(GiB)"


def step_line(logs: Mapping[str, Any], tokens_per_second: float | None = None) -> str:
    """One line of a logged step or of an evaluation; empty for logs that are neither.

    logs: as in `logging.jsonl`. Terms are shown next to the loss where there are several.
    """
    mode = next((mode for mode in ("eval", "train") if f"{mode}/token_count" in logs), None)
    if mode is None:
        return ""
    terms = [(label, logs[f"{mode}/{name}"]) for name, label in _TERMS if f"{mode}/{name}" in logs]
    shown = [("loss", logs[f"{mode}/loss"])] if f"{mode}/loss" in logs else []
    shown += terms if len(terms) > 1 or not shown else []
    parts = [f"step {logs.get(_POSITION, '?')}{', evaluation' if mode == 'eval' else ''}"]
    parts += [f"{label} {value:.4f}" for label, value in shown]
    if mode == "eval":
        return "  ".join([*parts, f"token_acc {logs.get('eval/token_acc', 0.0):.3f}"])
    if "learning_rate" in logs:
        parts.append(f"lr {logs['learning_rate']:.2e}")
    if tokens_per_second:
        parts.append(f"{tokens_per_second:,.0f} tokens/s")
    if _LEFT in logs:
        parts.append(f"{logs[_LEFT]} left")
    if _MEMORY in logs:
        parts.append(f"{logs[_MEMORY]} GiB")
    return "  ".join(parts)


class StepLines(ProgressCallback):
    """Writes `logging.jsonl`, a line per logged step, and on a terminal a bar.

    account: counts the tokens of this rank. with_bar: False where the configuration wants none (`disable_tqdm`).
    """

    training_bar: tqdm | None
    prediction_bar: tqdm | None

    def __init__(self, account: EpochAccount, *, with_bar: bool = True) -> None:
        super().__init__()
        self._account = account
        self._off = None if with_bar else True  # None: on a terminal alone
        self._since = (0.0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and the bar."""
        self.start_step = self.current_step = state.global_step
        self.start_time = time.time()
        self._since = (time.monotonic(), self._account.tokens)
        if state.is_world_process_zero:
            self.training_bar = self._bar("training", state.max_steps, initial=state.global_step)

    def _bar(self, name: str, total: int, initial: int = 0) -> tqdm:
        return tqdm(desc=name, total=total, initial=initial, dynamic_ncols=True, disable=self._off, leave=False)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Move the evaluation's bar."""
        if state.is_world_process_zero and hasattr(eval_dataloader, "__len__"):
            if self.prediction_bar is None:
                self.prediction_bar = self._bar("evaluation", len(eval_dataloader))
            self.prediction_bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the row and say the line; whatever else is in the logs is for the file alone."""
        add_train_message(logs, state, self.start_time, self.start_step)
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / LOG
        with writing(path), path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(logs, ensure_ascii=False) + "\n")
        if line := step_line(logs, self._speed(args.world_size)):
            with tqdm.external_write_mode():
                logger.info("%s", line)

    def _speed(self, ranks: int) -> float | None:
        """Tokens per second of all ranks since the line before; each rank has about as many."""
        (then, before), now = self._since, (time.monotonic(), self._account.tokens)
        self._since = now
        seconds, tokens = now[0] - then, now[1] - before
        return ranks * tokens / seconds if seconds > 0 and tokens > 0 else None
