"""vLLM in this process: the fast engine for merged models on GPUs that no server runs on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plumbline.batch.lengths import PixelLimits, resize_to_grid
from plumbline.errors import ConfigError, Problem
from plumbline.infer.engine import Reply, Request
from plumbline.model.checkpoints import locate, weights_stamp
from plumbline.model.loading import check_architecture, load_processor
from plumbline.storage.objects import JsonObject

MOST_PICTURES = 16
"""Pictures of one question; vLLM sets memory aside for them."""


class VllmEngine:
    """A base or merged model run by vLLM, which batches by itself.

    max_pixels: the largest image area that training used, or None for the image processor's own limit. max_length:
    tokens of prompt and reply together, None for what the model allows. dtype: of the weights. Raises ConfigError where
    vLLM is not installed and for adapters: vLLM leaves out what they change in the vision encoder.
    """

    def __init__(
        self, model: Path, *, max_pixels: int | None = None, max_length: int | None = None, dtype: str = "auto"
    ):
        try:
            import vllm
        except ImportError as error:
            fix = "pip install 'plumbline[vllm]', on a machine with a GPU"
            raise ConfigError(Problem("--engine", f"vllm cannot be loaded: {error}", fix)) from error
        folder = locate(model).folder
        check_architecture(folder)
        self.processor = load_processor(folder)
        self.limits = PixelLimits.of_processor(self.processor.image_processor, max_pixels)
        self.identity = f"vllm {vllm.__version__} {weights_stamp(folder)} {self.limits}"
        self.identity += "" if dtype == "auto" else f" {dtype}"
        self._llm = vllm.LLM(
            model=str(folder),
            load_format="safetensors",
            trust_remote_code=False,
            max_model_len=max_length,
            dtype=dtype,
            limit_mm_per_prompt={"image": MOST_PICTURES},
        )

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """All replies once the last one has ended."""
        pending = []
        for request in requests:
            try:
                pending.append((request, prompt_of(request, self.processor, self.limits)))
            except ValueError as error:  # a picture too long and thin to be cut into patches
                yield Reply(request.key, error="image", detail=str(error))
        yield from self._generated(pending)

    def _generated(self, pending: Sequence[tuple[Request, JsonObject]]) -> Iterator[Reply]:
        if not pending:
            return
        params = [sampling_params(request) for request, _ in pending]
        try:
            found = self._llm.generate([prompt for _, prompt in pending], params, use_tqdm=False)
        except ValueError as error:  # one prompt that is too long fails the whole call
            if len(pending) == 1:
                yield Reply(pending[0][0].key, error="prompt", detail=str(error))
                return
            half = len(pending) // 2
            yield from self._generated(pending[:half])
            yield from self._generated(pending[half:])
            return
        for (request, _), output in zip(pending, found, strict=True):
            yield as_reply(request.key, output.outputs[0])


def prompt_of(request: Request, processor: Any, limits: PixelLimits) -> JsonObject:
    """The question as vLLM takes it: one placeholder per picture, pictures on the patch grid of training."""
    images = [resize_to_grid(image, limits) for image in request.images]
    text = processor.apply_chat_template(request.messages(), tokenize=False, add_generation_prompt=True)
    prompt: JsonObject = {"prompt_token_ids": processor.tokenizer(text, add_special_tokens=False)["input_ids"]}
    return prompt | {"multi_modal_data": {"image": images}} if images else prompt


def sampling_params(request: Request) -> Any:
    """vLLM's own form of how tokens are chosen."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    sampling = request.sampling
    more = {} if request.schema is None else {"structured_outputs": StructuredOutputsParams(json=dict(request.schema))}
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p if sampling.temperature else 1.0,
        max_tokens=sampling.max_new_tokens,
        seed=sampling.seed,
        stop=list(sampling.stop) or None,
        **more,
    )


def as_reply(key: str, completion: Any) -> Reply:
    """completion: vLLM's, with `text`, `token_ids` and `finish_reason` (`stop`, `length`, ...)."""
    is_finished = completion.finish_reason == "stop"
    detail = "" if is_finished or completion.finish_reason == "length" else str(completion.finish_reason)
    return Reply(key, completion.text, len(completion.token_ids), is_finished, detail=detail)
