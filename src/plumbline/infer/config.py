"""Options of a run of a model over pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from plumbline.config.limits import Range
from plumbline.config.options import option_problems
from plumbline.errors import ConfigError, Problem

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: Most tokens of a reply.
        temperature: 0 to 10; 0 is greedy, then `top_p` and `seed` play no part.
        top_p: Share of the probability that tokens are drawn from, above 0 and at most 1.
        seed: Of the draws; each reply has its own stream, so that the order of pictures does not matter.
        stop: Texts at which a reply ends, without them.

    Raises:
        ConfigError: A value is outside its range.
    """

    max_new_tokens: Annotated[int, Range(ge=1)] = 2048
    temperature: Annotated[float, Range(ge=0, le=10)] = 0.0
    top_p: Annotated[float, Range(gt=0, le=1)] = 0.9
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = list(option_problems(self))
        if not all(self.stop):
            wrong.append(Problem("stop", "an empty text would end every reply at once"))
        if wrong:
            raise ConfigError(wrong)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Options that every run of a model over pictures has.

    Attributes:
        model: Folder of a base or merged model, of an adapter, a checkpoint or a run; with `servers` only its card is
            read.
        input: A JSONL, a folder of pictures, or one picture.
        output: File or folder of the results.
        adapter: Folder of an adapter for a base model.
        sampling: How tokens are chosen.
        batch_size: Pictures decoded at a time.
        engine: What runs the weights.
        resume: Go on where the output ends.
        image_roots: Folders below which the pictures of a JSONL may lie, in addition to the JSONL's own.
        image_url_allow: Hosts from which its pictures may be fetched.
        shard: (number from 1, of how many): only that part of the input.
        max_error_rate: Share of pictures without a reply that ends the run.
        replies: File of replies by content.
        servers: Addresses of servers that answer instead of this process.
        served_model: The model's name there.
        dtype: Of the weights; the checkpoint's own by default.
        attn_impl: Attention kernel of transformers; its own choice by default.
        max_model_len: Tokens of prompt and reply that vLLM makes room for; those of training and a reply by default.

    Raises:
        ConfigError: Options that cannot be right, whatever the files say.
    """

    model: Path
    input: Path
    output: Path
    adapter: Path | None = None
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: Annotated[int, Range(ge=1)] = 1
    engine: Literal["transformers", "vllm"] = "transformers"
    resume: bool = True
    image_roots: tuple[str, ...] = ()
    image_url_allow: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None
    max_error_rate: Annotated[float | None, Range(ge=0, le=1)] = None
    replies: Path | None = None
    servers: tuple[str, ...] = ()
    served_model: str | None = None
    dtype: Dtype = "auto"
    attn_impl: Attention | None = None
    max_model_len: Annotated[int | None, Range(ge=1)] = None

    def __post_init__(self) -> None:
        if wrong := self.problems():
            raise ConfigError(wrong)

    def problems(self) -> list[Problem]:
        """What cannot be right, whatever the files say."""
        wrong = list(option_problems(self))
        if self.servers and self.engine == "vllm":
            wrong.append(Problem("--engine", "the servers answer, no weights are run here", "give one of the two"))
        return wrong + list(self._weight_problems())

    def _weight_problems(self) -> Iterator[Problem]:
        """What cannot be right about how weights are run."""
        if self.servers and (self.dtype, self.attn_impl, self.max_model_len) != ("auto", None, None):
            what = "the servers answer, no weights are run here"
            yield Problem("--dtype, --attn-impl, --max-model-len", what, "leave them out")
        elif self.engine == "vllm" and self.attn_impl is not None:
            yield Problem("--attn-impl", "vllm chooses its kernel itself", "leave it out")
        elif self.engine != "vllm" and self.max_model_len is not None:
            yield Problem("--max-model-len", f"{self.engine} makes room as it goes", "leave it out, or --engine vllm")


@dataclass(frozen=True, kw_only=True)
class InferSettings(RunSettings):
    """One run of `plumbline infer`.

    Attributes:
        mode: `dense` or `summary`; the card's own by default.
        emit_norm: How coordinates are written; only where there is no card.
        limit: Most pictures of the input.
        guided: The servers bind dense replies to their JSON schema.
        prompt: A question in place of the trained one; the replies are text.
        system: System text of that question.
        images_per_prompt: Pictures in one question, for models that were trained so; the replies are text.
    """

    mode: str | None = None
    emit_norm: str | None = None
    limit: Annotated[int | None, Range(ge=1)] = None
    guided: bool = False
    prompt: str | None = None
    system: str | None = None
    images_per_prompt: Annotated[int, Range(ge=1)] = 1

    def problems(self) -> list[Problem]:
        wrong = super().problems()
        if self.prompt is not None and not self.prompt.strip():
            wrong.append(Problem("--prompt", "is empty", "write a question"))
        if self.prompt is not None and (self.mode, self.emit_norm, self.guided) != (None, None, False):
            what = "--mode, --emit-norm and --guided are about the trained answers"
            wrong.append(Problem("--prompt", what, "leave them out"))
        if self.system is not None and self.prompt is None:
            wrong.append(Problem("--system", "belongs to a question", "give --prompt too"))
        if self.guided and not self.servers:
            wrong.append(Problem("--guided", "binds what a server writes, and there is none", "give --server"))
        return wrong


def read_shard(text: str) -> tuple[int, int]:
    """`2/4` as (2, 4); ConfigError for anything that is not the n-th of several parts."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ConfigError(Problem("--shard", f"{text!r} is not a part such as 1/4", "parts are numbered from 1"))
    return int(number), int(of)
