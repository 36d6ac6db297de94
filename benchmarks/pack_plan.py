"""Planning packs from metadata against encoding every sample to learn its length.

    python benchmarks/pack_plan.py --json

Site photos of 12 megapixels (3000 x 4000, JPEG) with ten objects each and augmentation on; the tiny checkpoint with the
real tokenizer and image processor. "Planned" is record -> augmentation plan -> exact length, all pictures together as
training plans them, one process; "encoded" is the same sample through the training encoder: decode, render, template.
Every planned length must equal the encoded one. The 100,000 records are planned as training does it, with every core of
the machine.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness.memory import resident_mb
from PIL import Image

from plumbline.augment.config import AugmentationConfig
from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import ScheduledAugmentation
from plumbline.batch.lengths import PixelLimits
from plumbline.batch.packing import LengthMeter, RunLength, plan_packs
from plumbline.batch.schedule import SampleKey, StepShape
from plumbline.batch.tokens import TokenCounter
from plumbline.data.dataset import DatasetSettings
from plumbline.data.epoch import EpochDataset, Source
from plumbline.data.mixture import Mixture

WIDTH, HEIGHT, OBJECTS, PICTURES = 3000, 4000, 10, 4
MAX_PIXELS, CAPACITY = 1 << 20, 4096
PLAN_ROUNDS = 7
CHAIN = {
    "hflip": {"prob": 0.5},
    "rotate": {"max_deg": 8.0, "prob": 0.4},
    "scale": {"prob": 0.3},
    "random_crop": {"prob": 0.3},
    "resize_by_scale": {"prob": 0.5},
    "color_jitter": {"prob": 0.5},
    "pad_to_multiple": {},
}
DESCS = (
    "BBU设备/品牌:华为/型号:5900/显示完整",
    "螺丝/符合要求",
    "光纤/颜色:黄色/保护:蛇形管",
    "标签/4G-RRU3-光纤",
    "电线/捆扎整齐",
)


def write_photos(folder: Path) -> None:
    """A few photograph-like pictures: smooth ground, edges, sensor noise."""
    for number in range(PICTURES):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 255, (HEIGHT // 100, WIDTH // 100, 3), dtype=np.uint8))
        ground = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(ground + rng.integers(-12, 13, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=85)


def write_records(folder: Path, count: int) -> Path:
    """`count` records over those pictures: boxes, quads, polygons and lines."""
    draw = random.Random(0)
    path = folder / f"{count}.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            objects = [_object(draw, kind % 5) for kind in range(draw.randint(OBJECTS // 2, OBJECTS * 3 // 2))]
            row = {"images": [f"{number % PICTURES}.jpg"], "width": WIDTH, "height": HEIGHT, "objects": objects}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _object(draw: random.Random, kind: int) -> dict[str, Any]:
    x, y, w, h = draw.randint(0, 2000), draw.randint(0, 3000), draw.randint(40, 900), draw.randint(40, 900)
    shapes = (
        {"bbox_2d": [x, y, x + w, y + h]},
        {"bbox_2d": [x, y, x + w, y + h]},
        {"quad": [x, y, x + w, y + 20, x + w - 10, y + h, x + 5, y + h - 15]},
        {"poly": [x, y, x + w, y, x + w // 2, y + h // 2, x + w, y + h, x, y + h]},
        {"line": [x, y, x + w, y + h, x + w + 30, y + h + 90]},
    )
    return {**shapes[kind], "desc": DESCS[draw.randrange(len(DESCS))]}


def open_samples(path: Path) -> EpochDataset:
    """The samples of a file with augmentation."""
    source = Source.of_file(str(path), DatasetSettings())
    chain = tuple(OPERATIONS[name](**params) for name, params in CHAIN.items())
    config = AugmentationConfig(enabled=True, bypass_prob=0.1, ops=chain)
    return EpochDataset([source], Mixture((source.share,), seed=1), ScheduledAugmentation(config, 1000))


def encoder_of(model: Path) -> Any:
    """The encoder that training uses."""
    from swift.model import get_processor
    from swift.template import get_template

    from plumbline.train.batches import Encoder

    template = get_template(get_processor(str(model), model_type="qwen3_vl"), template_type="qwen3_vl")
    template.set_mode("train")
    vision = json.loads((model / "config.json").read_text())
    limits = PixelLimits.of_folder(model, MAX_PIXELS)
    return Encoder(template, limits, CAPACITY, vision["image_token_id"], vision["vision_config"]["spatial_merge_size"])


def measure(samples_count: int, records_count: int) -> dict[str, Any]:
    """Everything that is printed."""
    from plumbline.model.tiny import build_tiny

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_tiny(folder / "model")
        write_photos(folder)
        limits, counter = PixelLimits.of_folder(model, MAX_PIXELS), TokenCounter(model)
        small = LengthMeter(open_samples(write_records(folder, samples_count)), counter, limits)
        keys = [SampleKey(position) for position in range(samples_count)]
        small.many(keys)  # caches warm, as in the middle of a file
        rounds = []
        for _ in range(PLAN_ROUNDS):
            began = time.perf_counter()
            planned = small.many(keys)
            rounds.append((time.perf_counter() - began) / samples_count * 1e3)
        plan_ms = statistics.median(rounds)
        encoder = encoder_of(model)
        encoder(small.samples.item(0))
        began = time.perf_counter()
        encoded = [len(encoder(small.samples.item(key.position))["input_ids"]) for key in keys]
        encode_ms = (time.perf_counter() - began) / samples_count * 1e3
        planned_alone = harness.fresh_process(__file__, "--plan", write_records(folder, records_count), model)
    return {
        "plan_ms_per_image": round(plan_ms, 4),
        "encode_ms_per_image": round(encode_ms, 2),
        "speedup": round(encode_ms / plan_ms, 1),
        "mismatches": sum(a != b for a, b in zip(planned, encoded, strict=True)),
        **planned_alone,
        "images": samples_count,
        "picture": [WIDTH, HEIGHT],
        "objects_mean": OBJECTS,
        "records": records_count,
        "floor": "one parse of the record's JSON (about 300 bytes an object) and one pass over its points",
    }


def plan_alone(path: Path, model: Path) -> dict[str, Any]:
    """Open and plan a file in a process of its own; `getrusage` would tell the memory of the one that started it."""
    began = time.perf_counter()
    samples = open_samples(path)
    opened = time.perf_counter()
    meter = LengthMeter(samples, TokenCounter(model), PixelLimits.of_folder(model, MAX_PIXELS))
    packs = plan_packs(meter, CAPACITY, RunLength(1, StepShape()))
    planned = time.perf_counter()
    own = resident_mb("VmHWM")
    helper = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "fill": round(packs.fill, 5),
        "fill_bound": round(packs.fill_bound, 5),
        "records_opened_s": round(opened - began, 2),
        "records_planned_s": round(planned - opened, 2),
        "peak_rss_bytes": round(own * 1024 * 1024),
        "peak_rss_of_a_helper_bytes": helper * 1024,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=100, help="pictures planned and encoded")
    parser.add_argument("--records", type=int, default=100_000, help="records planned for the packs")
    parser.add_argument("--plan", nargs=2, type=Path, metavar=("JSONL", "MODEL"), help="only plan this file")
    options = parser.parse_args()
    if options.plan:
        print(json.dumps(plan_alone(*options.plan)))
        return
    with contextlib.redirect_stdout(sys.stderr):  # the trainer's own lines
        figures = measure(options.images, options.records)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
