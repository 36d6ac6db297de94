"""Evaluation of 5,000 pictures of 20 mixed objects, its bootstraps, and its AP against pycocotools.

    python benchmarks/evaluate.py --json

Boxes, quads, polygons and lines in equal parts; a prediction is missing, moved, of another class or doubled with fixed
probabilities. `wall_s`: reading both files, every figure, AP of the boxes, no intervals. `bootstrap_s`: 1,000 paired
draws of every figure of two models. Equal AP is asserted before anything is timed (pycocotools on the first pictures:
it takes a minute for all of them). The floor of `wall_s` is decoding both files as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

from plumbline.evaluate.coco import NAMES, coco_boxes, to_coco
from plumbline.evaluate.figures import compare, dense_figures
from plumbline.evaluate.pairs import pair_files
from plumbline.evaluate.run import evaluate_file

WIDTH, HEIGHT = 1920, 1080
CLASSES = (
    "BBU设备/品牌:华为",
    "光纤/颜色:黄色/保护:有保护",
    "挡风板/方向:正确",
    "标签/文字:无法识别",
    "电线/捆扎:整齐",
)
PEER_PICTURES = 300
DRAWS = 1000


def write_files(folder: Path, pictures: int, objects: int) -> tuple[Path, Path]:
    """(annotations, predictions)."""
    draw = random.Random(0)
    truth, found = folder / "truth.jsonl", folder / "found.jsonl"
    with truth.open("w", encoding="utf-8") as annotated, found.open("w", encoding="utf-8") as predicted:
        for number in range(pictures):
            image = f"{number}.jpg"
            own = [an_object(draw, index % 4) for index in range(objects)]
            row = {"images": [image], "width": WIDTH, "height": HEIGHT, "objects": own}
            annotated.write(json.dumps(row, ensure_ascii=False) + "\n")
            replies = [reply for each in own for reply in replies_to(draw, each)]
            answer = {"key": image, "image": image, "width": WIDTH, "height": HEIGHT, "objects": replies}
            predicted.write(json.dumps(answer | {"text": "", "status": "ok", "problems": []}) + "\n")
    return truth, found


def an_object(draw: random.Random, kind: int) -> dict[str, Any]:
    x, y = draw.randint(0, WIDTH - 400), draw.randint(0, HEIGHT - 400)
    w, h = draw.randint(20, 380), draw.randint(20, 380)
    shapes = (
        {"bbox_2d": [x, y, x + w, y + h]},
        {"quad": [x, y + 5, x + w - 5, y, x + w, y + h - 5, x + 5, y + h]},
        {"poly": [x, y, x + w, y, x + w, y + h, x + w // 2, y + h // 2, x, y + h]},
        {"line": [x, y, x + w, y + h // 2, x + w, y + h]},
    )
    return {**shapes[kind], "desc": draw.choice(CLASSES)}


def replies_to(draw: random.Random, each: dict[str, Any]) -> list[dict[str, Any]]:
    """What a mediocre model says of an object: nothing, it, or it twice."""
    if draw.random() < 0.15:
        return []
    kind = next(name for name in each if name != "desc")
    moved = [number + draw.randint(-12, 12) for number in each[kind]]
    if kind == "bbox_2d":
        moved = [min(moved[::2]), min(moved[1::2]), max(moved[::2]) + 1, max(moved[1::2]) + 1]
    desc = draw.choice(CLASSES) if draw.random() < 0.1 else each["desc"]
    return [{kind: moved, "desc": desc}] * (1 + (draw.random() < 0.05))


def check_against_peer(truth: Path, found: Path) -> float:
    """Largest difference of an AP or AR to pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pairs = pair_files(truth, found, limit=PEER_PICTURES).pairs
    annotations, results = to_coco(pairs)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCO()
        peer.dataset = annotations
        peer.createIndex()
        evaluation = COCOeval(peer, peer.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = coco_boxes(pairs)
    return max(
        abs((-1.0 if ours[name] is None else ours[name]) - value)
        for name, value in zip(NAMES, evaluation.stats[: len(NAMES)], strict=True)
    )


def decoding_seconds(*files: Path) -> float:
    began = time.perf_counter()
    for file in files:
        for line in file.open("rb"):
            json.loads(line)
    return time.perf_counter() - began


def measure(pictures: int, objects: int) -> dict[str, Any]:
    """Everything that is printed."""
    with tempfile.TemporaryDirectory() as name:
        truth, found = write_files(Path(name), pictures, objects)
        difference = check_against_peer(truth, found)
        assert difference <= 1e-6, difference
        began = time.perf_counter()
        evaluation = evaluate_file(truth, found, bootstraps=0)
        wall = time.perf_counter() - began
        began = time.perf_counter()
        compare(evaluation.counts, evaluation.counts, dense_figures, DRAWS)
        drawn = time.perf_counter() - began
        return {
            "wall_s": round(wall, 2),
            "bootstrap_s": round(drawn, 2),
            "max_ap_diff_pycocotools": difference,
            "floor_s": round(decoding_seconds(truth, found), 2),
            "floor": "both files decoded as JSON",
            "pictures": pictures,
            "objects": objects,
            "f1_50": evaluation.figures["f1_50"].value,
        }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--objects", type=int, default=20, help="objects annotated on each picture")
    options = parser.parse_args()
    harness.show(measure(options.pictures, options.objects), options)


if __name__ == "__main__":
    main()
