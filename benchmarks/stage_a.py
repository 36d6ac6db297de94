"""Replies of ragged lengths in batches, against one at a time and against ms-swift's engine.

    python benchmarks/stage_a.py --json

The tiny checkpoint with its language weights shaken, so that its greedy replies wander instead of looping, and with
some tokens declared end marks beside the real one: nine of ten replies then end before the limit, at lengths spread
from a few tokens up, as those of dense captions do. "sequential" is our engine with one row at a time, "batched" with
its best batch size, "swift_infer" is the engine of `swift infer` with its best. The replies of all are compared, text
by text.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from PIL import Image

from plumbline.data.prompts import default_prompts
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Request
from plumbline.infer.local import TransformersEngine
from plumbline.model.checkpoints import MARKER_FILE, mark_complete

LIMIT = 384
SIZES = ((256, 256), (320, 192), (192, 320), (224, 256), (128, 128))


def photos(count: int) -> list[Image.Image]:
    """Pictures of several sizes."""
    made = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        made.append(Image.fromarray(coarse).resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC))
    return made


def requests_for(pictures: list[Image.Image]) -> list[Request]:
    """The dense question about each."""
    system, user = default_prompts().of_mode("dense")
    return [Request(f"p{n}", (picture,), system, user, Sampling(LIMIT)) for n, picture in enumerate(pictures)]


def make_model(folder: Path, asked: list[Request]) -> Path:
    """The shaken checkpoint, whose replies to `asked` end at ragged lengths."""
    from plumbline.model.tiny import build_tiny

    build_tiny(folder)
    engine = TransformersEngine(folder, batch_size=16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in engine.model.model.language_model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * weight.std() * 3)
    tokenizer = engine.processor.tokenizer
    replies = [tokenizer(reply.text)["input_ids"] for reply in engine.generate(asked)]
    engine.model.generation_config.eos_token_id = [151645, *end_marks(replies)]
    engine.model.save_pretrained(folder)
    (folder / MARKER_FILE).unlink(missing_ok=True)
    mark_complete(folder)
    return folder


def end_marks(replies: list[list[int]]) -> list[int]:
    """Tokens that end nine of ten replies before the limit, and half of them not before a third of it."""
    first: dict[int, dict[int, int]] = defaultdict(dict)
    for number, tokens in enumerate(replies):
        for place, token in enumerate(tokens):
            first[token].setdefault(number, place)
    lengths, chosen = np.full(len(replies), LIMIT), []
    for token in np.random.default_rng(0).permutation(sorted(first)).tolist():
        shorter = lengths.copy()
        for number, place in first[token].items():
            shorter[number] = min(shorter[number], place + 1)
        if np.median(shorter) >= LIMIT / 3 and shorter.min() >= 8:
            lengths = shorter
            chosen.append(token)
        if (lengths == LIMIT).mean() <= 0.1:
            break
    return chosen


def swift_texts(folder: Path, asked: list[Request], batch_size: int, shared: dict[str, Any]) -> tuple[list[str], float]:
    """(texts, seconds) of ms-swift's engine."""
    from swift.infer_engine import InferRequest, RequestConfig
    from swift.infer_engine import TransformersEngine as SwiftEngine

    if "engine" not in shared:
        shared["engine"] = SwiftEngine(str(folder), model_type="qwen3_vl", torch_dtype=torch.float32)
    engine = shared["engine"]
    engine.max_batch_size = batch_size
    theirs = [
        InferRequest(
            messages=[{"role": "system", "content": item.system}, {"role": "user", "content": f"<image>{item.user}"}],
            images=[item.images[0]],
        )
        for item in asked
    ]
    began = time.perf_counter()
    replies = engine.infer(theirs, RequestConfig(max_tokens=LIMIT, temperature=0.0), use_tqdm=False)
    return [reply.choices[0].message.content for reply in replies], time.perf_counter() - began


def _without(text: str, marks: list[str]) -> str:
    return next((text.removesuffix(mark) for mark in marks if text.endswith(mark)), text)


def ours(engine: TransformersEngine, asked: list[Request], batch_size: int) -> tuple[list[Any], float]:
    """(replies, seconds); nothing is left from earlier calls."""
    engine.batch_size, engine._prefix = batch_size, ([], [])
    engine._features.clear()
    began = time.perf_counter()
    replies = engine.generate(asked)
    return replies, time.perf_counter() - began


def measure(count: int, batch_sizes: list[int]) -> dict[str, Any]:
    """Everything that is printed."""
    asked = requests_for(photos(count))
    with tempfile.TemporaryDirectory() as name:
        folder = make_model(Path(name) / "model", asked)
        engine = TransformersEngine(folder)
        ours(engine, asked[:2], 2)  # warm
        sequential, sequential_s = ours(engine, asked, 1)
        batched = {size: ours(engine, asked, size) for size in batch_sizes}
        shared: dict[str, Any] = {}
        swift_texts(folder, asked[:2], 2, shared)
        swift = {size: swift_texts(folder, asked, size, shared) for size in batch_sizes}
    # ms-swift leaves an end mark that is no special token in the text.
    marks = [engine.processor.tokenizer.decode([token]) for token in engine._ends]
    theirs = {size: [_without(text, marks) for text in texts] for size, (texts, _) in swift.items()}
    equal = {
        size: sum(one == reply.text for one, reply in zip(texts, sequential, strict=True))
        for size, texts in theirs.items()
    }
    identical = all(replies == sequential for replies, _ in batched.values())
    best = min(batched, key=lambda size: batched[size][1])
    best_swift = min(swift, key=lambda size: swift[size][1])
    lengths = [reply.tokens for reply in sequential]
    batched_s, swift_s = batched[best][1], swift[best_swift][1]
    return {
        "sequential_s": round(sequential_s, 2),
        "batched_s": round(batched_s, 2),
        "speedup": round(sequential_s / batched_s, 2),
        "swift_infer_s": round(swift_s, 2),
        "vs_swift": round(swift_s / batched_s, 2),
        "identical": identical,
        "swift_equal": equal[best_swift],
        "batch_size": best,
        "swift_batch_size": best_swift,
        "batched_s_by_size": {size: round(seconds, 2) for size, (_, seconds) in batched.items()},
        "swift_s_by_size": {size: round(seconds, 2) for size, (_, seconds) in swift.items()},
        "images": count,
        "reply_tokens": {
            "min": min(lengths),
            "median": float(np.median(lengths)),
            "max": max(lengths),
            "sum": sum(lengths),
        },
        "threads": torch.get_num_threads(),
        "floor": "the output head read once per step: 156 MB a token alone, shared by the rows of a batch",
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        figures = measure(options.images, options.batch_sizes)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
