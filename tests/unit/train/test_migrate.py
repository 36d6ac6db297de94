"""`plumbline config migrate`: today's names in place, comments kept, the rest named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from plumbline.train.config import check_file
from plumbline.train.migrate import migrate

OLD = """\
# our first run
model:
  model_name_or_path: /models/qwen  # the base
tuner:
  train_type: lora   # small
  target_modules: [all-linear]
training:
  evaluation_strategy: "no"
  save_last_epoch: true
  overwrite_output_dir: true
custom:
  train_jsonl: train.jsonl
  object_ordering_policy: reference_tlbr
  hard_sample_mining:
    enabled: true

    ratio: 2     # twice
  augmentation:
    enabled: true
    ops:
      - name: resize_by_scale
        params: {lo: 0.8, hi: 1.2, align_multiple: 32, prob: 0.5}
      - name: hsv
        params:
          hue_delta_deg: [-8, 8]
          sat: [0.9, 1.1]
          val: [0.8, 1.1]
      - name: scale
        params:
          lo: 0.9   # least
          hi: 1.1
      - name: random_crop
        params: {scale: [0.5, 1.0], aspect_ratio: [0.8, 1.2], skip_if_line: true}
      - name: clahe
        params: {clip_limit: 2.0, tile_grid_size: [8, 8]}
global_max_length: 4096
"""
OPS = [
    {"name": "resize_by_scale", "params": {"factor": [0.8, 1.2], "multiple": 32, "prob": 0.5}},
    {"name": "hsv", "params": {"hue_deg": 8, "saturation": 0.1, "value": 0.2}},
    {"name": "scale", "params": {"factor": [0.9, 1.1]}},
    {"name": "random_crop", "params": {"area": [0.5, 1.0], "aspect": [0.8, 1.2], "line_policy": "skip"}},
    {"name": "clahe", "params": {"clip_limit": [2.0, 2.0], "tiles": 8}},
]


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "old.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write


def test_an_earlier_run_becomes_one_of_today(write, plumbline, tmp_path: Path) -> None:
    old, new = write(OLD), tmp_path / "new.yaml"
    code, _, error = plumbline("config", "migrate", old, "--output", new)
    assert code == 0, error
    assert f"{old}:3: model_name_or_path -> model" in error and "hard_sample_mining is commented out" in error
    values = yaml.safe_load(new.read_text("utf-8"))
    assert values["model"]["model"] == "/models/qwen" and values["tuner"]["tuner_type"] == "lora"
    assert values["training"] == {"eval_strategy": "no"}
    assert values["custom"]["object_ordering"] == "top_left" and values["custom"]["augmentation"]["ops"] == OPS
    assert not check_file(new).problems
    lines = new.read_text("utf-8").splitlines()
    assert len(lines) == len(OLD.splitlines()), "nothing is moved"
    for comment in ("# our first run", "# the base", "# small", "# twice", "# least"):
        assert any(comment in line for line in lines)
    assert migrate(new)[0].changes == () and migrate(new)[0].text == new.read_text("utf-8")


def test_what_a_person_must_decide_is_printed_and_the_old_file_stays(write, plumbline, tmp_path: Path) -> None:
    old = write("model: {model_name_or_path: m}\nprompts: {scheme: A}\ncustom:\n  toon: 0.1\n")
    code, out, error = plumbline("config", "migrate", old)
    assert code == 3 and out.startswith("model: {model: m}\n")
    assert f"decide: {old}:2:11: unknown key `prompts.scheme`" in error
    assert "unknown key `custom.toon`" in error
    assert old.read_text() == "model: {model_name_or_path: m}\nprompts: {scheme: A}\ncustom:\n  toon: 0.1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["old.yaml"]


MOVED = """\
training:
  external_plugins:   # ours
  - a.py
  - b.py
  max_steps: 3
  disable_tqdm: true
data:
  eval_dataset: val.jsonl
custom:
  train_jsonl: t.jsonl
  bypass_prob: 0.1   # of the pictures
  augmentation_curriculum:
    phases:
      # the first half
      - {until_percent: 50, bypass_prob: 0.5}
{augmentation}
"""


@pytest.mark.parametrize("augmentation", ["", "  augmentation:\n    enabled: false\n", "    # nothing yet"])
def test_keys_move_to_the_section_that_has_them_today(write, augmentation) -> None:
    old = write(MOVED.replace("{augmentation}", augmentation))
    found, _ = migrate(old)
    values = yaml.safe_load(found.text)
    assert values["custom"].pop("augmentation") == {
        "bypass_prob": 0.1,
        "curriculum": {"phases": [{"until_percent": 50, "bypass_prob": 0.5}]},
    } | ({"enabled": False} if "enabled" in augmentation else {})
    assert values == {
        "training": {"max_steps": 3},
        "data": None,
        "custom": {"train_jsonl": "t.jsonl", "plugins": ["a.py", "b.py"], "val_jsonl": "val.jsonl"},
    }
    for comment in ("# ours", "# of the pictures", "# the first half", "# disable_tqdm: true"):
        assert comment in found.text
    assert f"{old}:11: bypass_prob -> custom.augmentation.bypass_prob" in found.changes


def test_a_section_of_its_own_is_made_for_a_moved_key(write) -> None:
    found, _ = migrate(write("data:\n  eval_dataset: v.jsonl\n  data_seed: 3\n"))
    assert yaml.safe_load(found.text) == {"data": {"data_seed": 3}, "custom": {"val_jsonl": "v.jsonl"}}


@pytest.mark.parametrize(
    "text",
    [
        "custom: {bypass_prob: 0.1}\n",
        "custom:\n  bypass_prob: 0.1\n  augmentation: {enabled: true}\n",
        "custom:\n  bypass_prob: 0.1\n  augmentation:\n    bypass_prob: 0.2\n",
    ],
)
def test_what_cannot_be_moved_stays_for_a_person(write, plumbline, text: str) -> None:
    old = write(text)
    assert migrate(old)[0].text == text
    code, _, error = plumbline("config", "migrate", old)
    assert code == 3 and "write `custom.augmentation.bypass_prob`" in error


def test_both_names_keep_the_new_one(write) -> None:
    found, _ = migrate(write("tuner:\n  train_type: lora\n  tuner_type: full\n"))
    assert yaml.safe_load(found.text) == {"tuner": {"tuner_type": "full"}}


def test_a_stage_b_file_is_served_too(write, plumbline) -> None:
    old = write(
        "stage_a_paths: [a.jsonl]\nengine: {model: m}\nsignals:\n  a: {b: 1}\n\n  c: 2\n"
        "output:\n  run_name: first # ours\n"
    )
    code, out, error = plumbline("config", "migrate", old)
    assert code == 0, error
    assert yaml.safe_load(out) == {
        "stage_a_paths": ["a.jsonl"],
        "engine": {"model": "m"},
        "output": {"run": "first"},
    }
    assert "# ours" in out


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n", "!!python/object:os.system {}\n", "- 1\n"])
def test_what_is_no_configuration_is_refused(write, plumbline, text: str) -> None:
    assert plumbline("config", "migrate", write(text))[0] == 2


def test_an_output_that_is_there_stays(write, plumbline, tmp_path: Path) -> None:
    old = write(OLD)
    code, _, error = plumbline("config", "migrate", old, "-o", old)
    assert code == 1 and "is there already" in error and old.read_text("utf-8") == OLD
