"""The teacher's hidden rows on disk: found where nothing changed, never where something did."""

import itertools
import json
import math
import shutil
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from plumbline.errors import ConfigError, DataError
from plumbline.train import pipeline
from plumbline.train.identity import sample_key
from plumbline.train.launch import TrainOptions
from plumbline.train.run import run_training
from plumbline.train.teacher.cache import TeacherCache, teacher_fingerprint

pytestmark = pytest.mark.slow

SAME = ("train/loss", "train/llm_kd_loss", "train/sft_loss", "grad_norm")


@pytest.fixture
def forwards(monkeypatch):
    """Counts the passes through the language model."""
    calls = Counter()
    forward = Qwen3VLTextModel.forward

    def counted(self, *args, **kwargs):
        calls["passes"] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Qwen3VLTextModel, "forward", counted)
    return calls


@pytest.fixture
def gkd(tiny_model, tmp_path):
    def keys(**more):
        return {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "teacher_cache": str(tmp_path / "cache"), **more}

    return keys


def epochs(records, count, **training):
    lines = records[0].read_text().splitlines()
    steps = count * ((len(lines) + 1) // 2)
    return {"max_steps": steps, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, **training}


# ------------------------------------------------------------------------------------------------------- the store
def filled(folder, rows, flush=True):
    cache = TeacherCache(folder, "f", {})
    cache.add([("a", 2), ("b", 1)], rows)
    if flush:
        cache.flush()
    return cache


@pytest.mark.parametrize("flush", [True, False])
def test_rows_come_back_in_the_order_of_the_batch(tmp_path, flush):
    rows = torch.randn(3, 4)
    cache = filled(tmp_path, rows, flush)
    again = TeacherCache(tmp_path, "f", {}) if flush else cache
    assert torch.equal(again.rows([("b", 1), ("a", 2)], 4), rows[[2, 0, 1]])
    assert again.rows([("a", 2), ("c", 1)], 4) is None
    assert again.missing([("a", 2), ("c", 1)]) == [("c", 1)]
    assert len(again) == 2


def test_files_of_another_process_are_seen(tmp_path):
    mine, theirs = TeacherCache(tmp_path, "f", {}), filled(tmp_path, torch.zeros(3, 4))
    assert mine.rows([("a", 2)], 4) is not None
    assert len(list(theirs.folder.glob("rows-*"))) == 1


def test_another_teachers_rows_are_not_found(tmp_path):
    filled(tmp_path, torch.zeros(3, 4))
    assert TeacherCache(tmp_path, "g", {}).rows([("a", 2)], 4) is None


def test_damage_is_named(tmp_path):
    cache = filled(tmp_path, torch.zeros(3, 4))
    with pytest.raises(DataError, match=r"shape \(2, 4\) instead of \(3, 4\)"):
        cache.rows([("a", 3)], 4)
    (file,) = cache.folder.glob("rows-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:20])
    with pytest.raises(DataError, match="delete the file"):
        TeacherCache(tmp_path, "f", {})


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    from plumbline.train.teacher import cache as module

    cache = filled(tmp_path, torch.zeros(3, 4), flush=False)

    def interrupted(tensors, path):
        save_file(tensors, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "save_file", interrupted)
        cache.flush()
    assert [path.name for path in cache.folder.iterdir()] == ["teacher.json"]
    cache.flush()
    assert len(TeacherCache(tmp_path, "f", {})) == 2


def test_a_key_holds_what_the_teacher_reads():
    row = {
        "input_ids": [1, 2, 3, 4],
        "labels": [-100, -100, 3, 4],
        "pixel_values": torch.zeros(4, 2),
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
    }
    key, count = sample_key(row, -100)
    assert count == 2
    changes = {
        "input_ids": [1, 2, 3, 5],
        "labels": [-100, 2, 3, 4],
        "pixel_values": torch.ones(4, 2),
        "image_grid_thw": torch.tensor([[1, 1, 4]]),
    }
    others = {sample_key({**row, name: value}, -100)[0] for name, value in changes.items()}
    assert len(others | {key}) == 5
    assert sample_key({**row, "source": 3}, -100)[0] == key


def test_a_fingerprint_holds_weights_and_precision(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    one, _ = teacher_fingerprint(tiny_model, (), {"dtype": "float32"})
    assert teacher_fingerprint(copy, (), {"dtype": "float32"})[0] == one
    assert teacher_fingerprint(copy, (), {"dtype": "bfloat16"})[0] != one
    (weights,) = copy.glob("*.safetensors")
    tensors = load_file(weights)
    tensors[next(iter(tensors))].view(-1)[0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    assert teacher_fingerprint(copy, (), {"dtype": "float32"})[0] != one


# -------------------------------------------------------------------------------------------------------- training
def test_the_second_epoch_needs_no_teacher_and_the_numbers_stay(train, gkd, records, forwards):
    training = epochs(records, 2)
    apart = train("apart", rlhf=gkd(teacher_cache=None), training=training)
    assert forwards.pop("passes") == 2 * training["max_steps"]
    cached = train("cached", rlhf=gkd(), training=training)
    assert forwards.pop("passes") == 1.5 * training["max_steps"]
    for name in SAME:
        assert cached.series(name) == pytest.approx(apart.series(name), rel=1e-4, abs=1e-7), name
    again = train("again", rlhf=gkd(), training=training)
    assert forwards.pop("passes") == training["max_steps"]
    assert again.series("train/llm_kd_loss") == pytest.approx(apart.series("train/llm_kd_loss"), rel=1e-4, abs=1e-7)


def test_building_first_leaves_nothing_to_ask(write_run, train, gkd, records, forwards, tmp_path, capsys):
    training = epochs(records, 1, eval_strategy="steps", eval_steps=2)
    path = write_run("built", rlhf=gkd(), training=training)
    assert run_training(path, TrainOptions(build_teacher_cache=True, as_json=True)).exit_code == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    lines = [len(file.read_text().splitlines()) for file in records]
    assert told["samples"] == sum(lines)
    assert told["bytes"] == sum(file.stat().st_size for file in (tmp_path / "cache").glob("*/rows-*"))
    assert not (path.parent / "built").exists() or not list((path.parent / "built").glob("checkpoint-*"))
    forwards.clear()
    run = train("built", rlhf=gkd(), training=training)
    evaluations = len([line for line in run.log if "eval/loss" in line])
    assert evaluations
    assert forwards["passes"] == training["max_steps"] + evaluations * math.ceil(lines[1] / 2)


def test_building_tells_its_size_first_and_goes_on_where_an_earlier_one_ended(
    write_run, gkd, records, capsys, tmp_path, monkeypatch
):
    sizes = []

    def kept():
        files = [load_file(file) for file in (tmp_path / "cache").glob("*/rows-*")]
        return sum(rows.nbytes for rows in itertools.chain(*(file.values() for file in files)))

    def noted(text, *values):
        if "of rows" in text:
            sizes.append((text % values, kept()))

    monkeypatch.setattr(pipeline.logger, "info", noted)
    augmentation = {"enabled": True, "ops": [{"name": "rotate", "params": {"max_deg": 10}}]}
    lines, told = len(records[0].read_text().splitlines()), []
    for count in (1, 2):
        custom = {"augmentation": augmentation, "val_jsonl": None}
        path = write_run("built", rlhf=gkd(), training=epochs(records, count), custom=custom)
        run_training(path, TrainOptions(build_teacher_cache=True, as_json=True))
        told.append(json.loads(capsys.readouterr().out.splitlines()[-1])["samples"])
    (first, before), (_, between) = sizes
    assert f"holds 0 samples; an epoch has {lines}, about {between / 1e6:,.1f} MB of rows" in first
    assert before == 0 < between
    assert told == [lines, 2 * lines], "the second epoch's pictures are turned otherwise"


def test_packs_find_what_single_samples_left(train, gkd, records, forwards):
    train("single", rlhf=gkd(), training=epochs(records, 1))
    forwards.clear()
    packed = train("packed", rlhf=gkd(), training={"max_steps": 1, "packing": True, "per_device_train_batch_size": 1})
    assert forwards["passes"] == 1
    assert packed.series("train/llm_kd_loss")[0] == pytest.approx(0.0, abs=1e-6)


def test_augmented_pictures_are_other_samples(train, gkd, records, forwards):
    training = epochs(records, 1)
    augmentation = {"enabled": True, "ops": [{"name": "rotate", "params": {"max_deg": 10}}]}
    train("plain", rlhf=gkd(), training=training)
    forwards.clear()
    train("turned", rlhf=gkd(), training=training, custom={"augmentation": augmentation})
    assert forwards["passes"] == 2 * training["max_steps"], "no stale row may serve"


@pytest.mark.parametrize(
    "sections, what",
    [
        ({"rlhf": {"lmbda": 0.5}}, "sampled answers are new"),
        ({"rlhf": {"seq_kd": True}}, "sampled answers are new"),
        ({"custom": {"visual_kd": {"enabled": True}}}, "visual features"),
    ],
)
def test_what_cannot_be_kept_is_refused(train, gkd, sections, what):
    with pytest.raises(ConfigError, match=what):
        train(**{**sections, "rlhf": gkd(**sections.get("rlhf", {}))})


def test_building_needs_a_folder(write_run, tiny_model):
    path = write_run("none", rlhf={"rlhf_type": "gkd", "teacher_model": str(tiny_model)})
    with pytest.raises(ConfigError, match=r"no rlhf\.teacher_cache"):
        run_training(path, TrainOptions(build_teacher_cache=True))
