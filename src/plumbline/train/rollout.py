"""Sampled answers for on-policy (student) and sequential (teacher) distillation.

Works on encoded batches: the prompt's ids and pixels are already there, so nothing is encoded twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plumbline.train.batches import IGNORED

_IMAGE_PADS = re.compile(r"(<\|image_pad\|>)+")
DATASET, STUDENT, TEACHER = "dataset", "student", "teacher"


@dataclass(frozen=True)
class SamplingSettings:
    """When answers are sampled, and how.

    lmbda: share of the steps on the student's own answers; seq_kd: the other steps use the teacher's answers;
    max_completion_length: tokens; completions: a file for what was sampled.
    """

    lmbda: float = 0.0
    seq_kd: bool = False
    temperature: float = 0.9
    max_completion_length: int = 256
    completions: Path | None = None


def choose_source(seed: int, step: int, lmbda: float, seq_kd: bool) -> str:
    """Where the answers of an optimiser step come from; equal on every rank and after a resume.

    With probability `lmbda` the student samples them; otherwise the teacher does (`seq_kd`) or the dataset gives them.
    """
    if lmbda > 0 and np.random.default_rng((seed, step, 0x6B64)).random() < lmbda:
        return STUDENT
    return TEACHER if seq_kd else DATASET


def prompt_lengths(labels: Tensor, attention_mask: Tensor) -> Tensor:
    """Index one past each row's prompt: where its last supervised span starts, or its end without any; labels [B, L].

    The last span, so that every image of an earlier turn keeps its place in the prompt.
    """
    supervised = labels != IGNORED
    starts = supervised & ~torch.nn.functional.pad(supervised[:, :-1], (1, 0))
    positions = torch.arange(labels.shape[1], device=labels.device)
    end = (attention_mask.bool() * (positions + 1)).amax(-1)
    return torch.where(supervised.any(-1), (starts * positions).amax(-1), end)


def _left_padded(rows: list[Tensor], value: int) -> Tensor:
    width = max(row.numel() for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (width - row.numel(), 0), value=value) for row in rows])


def _prompts(batch: dict[str, Any], pad_id: int) -> dict[str, Tensor]:
    """The batch up to each row's answer, left-padded: ids, mask and modality [B, P], pixels as they are."""
    mask = batch["attention_mask"].bool()
    ends = prompt_lengths(batch["labels"], batch["attention_mask"])
    spans = [(row[:end], keep[:end]) for row, keep, end in zip(batch["input_ids"], mask, ends, strict=True)]
    prompts = {
        "input_ids": _left_padded([row[keep] for row, keep in spans], pad_id),
        "attention_mask": _left_padded([keep[keep].long() for _, keep in spans], 0),
    }
    kinds = batch.get("mm_token_type_ids")
    if kinds is not None:
        cut = [kind[:end][keep[:end]] for kind, keep, end in zip(kinds, mask, ends, strict=True)]
        prompts["mm_token_type_ids"] = _left_padded(cut, 0)
    return prompts | {key: batch[key] for key in ("pixel_values", "image_grid_thw") if key in batch}


def _up_to_stop(sampled: Tensor, stop_ids: list[int]) -> Tensor:
    """Mask [B, N] of the tokens up to and including each row's first stop token."""
    stops = torch.isin(sampled, torch.tensor(stop_ids, device=sampled.device))
    return stops.int().cumsum(-1) - stops.int() == 0


def generate_answers(
    base: Any,
    batch: dict[str, Any],
    *,
    temperature: float,
    max_new_tokens: int,
    tokenizer: Any,
    key: tuple[int, ...],
) -> dict[str, Any]:
    """The batch with sampled answers in the place of its own, labels included.

    base: the generating model, its adapters as the caller set them; key: seeds the sampling and nothing else.
    temperature 0 is greedy. Rows without a stop token keep all `max_new_tokens`. A row without an answer of its own (it
    takes the place of a record that was skipped) stays without supervision.
    """
    prompts = _prompts(batch, tokenizer.pad_token_id)
    stop_ids = sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")})
    # Every knob is set: a checkpoint's own generation_config would truncate what it samples.
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    device = prompts["input_ids"].device
    training = base.training
    base.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(int(np.random.default_rng(key).integers(2**62)))
            ids = base.generate(
                **prompts,
                max_new_tokens=max_new_tokens,
                eos_token_id=stop_ids,
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
                repetition_penalty=1.0,
                **sampling,
            )
    finally:
        base.train(training)
    joined = _joined(prompts, ids[:, prompts["input_ids"].shape[1] :], stop_ids)
    joined["labels"][(batch["labels"] == IGNORED).all(-1)] = IGNORED
    return joined


def completions(batch: dict[str, Any], tokenizer: Any) -> list[tuple[str, str]]:
    """(prompt, answer) of each sampled row as text; a picture is one `<|image_pad|>`, however large it is."""
    found = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], strict=True):
        answer = labels != IGNORED
        prompt = tokenizer.decode(ids[mask & ~answer])
        found.append((_IMAGE_PADS.sub("<|image_pad|>", prompt), tokenizer.decode(ids[answer])))
    return found


def _joined(prompts: dict[str, Tensor], sampled: Tensor, stop_ids: list[int]) -> dict[str, Tensor]:
    keep = _up_to_stop(sampled, stop_ids)
    joined = dict(prompts)
    joined["input_ids"] = torch.cat([prompts["input_ids"], sampled], 1)
    joined["attention_mask"] = torch.cat([prompts["attention_mask"], keep.long()], 1)
    labels = sampled.masked_fill(~keep, IGNORED)
    joined["labels"] = torch.cat([torch.full_like(prompts["input_ids"], IGNORED), labels], 1)
    if "mm_token_type_ids" in prompts:
        joined["mm_token_type_ids"] = torch.cat([prompts["mm_token_type_ids"], torch.zeros_like(sampled)], 1)
    return joined
