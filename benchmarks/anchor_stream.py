"""A step whose anchors hold a fifth of its tokens against plain fine-tuning on the same tokens.

    python benchmarks/anchor_stream.py --json

Hidden 256 x 8 layers, LoRA of the language model, float32, batches of one sample. Every optimiser step is a whole
epoch: eight records to learn and two anchors, chats about pictures of the same size, whose answers are as long. Steps
of both kinds take turns in one process: one learns all ten, the next learns eight and compares two with the base, which
reads these alone. `cached` is a second process in which the base's rows come from `rlhf.teacher_cache`. Medians after
the first step of each kind. The cross-entropy of the eight must agree to 1e-4, or this fails.

The floor: with a share a of the tokens in anchors a step costs (2 + a) forward passes of the layers instead of 2, and
(2 + a) products with the head: 1.10 at a fifth. Cached, the products alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import kd_step
from packing_train import write_records

LEARNED, ANCHORS = 8, 2


def write_shapes(folder: Path, steps: int) -> dict[str, Path]:
    """The file of each case."""
    from plumbline.model.tiny import build_tiny

    model = build_tiny(folder / "model", "small")
    write_records(folder, LEARNED + ANCHORS, most=6)
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    records, anchors = folder / "learned.jsonl", folder / "anchors.jsonl"
    records.write_text("\n".join(lines[:LEARNED]) + "\n", encoding="utf-8")
    anchors.write_text("".join(map(chat_of, lines[LEARNED:])), encoding="utf-8")
    source = {"name": "anchors", "role": "anchor", "train_jsonl": str(anchors), "ratio": ANCHORS / LEARNED}
    shape = {
        "model": str(model),
        "records": str(records),
        "steps": steps,
        "device": "cpu",
        "batch": 1,
        "accumulation": LEARNED + ANCHORS,
        "tuner": kd_step.tuner(kd_step.LAYERS["top"], upper=False),
        "custom": {"fusion": {"sources": [source]}},
    }
    files = {}
    for name, cache in (("anchored", None), ("cached", str(folder / "rows"))):
        distilled = {"llm_kd_weight": 0.0, "sft_alpha": 1.0, "teacher_cache": cache}
        files[name] = folder / f"{name}.json"
        files[name].write_text(json.dumps({**shape, "rlhf": distilled}), encoding="utf-8")
    return files


def take_turns() -> None:
    """Every second step learns its anchors as it learns everything else."""
    from plumbline.train.step import StepMixin

    plain, anchors = StepMixin.get_batch_samples, {}

    def get_batch_samples(self: Any, *args: Any) -> Any:
        anchors.update(self._anchors)
        self._anchors = {} if self.state.global_step % 2 else dict(anchors)
        return plain(self, *args)

    StepMixin.get_batch_samples = get_batch_samples  # type: ignore[method-assign]


def one_case(shape_file: Path) -> dict[str, Any]:
    """Both kinds of steps in this process."""
    from harness import stepclock

    stepclock.install()
    take_turns()
    with tempfile.TemporaryDirectory() as folder:
        kd_step.run_ours(Path(folder), json.loads(shape_file.read_text(encoding="utf-8")), teacher=True)
    clock = stepclock.StepClock.last
    anchored, plain = clock.seconds[2::2], clock.seconds[3::2]
    learned = [log["train/sft_loss/target"] for log in clock.logs[:2]]
    assert abs(learned[0] - learned[1]) <= 1e-4 * learned[1], learned
    return {
        "s": statistics.median(anchored),
        "sft_s": statistics.median(plain),
        "ratio": statistics.median(one / other for one, other in zip(anchored, plain, strict=True)),
        "mb": clock.grown_mb(),
        "supervised": round(clock.logs[0]["train/token_count"]),
    }


def chat_of(line: str) -> str:
    """A record as a chat: the same picture, and the description of its objects as the answer."""
    record = json.loads(line)
    answer = json.dumps(record["objects"], ensure_ascii=False)
    content = [{"type": "image", "image": record["images"][0]}, {"type": "text", "text": "这张图片里有什么?"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


def measure(rounds: int) -> dict[str, Any]:
    """Everything that is printed."""
    with tempfile.TemporaryDirectory() as name:
        files = write_shapes(Path(name), 2 * (rounds + 1))
        found = {case: harness.fresh_process(__file__, "--case", file) for case, file in files.items()}
    return {
        "over_sft": round(found["anchored"]["ratio"], 3),
        "over_sft_cached": round(found["cached"]["ratio"], 3),
        **{f"{case}_s": round(figures["s"], 4) for case, figures in found.items()},
        **{f"{case}_sft_s": round(figures["sft_s"], 4) for case, figures in found.items()},
        **{f"{case}_mb": round(figures["mb"], 1) for case, figures in found.items()},
        "anchor_share": ANCHORS / (LEARNED + ANCHORS),
        "supervised_tokens": found["anchored"]["supervised"],
        "floor": 1 + ANCHORS / (LEARNED + ANCHORS) / 2,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="steps of each kind; the first is not counted")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        with contextlib.redirect_stdout(sys.stderr):
            figures = one_case(options.case)
        print(json.dumps(figures))
        return
    harness.show(measure(options.rounds), options)


if __name__ == "__main__":
    main()
