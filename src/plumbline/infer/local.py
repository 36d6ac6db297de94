"""The engine that runs transformers in this process: the reference that works everywhere.

Requests are decoded together, and a row whose reply has ended leaves the batch at once: as soon as half of the places
are free, new requests take them. A picture goes through the vision tower once, however many questions there are about
it, and the beginning that all prompts of a call share (system text, guidance) is computed once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plumbline.data.keyed import keyed_generator
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Reply, Request
from plumbline.infer.repetition import repeats_itself

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from plumbline.batch.tokens import TokenBytes

FEATURE_BYTES = 256 * 2**20
LEAST_PREFIX = 16
REPETITION_EVERY = 32
"""New tokens between two looks for a reply that has begun to repeat itself."""
OUT_OF_MEMORY = "memory"


@dataclass
class Row:
    """A request on its way. ids: its prompt, placeholders expanded; tokens: the reply so far."""

    request: Request
    ids: list[int]
    images: list[Image.Image]
    tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.rng = keyed_generator(sampling.seed or 0, 0, 0, f"reply/{self.request.key}")
        self.is_greedy = sampling.temperature == 0


@dataclass
class Batch:
    """Rows that are decoded together.

    cache: every layer's keys and values, [B, heads, L, D], padded on the left; mask: [B, L]; positions: [B], of the
    next token; logits: [B, V], of the next token.
    """

    rows: list[Row]
    cache: list[Any]
    mask: Tensor
    positions: Tensor
    logits: Tensor


class TransformersEngine:
    """Qwen3-VL in this process, a base or merged model or one with an adapter.

    model, adapter, dtype, attn_impl: as `plumbline.model.loading.load_model` takes them. batch_size: requests decoded
    at a time. max_pixels: the largest image area that training used, or None for the image processor's own limit.
    Greedy replies do not depend on `batch_size`, sampled ones on their own key and seed alone. on_text: where it is
    set, hears the whole text of a reply so far after every token, for somebody who looks on (one request at a time).
    """

    def __init__(
        self,
        model: str | Path,
        adapter: str | Path | None = None,
        *,
        batch_size: int = 1,
        max_pixels: int | None = None,
        dtype: str = "auto",
        attn_impl: str | None = None,
    ):
        from plumbline.model.checkpoints import weights_stamp
        from plumbline.model.loading import load_model, load_processor

        self._attn_impl = attn_impl
        self._stamp = [weights_stamp(Path(folder)) for folder in (model, adapter) if folder is not None]
        self._hold(
            load_model(model, adapter, dtype, attn_impl=attn_impl), load_processor(model), batch_size, max_pixels
        )

    @classmethod
    def around(
        cls, model: Any, processor: Any, *, batch_size: int = 1, max_pixels: int | None = None
    ) -> TransformersEngine:
        """An engine over a model that somebody else holds, such as one in training; in evaluation mode."""
        engine = cls.__new__(cls)
        engine._attn_impl, engine._stamp = None, []
        engine._hold(model, processor, batch_size, max_pixels)
        return engine

    def _hold(self, model: Any, processor: Any, batch_size: int, max_pixels: int | None) -> None:
        from plumbline.batch.lengths import PixelLimits

        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.on_text: Callable[[str], None] | None = None
        self.limits = PixelLimits.of_processor(processor.image_processor, max_pixels)
        self._base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        ends = self._base.generation_config.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends)
        self._features: OrderedDict[bytes, Any] = OrderedDict()
        self._prefix: tuple[list[int], list[Any]] = ([], [])

    @property
    def identity(self) -> str:
        kernel = "" if self._attn_impl is None else f" {self._attn_impl}"
        return f"transformers {self._stamp} {self._base.dtype} {self.limits}{kernel}"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies in the order of the requests, whose keys must differ."""
        replies = {reply.key: reply for reply in self.stream(requests)}
        return [replies[request.key] for request in requests]

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Replies as they end; the longest prompts are begun first."""
        rows = []
        for request in requests:
            try:
                rows.append(self._prepare(request))
            except ValueError as error:  # a picture too long and thin to be cut into patches
                yield Reply(request.key, error="image", detail=str(error))
        rows.sort(key=lambda row: len(row.ids), reverse=True)
        self._share_prefix(rows)
        yield from self._decode(deque(rows))

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids of the prompt, image placeholders expanded: those of training."""
        return self._prepare(request).ids

    def answer_rows(self, request: Request, answer: str, behind: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """What the model would have said at each place of a given answer.

        Args:
            request: The question.
            answer: Read by the model as its own; the end mark behind it counts too.
            behind: Tokens read after that, which change nothing but the shapes of the products.

        Returns:
            Hidden rows [n, H] that predict the answer's tokens, these tokens [n], and the output head [V, H].
        """
        import torch

        row = self._prepare(request)
        ends = self.processor.tokenizer(f"{answer}<|im_end|>\n", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*row.ids, *ends, *ends[-1:] * behind]], device=self._base.device)
        mask = torch.ones_like(ids)
        with torch.no_grad():
            features, grids = self._image_features(row.images) if row.images else (None, None)
            kinds = (ids == self._base.config.image_token_id).long()
            positions, _ = self._base.model.get_rope_index(ids, kinds, grids, attention_mask=mask)
            more = {} if features is None else {"mm_encoder_outputs": {"image": features}}
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **more}
            hidden = self._base.model(**inputs, use_cache=False).last_hidden_state
        start, stop = len(row.ids) - 1, len(row.ids) + len(ends) - 1
        return hidden[0, start:stop], ids[0, start + 1 : stop + 1], self._base.lm_head.weight

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """Bytes of each token by its id."""
        from plumbline.batch.tokens import TokenBytes

        return TokenBytes(self.processor.tokenizer)

    def picture_features(self, request: Request) -> list[Tensor]:
        """What each merger of the vision tower says of a question's pictures, the last one first: [tokens, H] each."""
        import torch

        with torch.no_grad():
            seen, _ = self._image_features(self._prepare(request).images)
        return [torch.cat(list(level)) for level in (seen.pooler_output, *seen.deepstack_features)]

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """The model computes as its base."""
        self.forget_pictures()
        with self.model.disable_adapter():
            yield
        self.forget_pictures()

    def forget_pictures(self) -> None:
        """Drop what was computed of pictures and of a common prompt: the weights are others from here on."""
        self._features.clear()
        self._prefix = ([], [])

    # ------------------------------------------------------------------------------------------------------ before
    def _prepare(self, request: Request) -> Row:
        """Pictures on the patch grid, the prompt as ids."""
        from plumbline.batch.lengths import resize_to_grid

        images = [resize_to_grid(image, self.limits) for image in request.images]
        text = self.processor.apply_chat_template(request.messages(), tokenize=False, add_generation_prompt=True)
        cell = (self.processor.image_processor.patch_size * self.processor.image_processor.merge_size) ** 2
        pad = self.processor.image_token
        pieces = text.split(pad)
        expanded = "".join(
            piece + pad * (image.width * image.height // cell) for piece, image in zip(pieces, images, strict=False)
        )
        ids = self.processor.tokenizer(expanded + "".join(pieces[len(images) :]), add_special_tokens=False)["input_ids"]
        return Row(request, ids, images)

    def _share_prefix(self, rows: Sequence[Row]) -> None:
        """Compute the beginning that all prompts have in common, up to the first picture, unless it is there."""
        known = self._prefix[0]
        common = _common_beginning([row.ids for row in rows])
        if self._base.config.image_token_id in common:
            common = common[: common.index(self._base.config.image_token_id)]
        common = common[:-1]  # something must be left of every prompt
        if known and known == common[: len(known)] and (len(rows) == 1 or len(common) < len(known) + LEAST_PREFIX):
            return
        self._prefix = ([], [])
        if len(rows) > 1 and len(common) >= LEAST_PREFIX:
            import torch

            with torch.inference_mode():
                ids = torch.tensor([common], device=self._base.device)
                self._prefix = (common, self._forward(input_ids=ids)[1])

    def _image_features(self, images: Sequence[Image.Image]) -> tuple[Any, Tensor]:
        """(what the vision tower says of the pictures, [pictures, 3] grids); each picture is looked at once."""
        import torch
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        keys = [
            hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).digest() for image in images
        ]
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in self._features}
        if fresh:
            inputs = self.processor.image_processor(images=list(fresh.values()), do_resize=False, return_tensors="pt")
            pixels = inputs["pixel_values"].to(self._base.device, self._base.dtype)
            grids = inputs["image_grid_thw"].to(self._base.device)
            seen = self._base.model.get_image_features(pixels, grids, return_dict=True)
            sizes = [len(part) for part in seen.pooler_output]
            parts = [
                level.split(sizes) if isinstance(level, torch.Tensor) else level for level in seen.deepstack_features
            ]
            for number, key in enumerate(fresh):
                self._features[key] = (seen.pooler_output[number], [level[number] for level in parts], grids[number])
        found = [self._features[key] for key in keys]
        for key in keys:
            self._features.move_to_end(key)
        size = lambda entry: sum(part.nbytes for part in (entry[0], *entry[1]))  # noqa: E731
        while len(self._features) > len(fresh) and sum(map(size, self._features.values())) > FEATURE_BYTES:
            self._features.popitem(last=False)
        levels: Any = [[entry[1][level] for entry in found] for level in range(len(found[0][1]))]
        merged: Any = [entry[0] for entry in found]
        output = BaseModelOutputWithDeepstackFeatures(pooler_output=merged, deepstack_features=levels)
        return output, torch.stack([entry[2] for entry in found])

    # ------------------------------------------------------------------------------------------------------ decoding
    def _decode(self, waiting: deque[Row]) -> Iterator[Reply]:
        """Replies of the rows; where memory runs out, fewer of them at a time."""
        import torch

        batch: Batch | None = None
        places = self.batch_size
        while waiting or batch is not None:
            going = batch.rows if batch is not None else []
            entering: list[Row] = []
            try:
                with torch.inference_mode():
                    if waiting and len(going) <= places // 2:
                        entering = [waiting.popleft() for _ in range(min(places - len(going), len(waiting)))]
                        fresh = self._begin(entering)
                        batch = fresh if batch is None else _joined(batch, fresh)
                    assert batch is not None
                    done, batch = self._advance(batch)
                yield from done
            except RuntimeError as error:  # out of memory, or a kernel that refuses the shapes
                together = [*going, *(row for row in entering if row not in going)]
                batch = None
                if len(together) == 1:
                    detail = str(error).splitlines()[0]
                    yield Reply(together[0].request.key, error=OUT_OF_MEMORY, detail=detail)
                    continue
                places = max(1, len(together) // 2)
                waiting.extendleft(Row(row.request, row.ids, row.images) for row in reversed(together))

    def _begin(self, rows: list[Row]) -> Batch:
        """The prompts of new rows."""
        import torch

        device = self._base.device
        prefix, cached = self._prefix
        shared = len(prefix) if all(row.ids[: len(prefix)] == prefix for row in rows) else 0
        longest = max(len(row.ids) for row in rows)
        # [shared beginning | padding | the rest]: what is shared has the same place in every row.
        ids = torch.full((len(rows), longest), self.processor.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, :shared] = torch.tensor(row.ids[:shared], dtype=torch.long)
            ids[number, longest - len(row.ids) + shared :] = torch.tensor(row.ids[shared:])
            mask[number, :shared] = 1
            mask[number, longest - len(row.ids) + shared :] = 1
        ids, mask = ids.to(device), mask.to(device)
        images = [image for row in rows for image in row.images]
        features, grids = self._image_features(images) if images else (None, None)
        kinds = (ids == self._base.config.image_token_id).long() * mask
        positions, _ = self._base.model.get_rope_index(ids, kinds, grids, attention_mask=mask)
        more = {} if features is None else {"mm_encoder_outputs": {"image": features}}
        past = [
            (layer.keys.expand(len(rows), -1, -1, -1), layer.values.expand(len(rows), -1, -1, -1)) for layer in cached
        ]
        past = roomy_layers(past) if shared else []
        logits, cache = self._forward(
            input_ids=ids[:, shared:], attention_mask=mask, position_ids=positions[:, :, shared:], past=past, **more
        )
        return Batch(rows, cache, mask, positions.amax((0, 2)) + 1, logits)

    def _advance(self, batch: Batch) -> tuple[list[Reply], Batch | None]:
        """One token more for every row: (replies that have ended, the rows that go on)."""
        import torch

        chosen = self._choose(batch)
        done: list[Reply] = []
        stay: list[int] = []
        for number, (row, token) in enumerate(zip(batch.rows, chosen, strict=True)):
            row.tokens.append(token)
            reply = self._ended(row)
            if self.on_text is not None:
                self.on_text(self._text(row.tokens) if reply is None else reply.text)
            if reply is None:
                stay.append(number)
            else:
                done.append(reply)
        if not stay:
            return done, None
        if done:
            batch = _kept(batch, stay)
        device = batch.mask.device
        tokens = torch.tensor([[row.tokens[-1]] for row in batch.rows], device=device)
        mask = torch.cat([batch.mask, batch.mask.new_ones(len(stay), 1)], 1)
        positions = batch.positions[None, :, None].expand(3, -1, 1)
        logits, cache = self._forward(input_ids=tokens, attention_mask=mask, position_ids=positions, past=batch.cache)
        return done, Batch(batch.rows, cache, mask, batch.positions + 1, logits)

    def _forward(self, *, past: Sequence[Any] = (), **inputs: Any) -> tuple[Tensor, list[Any]]:
        """(logits of the last place [B, V], the layers of the cache); `past` is used up."""
        from transformers import DynamicCache

        cache = DynamicCache()
        cache.layers = list(past) or roomy_layers([None] * self._base.config.text_config.num_hidden_layers)
        output = self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].float(), cache.layers

    def _choose(self, batch: Batch) -> list[int]:
        """The next token of every row."""
        logits = batch.logits.cpu().numpy()
        greedy = logits.argmax(-1).tolist()
        return [
            token if row.is_greedy else sampled(logits[number], row.request.sampling, row.rng)
            for number, (row, token) in enumerate(zip(batch.rows, greedy, strict=True))
        ]

    def _ended(self, row: Row) -> Reply | None:
        """The reply of a row that has ended with its newest token."""
        key, sampling, tokens = row.request.key, row.request.sampling, row.tokens
        if tokens[-1] in self._ends:
            return Reply(key, self._text(tokens[:-1]), tokens=len(tokens))
        if sampling.stop:
            text = self._text(tokens)
            ends = [text.find(stop) for stop in sampling.stop if stop in text]
            if ends:
                return Reply(key, text[: min(ends)], tokens=len(tokens))
        if len(tokens) % REPETITION_EVERY == 0 and repeats_itself(tokens):
            detail = "it repeats itself"
            return Reply(key, self._text(tokens), tokens=len(tokens), is_finished=False, detail=detail)
        if len(tokens) >= sampling.max_new_tokens:
            return Reply(key, self._text(tokens), tokens=len(tokens), is_finished=False)
        return None

    def _text(self, tokens: Sequence[int]) -> str:
        """Control tokens are left out."""
        return str(self.processor.tokenizer.decode(tokens, skip_special_tokens=True))


def sampled(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> int:
    """A token drawn from the smallest set of likeliest tokens that holds `top_p` of the probability.

    logits: [V]; one number is drawn. It picks along the vocabulary, not along the order of likelihood, which rounding
    would change: so that the same number finds the same token in any batch.
    """
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    if sampling.top_p < 1.0:
        order = np.argsort(-weights, kind="stable")
        mass = np.cumsum(weights[order])
        weights[order[int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1 :]] = 0.0
    mass = np.cumsum(weights)
    drawn = np.searchsorted(mass, rng.random() * mass[-1], side="right")
    return min(int(drawn), int(weights.nonzero()[0][-1]))


def roomy_layers(states: Sequence[tuple[Tensor, Tensor] | None]) -> list[Any]:
    """Layers of a key-value cache that hold `states`, [B, heads, L, D] each, or nothing yet."""
    from plumbline.infer.roomy_cache import RoomyLayer

    return [RoomyLayer.of(held) for held in states]


def _common_beginning(many: Sequence[list[int]]) -> list[int]:
    """What all lists begin with; the first and the last in order differ earliest."""
    if not many:
        return []
    first, last = min(many), max(many)
    differ = next(
        (place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first)
    )
    return first[:differ]


def _kept(batch: Batch, stay: Sequence[int]) -> Batch:
    """The rows at some places; columns that are padding for all of them go."""
    import torch

    index = torch.tensor(stay, device=batch.mask.device)
    mask = batch.mask[index]
    used = mask.any(0)
    columns = used.nonzero()[:, 0]
    narrower = len(columns) < len(used)

    def taken(part: Tensor) -> Tensor:
        return part[index][:, :, columns] if narrower else part[index]

    cache = roomy_layers([(taken(layer.keys), taken(layer.values)) for layer in batch.cache])
    rows = [batch.rows[number] for number in stay]
    return Batch(rows, cache, mask[:, columns], batch.positions[index], batch.logits[index])


def _joined(one: Batch, other: Batch) -> Batch:
    """Both, the shorter one padded on the left."""
    import torch
    from torch.nn import functional

    width = max(one.mask.shape[1], other.mask.shape[1])

    def together(mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.cat([functional.pad(part, (0, 0, width - part.shape[2], 0)) for part in (mine, theirs)])

    cache = [
        (together(mine.keys, theirs.keys), together(mine.values, theirs.values))
        for mine, theirs in zip(one.cache, other.cache, strict=True)
    ]
    masks = [functional.pad(batch.mask, (width - batch.mask.shape[1], 0)) for batch in (one, other)]
    return Batch(
        [*one.rows, *other.rows],
        roomy_layers(cache),
        torch.cat(masks),
        torch.cat([one.positions, other.positions]),
        torch.cat([one.logits, other.logits]),
    )
