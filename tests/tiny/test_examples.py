"""The public names of the package, and the examples, as a user runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import plumbline

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def example(tmp_path):
    """Runs an example with words: its output."""

    def run(name, *words):
        command = [sys.executable, str(ROOT / "examples" / name), *map(str, words)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_every_public_name_is_there_and_importing_loads_no_torch():
    assert all(getattr(plumbline, name) is not None for name in plumbline.__all__)
    assert set(plumbline.__all__) <= set(dir(plumbline))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = plumbline.nothing
    code = "import sys, plumbline; plumbline.read_records, plumbline.parse_answer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training_from_python(example, write_run, tmp_path):
    assert f"trained: {tmp_path / 'run'}" in example("train_from_python.py", write_run())
    assert (tmp_path / "run" / "checkpoint-2" / "COMPLETE").exists()


def test_captions_of_a_folder(example, train, tiny_model, records, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(sorted(records[0].parent.rglob("*.png"))[:2]):
        shutil.copy(picture, photos / f"{number}.png")
    (photos / "broken.png").write_bytes(b"no picture")
    trained = train().last
    said = example("caption_folder.py", trained, photos).splitlines()
    assert [line.split(": ")[0] for line in said[:3]] == [str(photos / f"{n}.png") for n in ("0", "1", "broken")]
    assert "error:image" in said[2] and "error" not in said[0]


def test_a_captioner_gives_the_rows_of_infer(train, plumbline, records, tmp_path):
    from PIL import Image

    from plumbline import Captioner, Sampling
    from plumbline.storage.rows import read_rows

    trained = train().last
    pictures = sorted(records[0].parent.rglob("*.png"))[:3]
    rows = list(Captioner(trained, sampling=Sampling(max_new_tokens=8), batch_size=2).describe(pictures))
    output = tmp_path / "rows.jsonl"
    for number, picture in enumerate(pictures):
        shutil.copy(picture, tmp_path / f"{number}.png")
    words = ("--model", trained, "--input", tmp_path, "--output", output, "--max-new-tokens", 8, "--batch-size", 2)
    assert plumbline("infer", *words)[0] in (0, 3)
    assert [row.text for row in rows] == [row["text"] for row in read_rows(output)]
    with Image.open(pictures[0]) as image:
        again = next(iter(Captioner(trained, sampling=Sampling(max_new_tokens=8)).describe([image.convert("RGBA")])))
    assert again.text == rows[0].text and again.image == ""


def test_an_operation_of_ones_own(write_run, train):
    from plumbline.augment.ops import COLOUR, NAMES, OPERATIONS

    augmentation = {"enabled": True, "ops": [{"name": "banding", "params": {"strength": 0.9, "prob": 1.0}}]}
    custom = {"plugins": [str(ROOT / "examples" / "custom_op.py")], "augmentation": augmentation}
    try:
        banded = train("banded", custom=custom).series("train/sft_loss")
    finally:
        NAMES.pop(OPERATIONS.pop("banding"))
        COLOUR.pop("banding")
    assert banded != train("plain").series("train/sft_loss")
