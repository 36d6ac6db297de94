"""A step whose anchors hold a fifth of its tokens against plain fine-tuning on the same tokens.

    python benchmarks/anchor_stream.py --json

Hidden 256 x 8 layers, LoRA of the language model, float32, batches of one sample. Every optimiser step is a whole
epoch: eight records to learn and two anchors, chats about pictures of the same size, whose answers are as long. Plain
fine-tuning learns all ten; the anchored run learns eight and compares two with the base, which reads these alone;
`cached` takes the base's rows from `rlhf.teacher_cache`. Each figure comes from a fresh process: the median step after
the first. The cross-entropy of the eight must agree to 1e-4, or this fails.

The floor: with a share a of the tokens in anchors a step costs (2 + a) forward passes of the layers instead of 2, and
(2 + a) products with the head: 1.10 at a fifth, 1.05 cached (products alone, where they are half of the work).
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import harness
import kd_step
from packing_train import write_records

LEARNED, ANCHORS = 8, 2


def write_shapes(folder: Path, steps: int) -> dict[str, tuple[str, Path]]:
    """(kind of run, its file) of every case."""
    from plumbline.model.tiny import build_tiny

    model = build_tiny(folder / "model", "small")
    write_records(folder, LEARNED + ANCHORS, most=6)
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    records, anchors = folder / "learned.jsonl", folder / "anchors.jsonl"
    records.write_text("\n".join(lines[:LEARNED]) + "\n", encoding="utf-8")
    anchors.write_text("".join(map(chat_of, lines[LEARNED:])), encoding="utf-8")
    shape = {
        "model": str(model),
        "records": str(records),
        "steps": steps,
        "device": "cpu",
        "batch": 1,
        "accumulation": LEARNED + ANCHORS,
        "tuner": kd_step.tuner(kd_step.LAYERS["top"], upper=False),
    }
    source = {"name": "anchors", "train_jsonl": str(anchors), "ratio": ANCHORS / LEARNED, "augmentation": False}
    held = {"fusion": {"sources": [{**source, "role": "anchor"}]}}
    distilled = {"llm_kd_weight": 0.0, "sft_alpha": 1.0}
    shapes = {
        "sft": ("own_sft", {**shape, "custom": {"fusion": {"sources": [source]}}}),
        "anchored": ("ours", {**shape, "custom": held, "rlhf": distilled}),
        "cached": ("ours", {**shape, "custom": held, "rlhf": {**distilled, "teacher_cache": str(folder / "rows")}}),
    }
    files = {}
    for name, (kind, content) in shapes.items():
        files[name] = kind, folder / f"{name}.json"
        files[name][1].write_text(json.dumps(content), encoding="utf-8")
    return files


def chat_of(line: str) -> str:
    """A record as a chat: the same picture, and the description of its objects as the answer."""
    record = json.loads(line)
    answer = json.dumps(record["objects"], ensure_ascii=False)
    content = [{"type": "image", "image": record["images"][0]}, {"type": "text", "text": "这张图片里有什么?"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


def measure(steps: int, rounds: int) -> dict[str, Any]:
    """Everything that is printed."""
    with tempfile.TemporaryDirectory() as name:
        files = write_shapes(Path(name), steps)
        found: dict[str, list[dict[str, Any]]] = {case: [] for case in files}
        for _ in range(rounds):
            for case, (kind, file) in files.items():
                found[case].append(kd_step.fresh(kind, file))
    learned = {case: runs[0]["logged"]["train/sft_loss/target"] for case, runs in found.items()}
    for case, value in learned.items():
        assert abs(value - learned["sft"]) <= 1e-4 * abs(learned["sft"]), (case, learned)
    seconds = {case: statistics.median(run["s"] for run in runs) for case, runs in found.items()}
    logged = found["sft"][0]["logged"]
    return {
        "over_sft": round(seconds["anchored"] / seconds["sft"], 3),
        "over_sft_cached": round(seconds["cached"] / seconds["sft"], 3),
        **{f"{case}_s": round(value, 4) for case, value in seconds.items()},
        **{f"{case}_mb": round(statistics.median(run["mb"] for run in runs), 1) for case, runs in found.items()},
        "anchor_share": ANCHORS / (LEARNED + ANCHORS),
        "supervised_tokens": round(logged["train/token_count"]),
        "floor": 1 + ANCHORS / (LEARNED + ANCHORS) / 2,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--steps", type=int, default=4, help="steps per process; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    options = parser.parse_args()
    harness.show(measure(options.steps, options.rounds), options)


if __name__ == "__main__":
    main()
