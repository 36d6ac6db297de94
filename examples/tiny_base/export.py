"""Writes the weights that ship and their card, with the scores of the whole model on scenes that it has not seen.

python examples/tiny_base/export.py output/tiny_base
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from train import SEED

from plumbline.data.read import write_records
from plumbline.demo.everyday import everyday_record, plan_everyday, render_everyday
from plumbline.demo.everyday_talk import Exchange, random_exchange, text_exchanges
from plumbline.evaluate.run import evaluate_file
from plumbline.infer.caption_run import run_captions
from plumbline.infer.config import InferSettings, Sampling
from plumbline.infer.engine import Request
from plumbline.infer.local import TransformersEngine
from plumbline.infer.plan import plan_captions
from plumbline.model.learned import CENTRE, NOT_SHIPPED, ROW_IDS, ROWS, build_learned

SHIPPED = Path(__file__).parents[2] / "src" / "plumbline" / "model" / "learned_base"
HELD_OUT = 100
HELD_OUT_SEED = SEED + 1000


def export(trained: Path, target: Path = SHIPPED) -> None:
    """Write `weights.safetensors`: bfloat16, without what is made again."""
    kept = torch.load(trained / "base.pt", weights_only=True)
    own = {name.removeprefix("model."): value for name, value in kept["base"].items() if name.startswith("model.")}
    rows = own["model.language_model.embed_tokens.weight"]
    weights = {name: value.bfloat16().contiguous() for name, value in own.items() if name not in NOT_SHIPPED}
    weights |= {ROWS: rows.bfloat16().contiguous(), CENTRE: kept["base"]["centre"].bfloat16()}
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights | {ROW_IDS: torch.tensor(kept["vocabulary"], dtype=torch.int32)}, target / "weights.safetensors")


def scores(model: Path, folder: Path, count: int) -> dict[str, float]:
    """F1 at IoU .5 of captions, F1 of summary items, and the share of right answers with and without a picture."""
    records, requests, truths = [], [], []
    draw = np.random.default_rng(HELD_OUT_SEED)
    for number in range(count):
        scene = plan_everyday(HELD_OUT_SEED, number)
        name = f"{number:04d}.png"
        Image.fromarray(render_everyday(scene)).save(folder / name)
        records.append(everyday_record(scene, name))
        exchange = random_exchange(scene, draw)
        requests.append(_request(exchange, str(number), (Image.open(folder / name).convert("RGB"),)))
        truths.append(exchange.answer)
    truth = folder / "held_out.jsonl"
    write_records(truth, records)
    engine = TransformersEngine(model, batch_size=8)
    found: dict[str, float] = {}
    for mode, figure, tokens in (("dense", "f1_50", 400), ("summary", "summary_item_f1", 80)):
        settings = InferSettings(
            model=model,
            input=truth,
            output=folder / f"{mode}.jsonl",
            mode=mode,
            emit_norm="norm1000",
            sampling=Sampling(max_new_tokens=tokens),
            resume=False,
        )
        run_captions(plan_captions(settings), lambda: engine)
        evaluation = evaluate_file(truth, settings.output, mode=mode)
        found[figure] = evaluation.figures[figure].value
        if mode == "dense":
            found["f1_50_any_class"] = evaluation.figures["f1_50_any_class"].value
    found["picture_questions"] = _right(engine, requests, truths)
    texts = text_exchanges()
    asked = [_request(exchange, f"t{number}", ()) for number, exchange in enumerate(texts)]
    found["text_questions"] = _right(engine, asked, [exchange.answer for exchange in texts])
    return found


def _request(exchange: Exchange, key: str, images: tuple[Image.Image, ...]) -> Request:
    return Request(key, images, "", exchange.question, Sampling(64))


def _right(engine: TransformersEngine, requests: Sequence[Request], truths: Sequence[str]) -> float:
    answers = [reply.text.strip() for reply in engine.generate(requests)]
    return float(np.mean([answer == truth for answer, truth in zip(answers, truths, strict=True)]))


CARD = """# The small base

A Qwen3-VL of 36 M parameters (7.6 M of them besides the vocabulary), trained from random values by
`examples/tiny_base/train.py` on rendered everyday scenes and short questions. It exists so that a fine-tune has
something to forget on a machine without a GPU. It knows nothing of photographs.

| on {count} scenes that it has not seen | |
|---|---|
| captions, F1 at IoU .5 (class and place) | {f1_50:.3f} |
| captions, F1 at IoU .5 (place alone) | {f1_50_any_class:.3f} |
| summaries, F1 of items | {summary_item_f1:.3f} |
| questions about the picture, answered word for word | {picture_questions:.3f} |
| the {texts} questions without a picture that it was taught, word for word | {text_questions:.3f} |

`python examples/tiny_base/export.py output/tiny_base`, {date}, two CPU cores.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("--target", type=Path, default=SHIPPED)
    parser.add_argument("--scenes", type=int, default=HELD_OUT)
    options = parser.parse_args()
    export(options.trained, options.target)
    (options.target / "MODEL_CARD.md").touch()
    with tempfile.TemporaryDirectory() as scratch:
        built = build_learned(Path(scratch) / "model")
        found = scores(built, Path(scratch), options.scenes)
    card = CARD.format(count=options.scenes, texts=len(text_exchanges()), date=datetime.now(UTC).date(), **found)
    (options.target / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(found)
