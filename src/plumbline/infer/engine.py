"""The engine protocol (request -> reply, an error is a reply) and the engine that runs transformers in this process."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plumbline.data.messages import ask_messages
from plumbline.infer.config import Sampling

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Request:
    """One question about pictures (8-bit RGB). `key` comes back with the reply."""

    key: str
    images: tuple[Image.Image, ...]
    system: str
    user: str


@dataclass(frozen=True)
class Reply:
    """What came back. error: empty, or the kind of failure (`engine`, `image`), then `text` is empty.

    tokens: number of new tokens, the end mark included. is_finished: the model ended the reply itself.
    """

    key: str
    text: str = ""
    tokens: int = 0
    is_finished: bool = True
    error: str = ""
    detail: str = ""


class Engine(Protocol):
    """Anything that answers requests."""

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply per request, as they are ready, in any order. Never raises for a single request's sake."""
        ...


class TransformersEngine:
    """Qwen3-VL in this process: length-sorted batches with left padding, a base or merged model or one with an adapter.

    model, adapter: folders as `plumbline.model.loading.load_model` takes them. max_pixels: the largest image area that
    training used, or None for the image processor's own limit. Greedy replies do not depend on `batch_size`.
    """

    def __init__(
        self,
        model: str | Path,
        adapter: str | Path | None = None,
        *,
        sampling: Sampling | None = None,
        batch_size: int = 1,
        max_pixels: int | None = None,
    ):
        from plumbline.batch.lengths import PixelLimits
        from plumbline.model.loading import load_model, load_processor

        self.model = load_model(model, adapter)
        self.processor = load_processor(model)
        self.sampling = sampling or Sampling()
        self.batch_size = batch_size
        self.limits = PixelLimits.of_processor(self.processor.image_processor, max_pixels)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies in the order of the requests, whose keys must differ."""
        replies = {reply.key: reply for reply in self.stream(requests)}
        return [replies[request.key] for request in requests]

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Replies batch by batch, the longest prompts first."""
        prepared = []
        for request in requests:
            try:
                prepared.append(self._prepare(request))
            except ValueError as error:  # a picture too long and thin to be cut into patches
                yield Reply(request.key, error="image", detail=str(error))
        prepared.sort(key=lambda item: item.length, reverse=True)
        for start in range(0, len(prepared), self.batch_size):
            yield from self._answer(prepared[start : start + self.batch_size])

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids of the prompt, image placeholders expanded: those of training."""
        return [int(token) for token in self._encode([self._prepare(request)])["input_ids"][0]]

    def _prepare(self, request: Request) -> Prepared:
        """Pictures on the patch grid and the prompt as text."""
        from plumbline.batch.lengths import resize_to_grid

        images = [resize_to_grid(image, self.limits) for image in request.images]
        messages = ask_messages([f"image {number}" for number in range(len(images))], request.system, request.user)
        text = self.processor.apply_chat_template(messages["messages"], tokenize=False, add_generation_prompt=True)
        cell = (self.processor.image_processor.patch_size * self.processor.image_processor.merge_size) ** 2
        return Prepared(
            request.key, text, images, len(text) + sum(image.width * image.height // cell for image in images)
        )

    def _encode(self, batch: Sequence[Prepared]) -> Any:
        """Model inputs of a batch, padded on the left."""
        images = [image for item in batch for image in item.images]
        return self.processor(
            text=[item.text for item in batch],
            images=images or None,
            padding=True,
            padding_side="left",
            do_resize=False,  # done, the way training does it
            return_tensors="pt",
        )

    def _answer(self, batch: Sequence[Prepared]) -> list[Reply]:
        """Generate for one batch; a batch that fails is tried again in halves, a single request becomes an error."""
        try:
            return self._run(batch)
        except RuntimeError as error:  # out of memory, or a kernel that refuses the shapes
            if len(batch) == 1:
                return [Reply(batch[0].key, error="engine", detail=str(error).splitlines()[0])]
        half = len(batch) // 2
        return [*self._answer(batch[:half]), *self._answer(batch[half:])]

    def _run(self, batch: Sequence[Prepared]) -> list[Reply]:
        import torch

        inputs = self._encode(batch).to(self.model.device)
        start = inputs["input_ids"].shape[1]
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(zlib.crc32("\n".join(item.key for item in batch).encode()))
            output = self.model.generate(**inputs, **self._generation())
        return [self._reply(item.key, tokens) for item, tokens in zip(batch, output[:, start:].tolist(), strict=True)]

    def _generation(self) -> dict[str, Any]:
        """Arguments of `generate`; the knobs of the checkpoint's own generation config are put off."""
        chosen: dict[str, Any] = {"max_new_tokens": self.sampling.max_new_tokens, "repetition_penalty": 1.0, "top_k": 0}
        if self.sampling.temperature > 0:
            return chosen | {
                "do_sample": True,
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
            }
        return chosen | {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}

    def _reply(self, key: str, tokens: list[int]) -> Reply:
        """Text up to the first end mark; control tokens are left out of it."""
        ends = self.model.generation_config.eos_token_id
        stops = {ends} if isinstance(ends, int) else set(ends)
        end = next((index for index, token in enumerate(tokens) if token in stops), None)
        kept = tokens if end is None else tokens[:end]
        text = self.processor.tokenizer.decode(kept, skip_special_tokens=True)
        return Reply(key, text, tokens=len(kept) + (end is not None), is_finished=end is not None)


@dataclass(frozen=True)
class Prepared:
    """A request as the processor takes it. length: a measure to sort by."""

    key: str
    text: str
    images: list[Image.Image]
    length: int
