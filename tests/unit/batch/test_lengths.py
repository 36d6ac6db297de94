"""Grid arithmetic and token lengths without a model; equality with the upstream is proved in tests/tiny."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from plumbline.batch.lengths import (
    PixelLimits,
    chat_length,
    exact_length,
    grid_size,
    image_tokens,
    rendered_parts,
    resize_to_grid,
)
from plumbline.batch.measure import Lengths, lengths, settings_of
from plumbline.batch.tokens import TokenCounter
from plumbline.data.dataset import DatasetSettings, RecordDataset, RecordFile
from plumbline.data.images import ImagePolicy
from plumbline.data.messages import ask_messages
from plumbline.errors import ConfigError, DamagedFileError, DataError

LIMITS = PixelLimits(patch=16, merge=2, min_pixels=65_536, max_pixels=16_777_216)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a whitespace tokenizer (every unknown word is one token) and an image processor's numbers."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    numbers = {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}}
    (folder / "preprocessor_config.json").write_text(json.dumps(numbers))
    return folder


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((640, 480), (640, 480)),
        ((650, 470), (640, 480)),
        ((100, 100), (256, 256)),  # grown to the least area
        ((8000, 6000), (4704, 3520)),  # shrunk to the most area
        ((2000, 10), (3648, 32)),
    ],
)
def test_grid(size, grid) -> None:
    assert grid_size(*size, LIMITS) == grid
    assert image_tokens(*size, LIMITS) == grid[0] * grid[1] // 1024
    picture = resize_to_grid(Image.new("L", size), LIMITS)
    assert picture.size == grid
    assert resize_to_grid(picture, LIMITS) is picture


@pytest.mark.parametrize("size", [(2011, 10), (10, 2011), (0, 5)])
def test_a_picture_too_thin_for_the_grid_is_refused(size, checkpoint) -> None:
    with pytest.raises(ValueError, match="picture of"):
        grid_size(*size, LIMITS)
    with pytest.raises(DataError, match="picture of"):
        chat_length([], [size], TokenCounter(checkpoint), LIMITS)


def test_limits_from_files_and_from_a_processor_agree(checkpoint) -> None:
    processor = SimpleNamespace(patch_size=16, merge_size=2, size={"shortest_edge": 65_536, "longest_edge": 16_777_216})
    assert PixelLimits.of_folder(checkpoint) == PixelLimits.of_processor(processor) == LIMITS
    assert PixelLimits.of_folder(checkpoint, 100_000).max_pixels == 100_000
    nested = {"image_processor": json.loads((checkpoint / "preprocessor_config.json").read_text())}
    (checkpoint / "preprocessor_config.json").rename(checkpoint / "old.json")
    with pytest.raises(DamagedFileError, match="neither"):
        PixelLimits.of_folder(checkpoint)
    (checkpoint / "processor_config.json").write_text(json.dumps(nested))
    assert PixelLimits.of_folder(checkpoint) == LIMITS
    (checkpoint / "processor_config.json").write_text('{"image_processor": {"patch_size": 16}}')
    with pytest.raises(DamagedFileError, match="lacks 'merge_size'"):
        PixelLimits.of_folder(checkpoint)
    (checkpoint / "processor_config.json").write_text("{")
    with pytest.raises(DamagedFileError, match="cannot be read"):
        PixelLimits.of_folder(checkpoint)


def test_a_most_area_below_the_least_is_refused(checkpoint) -> None:
    with pytest.raises(ConfigError, match=r"template\.max_pixels"):
        PixelLimits.of_folder(checkpoint, 1000)


def test_prompts_and_answers_are_rendered_apart() -> None:
    chat = ask_messages(["a", "b"], "sys", "q")["messages"]
    chat += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "more"}]
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert list(rendered_parts(chat)) == [
        f"<|im_start|>system\nsys<|im_end|>\n<|im_start|>user\n{picture}{picture}q<|im_end|>\n<|im_start|>assistant\n",
        "x<|im_end|>\n",
        "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n",
    ]


@pytest.mark.parametrize("told", [True, False])
def test_a_sample_is_measured_by_its_record_or_by_the_header(told, checkpoint, tmp_path) -> None:
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    if told:
        (tmp_path / "a.png").write_bytes(b"never opened")
    record = {"images": ["a.png"], "summary": "one two three"} | ({"width": 640, "height": 480} if told else {})
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n")
    policy = ImagePolicy(roots=(str(tmp_path),))
    settings = DatasetSettings(mode="summary", policy=policy)
    sample = RecordDataset(RecordFile(tmp_path / "d.jsonl"), settings).item(0)
    counter = TokenCounter(checkpoint)
    rest = chat_length(sample.messages, [(32, 32)], counter, PixelLimits(16, 2, 1024, 10**6)) - 1
    assert exact_length(sample, counter, LIMITS) == rest + 20 * 15


def test_damaged_tokenizers_are_named(checkpoint) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(DamagedFileError, match="is not a tokenizer"):
        TokenCounter(checkpoint)
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(DamagedFileError, match="no such file"):
        TokenCounter(checkpoint)


def test_the_report_counts_every_sample_once() -> None:
    tokens = np.arange(100, 200)
    row = Lengths(tokens).as_dict(max_length=149)
    assert row["over_limit"] == 50
    assert row["tokens"]["p50"] == 149.5
    assert sum(item["count"] for item in row["histogram"]) == 100
    assert row["histogram"][0]["from"] == 100
    assert row["histogram"][-1]["to"] == 199
    assert Lengths(np.array([], dtype=np.int64)).as_dict(10)["measured"] == 0


def test_command_line(checkpoint, tmp_path, capsys) -> None:
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    rows = [{"images": [name], "summary": "x"} for name in ("a.png", "gone.png")]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = settings_of("summary", "norm1000", [], None)
    assert lengths(path, checkpoint, settings, as_json=True) == 3
    row = json.loads(capsys.readouterr().out)
    assert (row["measured"], row["failed"], row["over_limit"]) == (1, 1, 0)
    assert "gone.png: no such file" in row["problems"][0]
    assert lengths(path, checkpoint, settings_of("summary", "none", [], 1), max_length=300) == 3
    out = capsys.readouterr().out
    assert "1 samples are longer than 300 tokens" in out
    assert lengths(path, checkpoint, settings_of("summary", "none", [], 1)) == 0
