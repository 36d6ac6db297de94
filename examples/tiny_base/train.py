"""Trains the small base model of `plumbline.model.learned`: a Qwen3-VL of 36 M parameters that can see a little.

    python examples/tiny_base/train.py --output output/tiny_base

First the vision tower learns from dense targets alone. Then the whole model learns to talk, and keeps the dense
targets. Both parts are numbered steps over numbered lessons, so a run can be stopped and goes on where it was. Only the
rows of the vocabulary that occur are trained; all other rows share one centre, whose weight in the softmax is known in
closed form, so training never multiplies by 150,000 rows.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eyes import first_looks, patches
from lessons import NUMBERS, SHAPES, SMALL, DenseTargets, Lesson, caption_lesson, small_lesson, talk_lesson, text_lesson
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen3VLForConditionalGeneration
from vocabulary import Vocabulary

from plumbline.demo.everyday import COLOURS, KINDS, MOST_THINGS, SIZES
from plumbline.model.learned import SIZE, UNUSED_STD
from plumbline.model.tiny import TinySize, build_config, initial_value

SEED = 2026
SEEN = 32  # small pictures of a step of the first part
CAPTIONS, TALKS, TEXTS = 8, 6, 2  # lessons of a step of the second part
LONG_EVERY = 10
DENSE_WEIGHT = 0.3
BINS, BLUR = 101, 2.0  # a coordinate's targets: bins of a hundredth of the picture, and their spread
_IGNORED = -100


@dataclass(frozen=True)
class Phase:
    """One part of the training."""

    name: str
    steps: int
    rate: float
    talks: bool


def phases(see: int, talk: int) -> tuple[Phase, Phase]:
    """The eyes alone, then everything."""
    return Phase("see", see, 1.5e-3, False), Phase("talk", talk, 1e-3, True)


class DenseHead(nn.Module):
    """Linear read-outs of the visual tokens; they are thrown away after the training."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = {
            "kind": len(KINDS) + 1,
            "colour": len(COLOURS),
            "shape": len(SHAPES),
            "rank": MOST_THINGS,
            "numbers": BINS * NUMBERS,
            "mask": 64,
        }
        self.linear = nn.Linear(width, sum(self.sizes.values()))

    def forward(self, visual: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Mean loss over the targets of `visual` [N, width], and how right each is."""
        parts = dict(zip(self.sizes, self.linear(visual).split(list(self.sizes.values()), dim=-1), strict=True))
        losses, right = [], {}
        for name in ("kind", "colour", "shape", "rank"):
            logits, target = parts[name], targets[name]
            if name == "kind":
                target = torch.where(target < 0, logits.shape[-1] - 1, target)  # nothing there
            known = target >= 0
            losses.append(functional.cross_entropy(logits[known], target[known]))
            right[name] = float((logits.argmax(-1) == target)[known].float().mean())
        known = targets["numbers"] >= 0
        logits = parts["numbers"].view(len(visual), NUMBERS, BINS)[known]
        place = targets["numbers"][known].float() / 1000 * (BINS - 1)
        bins = torch.arange(BINS)
        soft = torch.softmax(-((bins - place[:, None]) ** 2) / (2 * BLUR**2), dim=-1)
        losses.append(2 * functional.cross_entropy(logits, soft))
        right["off"] = float((logits.softmax(-1) @ bins.float() - place).abs().mean() / (BINS - 1))
        losses.append(4 * functional.binary_cross_entropy_with_logits(parts["mask"], targets["mask"]))
        right["mask"] = float(((parts["mask"] > 0) == (targets["mask"] > 0.5)).float().mean())
        return torch.stack(losses).sum(), right


class Base(nn.Module):
    """The model over the vocabulary that occurs, its dense head, and the centre of the rows that do not occur."""

    def __init__(self, size: TinySize, vocabulary: Vocabulary, seed: int):
        super().__init__()
        config = build_config(size)
        config.text_config.vocab_size = len(vocabulary)
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
            setattr(config, name, vocabulary.index(getattr(config, name)))
        torch.manual_seed(seed)
        self.model = Qwen3VLForConditionalGeneration(config).float()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(self.model.named_parameters()):
                if name.endswith("embed_tokens.weight"):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * UNUSED_STD)
                else:
                    parameter.copy_(initial_value(name, parameter, size, generator))
        self.model.tie_weights()
        self.model.model.visual.pos_embed.weight.requires_grad_(False)
        self.dense = DenseHead(size.hidden)
        self.centre = nn.Parameter(torch.zeros(size.hidden))
        self.unused = vocabulary.unused
        first_looks(self.model.model.visual)
        _read_patches_by_a_product(self.model.model.visual.patch_embed)

    def see(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Dense loss of the pictures alone."""
        output = self.model.model.visual(batch["pixels"], batch["grid"])
        return self.dense(output.pooler_output, batch["targets"])

    def talk(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the answers plus a share of the dense loss."""
        seen: list[Tensor] = []
        hook = self.model.model.visual.register_forward_hook(lambda _, __, output: seen.append(output.pooler_output))
        states = self.model.model(
            input_ids=batch["ids"],
            pixel_values=batch["pixels"],
            image_grid_thw=batch["grid"],
            mm_token_type_ids=(batch["ids"] == self.model.config.image_token_id).int(),
            attention_mask=batch["mask"],
        ).last_hidden_state
        hook.remove()
        labels = batch["labels"][:, 1:]
        chosen = labels != _IGNORED
        rows, labels = states[:, :-1][chosen], labels[chosen]
        logits = rows @ self.model.lm_head.weight.T
        unused = math.log(self.unused) + rows @ self.centre + (UNUSED_STD**2 / 2) * rows.square().sum(-1)
        loss = (torch.logaddexp(logits.logsumexp(-1), unused) - logits.gather(1, labels[:, None])[:, 0]).mean()
        dense, right = self.dense(seen[0], batch["targets"])
        right["token"] = float((logits.argmax(-1) == labels).float().mean())
        right["ce"] = float(loss)
        return loss + DENSE_WEIGHT * dense, right


def _read_patches_by_a_product(patch_embed: nn.Module) -> None:
    """The patches do not overlap, so the convolution is a matrix product, which is faster on a CPU."""

    def forward(pixels: Tensor) -> Tensor:
        weight = patch_embed.proj.weight
        return functional.linear(pixels, weight.flatten(1), patch_embed.proj.bias)

    patch_embed.forward = forward


# -- batches ---------------------------------------------------------------------------------------------------------


class Steps(Dataset[list[dict[str, Any]]]):
    """The batches of each step of a phase."""

    def __init__(self, phase: Phase, vocabulary: Vocabulary, first: int):
        self.phase, self.vocabulary, self.first = phase, vocabulary, first

    def __len__(self) -> int:
        return self.phase.steps - self.first

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        torch.set_num_threads(1)
        step = self.first + index
        seed = SEED + self.phase.talks
        if not self.phase.talks:
            return [collate([small_lesson(seed, SEEN * step + place) for place in range(SEEN)], self.vocabulary)]
        # long prompts and small pictures together, so that the others need no padding
        is_long, sizes = step % LONG_EVERY == 0, SMALL if step % 2 else SIZES
        captions = [caption_lesson(seed, CAPTIONS * step + place, sizes, is_long) for place in range(CAPTIONS)]
        talks = [talk_lesson(seed + 10, TALKS * step + place, sizes, is_long) for place in range(TALKS)]
        talks += [text_lesson(seed, TEXTS * step + place, self.vocabulary.words) for place in range(TEXTS)]
        return [collate(lessons, self.vocabulary) for lessons in (captions, talks)]


def collate(lessons: list[Lesson], vocabulary: Vocabulary) -> dict[str, Any]:
    """One batch, padded on the right."""
    tokens = [vocabulary.encode(lesson) for lesson in lessons]
    longest = max(len(ids) for ids, _ in tokens)
    ids = torch.full((len(tokens), longest), vocabulary.pad)
    labels = torch.full((len(tokens), longest), _IGNORED)
    mask = torch.zeros((len(tokens), longest), dtype=torch.long)
    for row, (own, supervised) in enumerate(tokens):
        chosen = torch.tensor(own, dtype=torch.long)
        ids[row, : len(own)] = chosen
        labels[row, : len(own)] = torch.where(torch.tensor(supervised, dtype=torch.bool), chosen, _IGNORED)
        mask[row, : len(own)] = 1
    pictures = [lesson.picture for lesson in lessons if lesson.picture is not None]
    targets = [lesson.targets for lesson in lessons if lesson.targets is not None]
    return {
        "ids": ids,
        "labels": labels,
        "mask": mask,
        "pixels": torch.cat([patches(picture) for picture in pictures]),
        "grid": torch.tensor([[1, picture.shape[0] // 16, picture.shape[1] // 16] for picture in pictures]),
        "targets": {
            field.name: torch.from_numpy(np.concatenate([getattr(target, field.name) for target in targets]))
            for field in fields(DenseTargets)
        },
    }


# -- training --------------------------------------------------------------------------------------------------------


def train(output: Path, planned: tuple[Phase, Phase], size: TinySize) -> None:
    """Train, or go on, and leave `output/base.pt`."""
    output.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary.build()
    base = Base(size, vocabulary, SEED)
    state = output / "state.pt"
    done: dict[str, int] = {}
    kept: dict[str, Any] = {}
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        base.load_state_dict(kept["base"])
        done = kept["done"]
    for phase in planned:
        first = done.get(phase.name, 0)
        if first >= phase.steps:
            continue
        optimizer = torch.optim.AdamW(
            [parameter for parameter in base.parameters() if parameter.requires_grad],
            lr=phase.rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
        )
        if first:
            optimizer.load_state_dict(kept["optimizer"])
        loader = DataLoader(Steps(phase, vocabulary, first), batch_size=None, num_workers=1, prefetch_factor=8)
        run_phase(phase, base, optimizer, iter(loader), first, done, output)
    torch.save({"base": base.state_dict(), "vocabulary": vocabulary.ids}, output / "base.pt")


def run_phase(
    phase: Phase,
    base: Base,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[list[dict[str, Any]]],
    first: int,
    done: dict[str, int],
    output: Path,
) -> None:
    """The steps of one phase from `first` on; the state is kept every 200 steps."""
    begun, sums = time.perf_counter(), dict[str, list[float]]()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step, step_batches in enumerate(batches, start=first):
        for group in optimizer.param_groups:
            group["lr"] = phase.rate * rate_share(step, phase.steps)
        for name, batch in zip(("captions", "talks") if phase.talks else ("seen",), step_batches, strict=True):
            loss, right = (base.talk if phase.talks else base.see)(batch)
            loss.backward()
            for key, value in {"loss": float(loss), **right}.items():
                sums.setdefault(f"{name}_{key}", []).append(value)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0:
            means = {name: round(float(np.nanmean(values)), 4) for name, values in sums.items()}
            row = {"phase": phase.name, "step": step + 1, "s": round(time.perf_counter() - begun, 1), **means}
            sums = {}
            with (output / "log.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            print(row, flush=True)
        if (step + 1) % 200 == 0 or step + 1 == phase.steps:
            done[phase.name] = step + 1
            kept = {"base": base.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
            torch.save(kept, output / "state.part")
            (output / "state.part").rename(output / "state.pt")


def rate_share(step: int, steps: int) -> float:
    """Warm-up over 100 steps, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/tiny_base"))
    parser.add_argument("--see", type=int, default=4000, help="steps of the first part")
    parser.add_argument("--talk", type=int, default=2800, help="steps of the second part")
    options = parser.parse_args()
    train(options.output, phases(options.see, options.talk), SIZE)
