"""From a record to a batch: encoding (pixels included) inside dataloader workers, collation, and named failures.

A worker cannot raise a readable error through the dataloader, so a record that cannot be encoded travels as a problem
with the rows of its batch. The main process then stops (`strict`, the default) or counts it; no other record takes
its place.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from plumbline.augment.plan import AugmentationPlan
from plumbline.augment.render import coloured, render
from plumbline.batch.lengths import PixelLimits, grid_size, resize_to_grid
from plumbline.batch.schedule import SampleKey, Unit
from plumbline.batch.tokens import TokenBytes
from plumbline.data.answer_kinds import token_kinds
from plumbline.data.dataset import Picture, Sample
from plumbline.data.epoch import EpochDataset
from plumbline.data.images import load_image
from plumbline.errors import DataError, Problem, UserError
from plumbline.model.server import as_server_content
from plumbline.train.identity import Chat, sample_key, supervised
from plumbline.train.telemetry import sample_tally

logger = logging.getLogger(__name__)

IGNORED = -100
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw")

Row = dict[str, Any]


@dataclass(frozen=True)
class Encoder:
    """Sample -> row (`input_ids`, `labels`, `pixel_values`, `image_grid_thw`, ...) through upstream's chat template.

    image_token_id: id of `<|image_pad|>`; merge: patches per visual token along one side; with_chat: whether rows carry
    the sample as a teacher's server receives it.
    """

    template: Any
    limits: PixelLimits
    max_length: int
    image_token_id: int
    merge: int
    with_chat: bool = False

    def __call__(self, sample: Sample) -> Row:
        """Encode one sample; raises DataError naming the record."""
        where = sample.record.place
        try:
            pictures = iter(sample.pictures)
            messages = [self._with_pixels(message, pictures) for message in sample.messages]
            row = self.template.encode({"messages": messages})
        except UserError as error:
            raise DataError(Problem(f"{where}: {p.where}", p.what, p.fix) for p in error.problems) from error
        except Exception as error:
            raise DataError(Problem(where, f"cannot be encoded: {error}", self._advice(error))) from error
        problems = row_problems(row, len(sample.images), self.image_token_id, self.merge)
        if problems:
            raise DataError([Problem(where, what, fix) for what, fix in problems])
        if self.with_chat:
            turns = [{**message, "content": as_server_content(message["content"])} for message in messages]
            row["chat"] = Chat(turns, *supervised(torch.as_tensor(row["labels"]), IGNORED))
        return row

    def _with_pixels(self, message: Mapping[str, Any], pictures: Iterator[Picture]) -> dict[str, Any]:
        content = message["content"]
        if isinstance(content, str):
            return dict(message)
        parts = [
            {"type": "image", "image": self._pixels(next(pictures))} if part["type"] == "image" else part
            for part in content
        ]
        return {**message, "content": parts}

    def _pixels(self, picture: Picture) -> Any:
        """The picture on the model's grid; its size must be the one by which the record's coordinates are scaled."""
        pixels = load_image(picture.reference)
        if picture.size is not None and pixels.size != picture.size:
            (width, height), (recorded_width, recorded_height) = pixels.size, picture.size
            what = f"the picture is {width} x {height}, the record says {recorded_width} x {recorded_height}"
            raise DataError(
                Problem(picture.reference[:200], what, "correct width and height (EXIF orientation applied)")
            )
        if picture.plan is None:
            return resize_to_grid(pixels, self.limits)
        assert isinstance(picture.plan, AugmentationPlan)
        return _augmented(pixels, picture.plan, self.limits)

    def _advice(self, error: Exception) -> str:
        if type(error).__name__ == "MaxLengthError":
            return f"the limit is {self.max_length} tokens: raise global_max_length, or lower template.max_pixels"
        return "correct the record, or set training.strict: false to count such records and go on"


def _augmented(pixels: Image.Image, plan: AugmentationPlan, limits: PixelLimits) -> Image.Image:
    """The planned picture on the model's grid: warped there at once, so that it is interpolated a single time."""
    if not plan.moves:
        resized = resize_to_grid(pixels, limits)
        return Image.fromarray(coloured(np.asarray(resized), plan)) if plan.colour else resized
    size = grid_size(plan.width, plan.height, limits)
    return Image.fromarray(render(np.asarray(pixels), plan, size))


def row_problems(row: Row, images: int, image_token_id: int, merge: int) -> list[tuple[str, str]]:
    """What is wrong with an encoded row, as (what, fix): the health checks of one sample.

    images: number of images in the record; merge: spatial merge size, so that one visual token covers merge**2 patches.
    """
    ids, labels = torch.as_tensor(row["input_ids"]), torch.as_tensor(row["labels"])
    tokens = int((ids == image_token_id).sum())
    found: list[tuple[str, str]] = []
    grid = row.get("image_grid_thw")
    grids = 0 if grid is None else len(grid)
    if images and not tokens:
        found.append((f"{images} image(s) but no image token", 'user content must use {"type": "image", "image": ...}'))
    if grids != images:
        found.append((f"{images} image(s) but {grids} image grid(s)", "one placeholder per image"))
    if grid is not None:
        patches = int(grid.prod(-1).sum())
        if patches // merge**2 != tokens:
            found.append((f"{tokens} image tokens but the grids give {patches // merge**2}", ""))
        if patches != len(row["pixel_values"]):
            found.append(
                (f"image_grid_thw gives {patches} patches but pixel_values has {len(row['pixel_values'])}", "")
            )
    if not bool((labels != IGNORED).any()):
        found.append(("no supervised token", "the record needs an answer (objects, summary or an assistant message)"))
    elif bool((labels[ids == image_token_id] != IGNORED).any()):
        found.append(("image tokens carry labels", "this is a fault of the template, not of the record"))
    elif bool(labels[0] != IGNORED):
        found.append(("the first token of the prompt is supervised", "the template does not mask the user's turn"))
    return found


class EncodedSamples(Dataset):
    """Map-style dataset of encoded rows. An item is the list of rows of a unit; a failure is `{"problem": Problem}`.

    sources: names by which rows are numbered; those of `samples` when absent. keyed: whether rows carry the key under
    which the teacher's rows are kept; with_kinds: whether they name the kind of each token of the answer.
    """

    def __init__(
        self,
        samples: EpochDataset,
        encoder: Encoder,
        sources: Sequence[str] = (),
        *,
        keyed: bool = False,
        with_kinds: bool = False,
    ):
        self.keyed = keyed
        self.pieces = TokenBytes(encoder.template.tokenizer) if with_kinds else None
        self.samples = samples
        self.encoder = encoder
        self.sources = list(sources) or [source.name for source in samples.sources]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, unit: Unit | int) -> list[Row]:
        """The rows of a unit of the schedule, or of the sample at a position of the first epoch (evaluation)."""
        return [self._row(key) for key in ((SampleKey(unit),) if isinstance(unit, int) else unit)]

    def _row(self, key: SampleKey) -> Row:
        try:
            sample = self.samples.item(key.position, key.epoch, key.step)
            row = self.encoder(sample)
        except UserError as error:
            return {"problem": error.problems[0]}
        found = len(row["input_ids"])
        if key.length and found != key.length:
            what = f"{found} tokens, but its pack was planned with {key.length}"
            return {"problem": Problem(sample.record.place, what, "a picture has changed since the plan: start again")}
        extras = {"source": self.sources.index(sample.source), "tally": sample_tally(sample, found)}
        if self.keyed:
            extras["entry"] = sample_key(row, IGNORED)
        if self.pieces is not None:
            extras["kinds"] = token_kinds([self.pieces[label] for label in row["labels"] if label != IGNORED])
        return {**row, **extras}


@dataclass
class BatchCollator:
    """Rows -> one batch of tensors, padded, or packed into a single row; keeps the batch's problems with it.

    sources: how many data sources there are; with several, a batch has the source of every label, and
    names those `present`. skipped: problems
    met so far in the main process, by record (only grows when `strict` is off).
    """

    template: Any
    strict: bool = True
    packing: bool = False
    sources: int = 1
    skipped: dict[str, Problem] = field(default_factory=dict)

    def __call__(self, units: list[list[Row]]) -> dict[str, Any]:
        """Collate; with nothing left, a row without supervision keeps the shape of the step and adds nothing to it."""
        rows = [row for unit in units for row in unit]
        problems = [row["problem"] for row in rows if "problem" in row]
        usable = [row for row in rows if "problem" not in row] or [self._empty_row()]
        batch = packed_batch(usable, self.template) if self.packing else self.template.data_collator(usable)
        kept = {key: batch[key] for key in (*MODEL_INPUTS, "labels") if batch.get(key) is not None}
        kept["tally"] = sum((row["tally"] for row in usable if "tally" in row), Counter(slots=kept["labels"].numel()))
        if any("entry" in row for row in usable):
            kept["entries"] = [row["entry"] for row in usable]
        if any("chat" in row for row in usable):
            kept["chats"] = [row["chat"] for row in usable]
        if any("kinds" in row for row in usable):
            kept["kinds"] = torch.zeros_like(kept["labels"])
            numbers = [kind for row in usable for kind in row["kinds"]]
            kept["kinds"][kept["labels"] != IGNORED] = torch.tensor(numbers)
        if self.sources > 1:
            kept["sources"] = self._sources(usable, kept["labels"])
            kept["present"] = sorted({row.get("source", 0) for row in usable})
        return {**kept, "problems": problems} if problems else kept

    def _sources(self, rows: list[Row], labels: Tensor) -> Tensor:
        """The number of the data source of every label; the shape of `labels`."""
        numbers = torch.tensor([row.get("source", 0) for row in rows])
        if not self.packing:
            return numbers[:, None].expand_as(labels).contiguous()
        return numbers.repeat_interleave(torch.tensor([len(row["input_ids"]) for row in rows]))[None]

    def _empty_row(self) -> Row:
        turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": "-"}]
        row = self.template.encode({"messages": turns})
        return {**row, "labels": [IGNORED] * len(row["labels"])}

    def raise_for_problems(self, batch: dict[str, Any]) -> None:
        """Stop at the first record that could not be encoded (strict), or count and name it once."""
        problems: list[Problem] = batch.pop("problems", [])
        if problems and self.strict:
            raise DataError(problems)
        for problem in problems:
            self.skip(problem)

    def skip(self, problem: Problem) -> None:
        """Count a record that is not trained on, and name it the first time."""
        if problem.where not in self.skipped:
            logger.warning("skipped: %s", problem)
        self.skipped[problem.where] = problem


def packed_batch(rows: list[Row], template: Any) -> dict[str, Tensor]:
    """All rows in one, without padding or mask.

    `input_ids`, `labels` [1, T]; `position_ids` [4, 1, T]: text positions, then the three rotary ones, all starting
    again with every sample; pictures one after the other.
    """
    positions = [template._get_position_ids(_as_batch(row))["position_ids"] for row in rows]
    batch = {
        "input_ids": torch.cat([torch.as_tensor(row["input_ids"]) for row in rows])[None],
        "labels": torch.cat([torch.as_tensor(row["labels"]) for row in rows])[None],
        "position_ids": torch.cat(positions, dim=-1),
    }
    for name in ("pixel_values", "image_grid_thw"):
        parts = [row[name] for row in rows if row.get(name) is not None]
        if parts:
            batch[name] = torch.cat(parts)
    return batch


def _as_batch(row: Row) -> Row:
    """What upstream's positions are computed from, as a batch of one."""
    ids = torch.as_tensor(row["input_ids"])
    kinds = row.get("mm_token_type_ids")
    kinds = torch.zeros_like(ids) if kinds is None else torch.as_tensor(kinds)
    return {"input_ids": ids[None], "mm_token_type_ids": kinds[None], "image_grid_thw": row.get("image_grid_thw")}
