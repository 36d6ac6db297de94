"""How many questions a run will send, and their cost, estimated before anything is loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from plumbline.batch.lengths import PixelLimits, chat_length
from plumbline.batch.tokens import TokenCounter
from plumbline.data.messages import ask_messages
from plumbline.infer.plan import find_weights
from plumbline.infer.runner import ERROR
from plumbline.stage_a.estimate import operations_per_second
from plumbline.stage_b.guidance import prompt_of
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.rollout import candidates_of, question
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_heads

PROBED = 100
TOKENS_PER_CHARACTER = 0.8
"""Of Chinese text in Qwen's vocabulary, rounded up; used where there is no tokenizer to ask."""


@dataclass(frozen=True)
class StageBEstimate:
    """calls: questions that are left, the gate's for every edit included; prompt_tokens: of all of them, estimated from
    some tickets; reply_tokens: the longest replies; price: of both; seconds: at least, on this machine's processor,
    None where servers, a GPU or recorded replies would answer."""

    mission: str
    tickets: int
    labels: str
    candidates: int
    calls: int
    prompt_tokens: int
    reply_tokens: int
    price: float
    seconds: float | None
    folder: str

    def as_dict(self) -> JsonObject:
        return asdict(self)


def estimate(run: MissionRun) -> StageBEstimate:
    """Count questions and tokens of what is left. Touches no file."""
    config = run.config
    ways = candidates_of(config.sampler, config.seed, 1)
    calls = _calls(run, len(ways))
    model = _model_folder(run)
    prompt = round(calls * _prompt_tokens(run, model))
    reply = round(calls * sum(way.max_new_tokens for way in ways) / len(ways))
    labels = Counter(head.label for head in run.data.tickets.heads())
    is_local = config.engine.kind == "transformers" and not config.engine.servers
    return StageBEstimate(
        run.data.mission,
        len(run.data.tickets),
        ", ".join(f"{count} {label}" for label, count in labels.items()),
        len(ways),
        calls,
        prompt,
        reply,
        _price(run, prompt + reply),
        _seconds(model, prompt + reply) if is_local and model is not None else None,
        str(run.store.folder),
    )


def spent(run: MissionRun, calls: int, reply_tokens: int) -> tuple[int, float]:
    """(tokens read, estimated from some tickets; the price of these and of those written) of the questions sent."""
    prompt = round(calls * prompt_tokens(run)) if calls else 0
    return prompt, _price(run, prompt + reply_tokens)


def prompt_tokens(run: MissionRun) -> float:
    """Of a question, the mean over some tickets; where a server answers, estimated from its characters."""
    asks_others = run.config.engine.servers or run.config.engine.kind == "replay"
    return _prompt_tokens(run, None if asks_others else _model_folder(run))


def _price(run: MissionRun, tokens: int) -> float:
    return tokens / 1e6 * run.config.runner.price_per_million_tokens


def _calls(run: MissionRun, ways: int) -> int:
    config = run.config
    epochs, reflection = config.runner.epochs, config.reflection
    done = 0
    if run.store.trajectories.exists():
        done = sum(not status.startswith(ERROR) for _, status in read_heads(run.store.trajectories))
    left = max(0, len(run.data.tickets) * ways * epochs - done)
    if not reflection.enabled:
        return left
    gate = round(len(run.data.tickets) * config.splits.shares.gate) * ways
    return left + epochs + gate * (epochs * reflection.edits_per_epoch + 1)


def _model_folder(run: MissionRun) -> Path | None:
    """The folder of the weights that answer; None where others answer."""
    engine = run.config.engine
    if engine.model is None:
        return None
    return find_weights(Path(engine.model), None if engine.adapter is None else Path(engine.adapter))[0]


def _prompt_tokens(run: MissionRun, model: Path | None) -> float:
    """Mean over some tickets, spread evenly."""
    system = prompt_of(run.store.guidance.read() or run.first_guidance())
    questions = [question(ticket) for ticket in run.data.tickets[:: max(1, len(run.data.tickets) // PROBED)]]
    if model is None:
        return TOKENS_PER_CHARACTER * (len(system) + sum(map(len, questions)) / len(questions))
    counter, limits = TokenCounter(model), PixelLimits.of_folder(model, None)
    lengths = [chat_length(ask_messages([], system, user)["messages"], [], counter, limits) for user in questions]
    return sum(lengths) / len(lengths)


def _seconds(model: Path, tokens: int) -> float:
    """Two operations per weight and token, weights of two bytes, at the speed of this processor's matrix products."""
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors")) / 2
    return round(2.0 * weights * tokens / operations_per_second(), 1)
