"""What a run will cost, estimated before any weight is loaded."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np

from plumbline.batch.lengths import PixelLimits, chat_length
from plumbline.batch.tokens import TokenCounter
from plumbline.data.images import image_size
from plumbline.data.messages import ask_messages
from plumbline.errors import DataError
from plumbline.stage_a.summaries import SummaryPlan, with_focus
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import duration

PROBED = 100
REPLY_TOKENS = 48
"""A summary of a few kinds of objects."""


@dataclass(frozen=True)
class StageAEstimate:
    """prompt_tokens, reply_tokens: of all pictures left, estimated from `probed` of them; seconds: on this machine's
    processor at the speed of its matrix products, None where servers or a GPU would answer.
    """

    prompt_tokens: int
    reply_tokens: int
    probed: int
    seconds: float | None

    def as_dict(self) -> JsonObject:
        return asdict(self)

    def line(self) -> str:
        """For people."""
        tokens = f"about {self.prompt_tokens:,} tokens to read and {self.reply_tokens:,} to write"
        time_left = "" if self.seconds is None else f"; at least {duration(self.seconds)} on this processor, no GPU"
        return f"{tokens} (estimated from {self.probed} pictures){time_left}"


def estimate(plan: SummaryPlan) -> StageAEstimate:
    """From the headers of some pictures, spread evenly, the tokenizer and the size of the weights."""
    photos = plan.run_options.own(plan.found.photos)
    step = max(1, len(photos) // PROBED)
    limits, counter = PixelLimits.of_folder(plan.model, plan.card.max_pixels), TokenCounter(plan.model)
    system, user = plan.card.prompts.of_mode("summary")
    messages = ask_messages(["picture"], system, with_focus(user, plan.focus))["messages"]
    lengths = []
    for photo in photos[::step]:
        try:
            lengths.append(chat_length(messages, [image_size(photo.item.path())], counter, limits))
        except DataError:
            continue  # the run will name it
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    prompt, reply = round(mean * plan.todo), REPLY_TOKENS * plan.todo
    bytes_of_weights = sum(path.stat().st_size for path in plan.model.glob("*.safetensors"))
    # Two operations per weight and token; weights of two bytes.
    work = 2.0 * bytes_of_weights / 2 * (prompt + reply)
    seconds = None if plan.settings.servers else work / operations_per_second()
    return StageAEstimate(prompt, reply, len(lengths), None if seconds is None else round(seconds, 1))


def operations_per_second(side: int = 1024) -> float:
    """Multiplications and additions per second of a matrix product in fp32, the best of three."""
    one = np.ones((side, side), dtype=np.float32)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        one @ one
        took.append(time.perf_counter() - began)
    return 2.0 * side**3 / min(took)
