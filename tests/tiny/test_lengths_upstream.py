"""Our arithmetic of lengths against the upstream's own code: the image processor's grid and the template's encoding."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plumbline.batch.lengths import PixelLimits, exact_length, grid_size
from plumbline.batch.tokens import TokenCounter
from plumbline.data.dataset import DatasetSettings, RecordDataset, RecordFile

pytestmark = pytest.mark.slow

TEXTS = [
    "BBU设备/品牌:华为",
    " leading",
    "\nnewline",
    "trailing \n",
    '光纤\t,"x"',
    "🙂é",
    "1234 5678",
    "a" * 50,
    "\n\n{",
]


@pytest.fixture(scope="module")
def template(tiny_model: Path) -> Any:
    """The upstream's template of the tiny checkpoint, in training mode."""
    from swift.model import get_processor
    from swift.template import get_template

    processor = get_processor(str(tiny_model), model_type="qwen3_vl")
    template = get_template(processor, template_type="qwen3_vl", max_length=None)
    template.set_mode("train")
    return template


def test_the_grid_is_the_image_processor_s() -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    rng = random.Random(0)
    checked = 0
    for _ in range(20_000):
        width, height = (int(2 ** rng.uniform(6, 13.5)) for _ in range(2))
        least = rng.choice([4096, 65_536])
        limits = PixelLimits(16, 2, least, rng.choice([65_536, 1_000_000, 16_777_216]))
        try:
            grid = grid_size(width, height, limits)
        except ValueError:
            assert max(width, height) / min(width, height) > 150
            continue
        assert grid[::-1] == smart_resize(height, width, 32, limits.min_pixels, limits.max_pixels)
        checked += 1
    assert checked > 19_000


def records(folder: Path) -> list[dict[str, Any]]:
    """Pictures of every shape, objects, summaries over several pictures, and chats, around awkward text."""
    rng = random.Random(1)
    rows: list[dict[str, Any]] = []
    for number in range(30):
        names = [f"{number}_{index}.png" for index in range(1 if number % 3 else rng.randint(1, 3))]
        for name in names:
            Image.new("RGB", (rng.randint(5, 600), rng.randint(5, 600))).save(folder / name)
        width, height = Image.open(folder / names[0]).size
        row = {"images": names, "width": width, "height": height, "summary": rng.choice(TEXTS) + "x"}
        if len(names) == 1:
            row["objects"] = [
                {"desc": rng.choice(TEXTS), "line": [rng.uniform(0, 5) for _ in range(2 * rng.randint(2, 9))]}
                for _ in range(rng.randint(1, 9))
            ]
        rows.append(row)
    for text in TEXTS:
        picture = {"type": "image", "image": "0_0.png"}
        turns = [
            {"role": "system", "content": text},
            {
                "role": "user",
                "content": [{"type": "text", "text": text}, picture, {"type": "text", "text": "?" + text}],
            },
            {"role": "assistant", "content": text},
            {"role": "user", "content": text},
            {"role": "assistant", "content": text + "x"},
        ]
        rows += [{"messages": turns}, {"messages": turns[3:]}]
    return rows


@pytest.mark.parametrize("mode", ["dense", "summary"])
@pytest.mark.parametrize("max_pixels", [None, 20_000])
def test_a_sample_is_as_long_as_the_template_encodes_it(tiny_model, template, tmp_path, mode, max_pixels) -> None:
    from plumbline.train.batches import Encoder

    path = tmp_path / "d.jsonl"
    rows = [row for row in records(tmp_path) if mode == "summary" or "objects" in row or "messages" in row]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    dataset = RecordDataset(RecordFile(path), DatasetSettings(mode=mode))
    limits, tokenizer = PixelLimits.of_folder(tiny_model, max_pixels), TokenCounter(tiny_model)
    assert limits == PixelLimits.of_processor(template.processor.image_processor, max_pixels)
    encoder = Encoder(template, limits, 100_000, template.image_token_id, limits.merge)
    for index in range(len(dataset)):
        sample = dataset.item(index)
        assert exact_length(sample, tokenizer, limits) == len(encoder(sample)["input_ids"]), rows[index]
