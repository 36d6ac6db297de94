"""The small base that ships: always the same bytes, small, and it has learned something that can be forgotten."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.data.answer import to_pixels
from plumbline.data.parse import parse_answer
from plumbline.demo.everyday import plan_everyday, render_everyday
from plumbline.demo.everyday_talk import text_exchanges
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Request
from plumbline.infer.local import TransformersEngine
from plumbline.model.learned import build_learned

pytestmark = pytest.mark.slow

MOST_BYTES = 16_000_000
SCENES = 12
UNSEEN = 90_000  # a seed of scenes that no lesson was made from


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_learned(tmp_path_factory.mktemp("learned") / "model")


def test_it_is_small_and_always_the_same(learned: Path, tmp_path: Path) -> None:
    shipped = resources.files("plumbline.model") / "learned_base" / "weights.safetensors"
    assert len(shipped.read_bytes()) <= MOST_BYTES
    again = build_learned(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (learned, again)]
        assert digests[0] == digests[1], name
    assert "F1" in (learned / "README.md").read_text(encoding="utf-8"), "the card has its scores"


def test_it_sees_what_and_where(learned: Path) -> None:
    """Most things of scenes that it has not seen are named with their class, and lie where they lie."""
    engine = TransformersEngine(learned, batch_size=6)
    scenes = [plan_everyday(UNSEEN, number) for number in range(SCENES)]
    requests = [
        Request(str(number), (Image.fromarray(render_everyday(scene)),), "", "请描述图片中的所有物体。", Sampling(320))
        for number, scene in enumerate(scenes)
    ]
    found = things = 0
    for scene, reply in zip(scenes, engine.generate(requests), strict=True):
        objects, _ = to_pixels(parse_answer(reply.text), "norm1000", scene.width, scene.height)
        for thing in scene.things:
            things += 1
            mine = [item for item in objects if item.desc.split("/")[0] == thing.kind]
            found += any(_overlap(item.shape.bounds(), thing.shape.bounds()) >= 0.4 for item in mine)
    assert found >= 0.5 * things, f"{found} of {things}"


def test_it_knows_answers_without_a_picture(learned: Path) -> None:
    engine = TransformersEngine(learned, batch_size=8)
    asked = text_exchanges()[::5]
    requests = [Request(str(number), (), "", each.question, Sampling(32)) for number, each in enumerate(asked)]
    right = [reply.text.strip() == each.answer for each, reply in zip(asked, engine.generate(requests), strict=True)]
    assert sum(right) >= 0.6 * len(right)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """IoU of two boxes."""
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [float(np.prod(np.subtract(box[2:], box[:2]))) for box in (one, other)]
    return wide * high / max(sum(areas) - wide * high, 1e-9)
