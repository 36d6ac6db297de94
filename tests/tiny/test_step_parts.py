"""The small pieces of a step: telemetry sums, row checks, sampled answers, frozen tensors, dropped steps."""

import importlib
import json
import logging
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from plumbline.augment.config import AugmentationConfig
from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import ScheduledAugmentation
from plumbline.data.dataset import DatasetSettings
from plumbline.data.epoch import EpochDataset, Source
from plumbline.data.mixture import Mixture, Share
from plumbline.data.record import DataObject, Record
from plumbline.errors import ConfigError, DataError, Problem
from plumbline.geometry import Box
from plumbline.report.run import write_run_report
from plumbline.train import health
from plumbline.train.batches import IGNORED, BatchCollator, row_problems
from plumbline.train.callbacks import EpochAccount
from plumbline.train.health import FrozenChangedError, FrozenTensors, check_targets, fingerprint
from plumbline.train.rollout import DATASET, STUDENT, TEACHER, _joined, _prompts, choose_source, prompt_lengths
from plumbline.train.targets import TrainingTargets
from plumbline.train.telemetry import Meter, epoch_account, sample_tally, window_metrics

pytestmark = pytest.mark.slow
IMAGE = 7


# ------------------------------------------------------------------------------------------------------------ telemetry
def test_metrics_weigh_tokens_not_micro_batches():
    meter = Meter()
    meter.add(objective=torch.tensor(10.0), ce=torch.tensor(10.0), ce_tokens=10, tokens=10, hits=5, kd=0.0)
    meter.add(objective=90.0, ce=90.0, ce_tokens=torch.tensor(30), tokens=30, hits=15, kd=4.0, steps=1)
    metrics = window_metrics(meter.reduce_and_reset(torch.device("cpu")), "train", llm_kd_weight=0.5)
    assert metrics == {
        "train/loss": 2.5,
        "train/token_acc": 0.5,
        "train/llm_kd_loss": 0.05,
        "train/sft_loss": 2.5,
        "train/token_count": 40.0,
    }
    assert window_metrics(meter.reduce_and_reset(torch.device("cpu")), "train", llm_kd_weight=0.5) == {
        "train/token_count": 0.0
    }


def test_a_visual_distance_of_zero_is_logged():
    meter = Meter()
    meter.add(**{"visual/merger": torch.zeros(()), "visual_tokens/merger": torch.tensor(8)})
    metrics = window_metrics(
        meter.reduce_and_reset(torch.device("cpu")), "train", llm_kd_weight=0.0, visual_kd_weight=0.5
    )
    assert metrics["train/vision_kd_loss"] == metrics["train/vision_kd_loss/merger"] == 0.0
    assert "train/vision_kd_loss/deepstack" not in metrics, "not configured"


def samples_of(boxes, *, most=None, ops=(), mode="dense"):
    """Ten records of one picture of 64 x 48 with these boxes."""
    items = tuple(DataObject("x", Box(np.array(box, float).reshape(2, 2))) for box in boxes)
    records = [Record(("data:image/png;base64,AA==",), 64, 48, items, "x×1")] * 10
    source = Source("own", records, DatasetSettings(mode), Share(10, mode=mode), max_objects=most)
    augmenter = ScheduledAugmentation(AugmentationConfig(enabled=True, ops=ops), 10) if ops else None
    return EpochDataset([source], Mixture((source.share,), seed=1), augmenter)


def account_of(samples):
    tally = sum((sample_tally(samples.item(position), 5) for position in range(len(samples))), Counter())
    return epoch_account(tally, 1, 10)


BOXES = [(2, 2, 20, 20), (30, 10, 50, 40), (60, 40, 90, 90), (64, 0, 90, 20)]
"""Two inside, one over the edge, one outside."""


@pytest.mark.parametrize("mode", ["dense", "summary"])
def test_the_account_counts_objects_without_augmentation(mode):
    account = account_of(samples_of(BOXES, mode=mode))
    assert account["objects_kept"] == 30 and account["coverage"] == {"1.0": 30}
    assert account["dropped"] == {"outside its own picture": 10}


def test_the_account_counts_what_is_over_the_most_objects_of_a_picture():
    account = account_of(samples_of(BOXES, most=2))
    assert account["objects_kept"] == 20
    assert account["dropped"] == {"outside its own picture": 10, "over max_objects_per_image": 10}


def test_the_account_of_augmented_pictures_adds_up():
    crop = OPERATIONS["random_crop"](area=(0.3, 0.5), min_objects=0, prob=0.7)
    account = account_of(samples_of(BOXES, most=2, ops=(crop,)))
    assert account["objects_kept"] + sum(account["dropped"].values()) == 40
    assert sum(account["coverage"].values()) == account["objects_kept"] < 20
    assert account["dropped"]["outside its own picture"] == account["dropped"]["over max_objects_per_image"] == 10


def test_a_line_of_the_account_says_which_part_of_its_epoch_it_counts(tmp_path):
    """Stopped in the middle of the second epoch, and continued by another process."""

    def at(epoch):
        return SimpleNamespace(epoch=epoch, global_step=round(4 * epoch), is_world_process_zero=True)

    for begin, ends in ((0, (1.0, 1.25)), (1.25, (2.0, 3.0))):
        account = EpochAccount(tmp_path)
        account.on_train_begin(None, at(begin), None)
        for end in ends:
            account.add(Counter(samples=round(8 * (end - begin))))
            account.on_epoch_end(None, at(end), None)
            begin = end
    lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["epoch"], line["covered"], line["samples"]) for line in lines] == [
        (1, 1.0, 8),
        (2, 0.25, 2),
        (2, 0.75, 6),
        (3, 1.0, 8),
    ]


# ----------------------------------------------------------------------------------------------------------------- rows
def row(**changes):
    """An encoded row in order: one picture of 2 x 2 visual tokens and two supervised tokens."""
    ids = [1, IMAGE, IMAGE, IMAGE, IMAGE, 2, 3, 4]
    base = {
        "input_ids": ids,
        "labels": [IGNORED] * 6 + [3, 4],
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "pixel_values": torch.zeros(16, 3),
    }
    return base | changes


@pytest.mark.parametrize(
    ("changes", "images", "what"),
    [
        ({}, 1, None),
        ({}, 2, "2 image(s) but 1 image grid(s)"),
        ({"input_ids": [1] * 8, "image_grid_thw": None}, 1, "1 image(s) but no image token"),
        ({"image_grid_thw": torch.tensor([[1, 4, 6]])}, 1, "4 image tokens but the grids give 6"),
        ({"pixel_values": torch.zeros(12, 3)}, 1, "gives 16 patches but pixel_values has 12"),
        ({"labels": [IGNORED] * 8}, 1, "no supervised token"),
        ({"labels": [IGNORED, IMAGE, *[IGNORED] * 4, 3, 4]}, 1, "image tokens carry labels"),
        ({"labels": [1, *[IGNORED] * 5, 3, 4]}, 1, "first token of the prompt is supervised"),
    ],
)
def test_health_of_an_encoded_row(changes, images, what):
    found = [problem for problem, _ in row_problems(row(**changes), images, IMAGE, merge=2)]
    assert found == [] if what is None else any(what in problem for problem in found)


class Template:
    """What the collator needs of a template."""

    def data_collator(self, rows):
        return {
            "input_ids": torch.tensor([r["input_ids"] for r in rows]),
            "labels": torch.tensor([r["labels"] for r in rows]),
        }

    def encode(self, inputs):
        return {"input_ids": [1, 2], "labels": [IGNORED, 2]}


def test_a_batch_of_failures_adds_nothing_and_names_each_once():
    collator = BatchCollator(Template(), strict=False)
    batch = collator([[{"problem": Problem("a.jsonl:1", "broken")}]])
    assert (batch["labels"] == IGNORED).all()
    collator.raise_for_problems(batch)
    assert list(collator.skipped) == ["a.jsonl:1"]
    with pytest.raises(DataError, match="broken"):
        strict = BatchCollator(Template(), strict=True)
        strict.raise_for_problems(strict([[{"problem": Problem("a.jsonl:1", "broken")}]]))


# ------------------------------------------------------------------------------------------------------------- sampling
def test_the_source_of_answers_is_keyed_and_keeps_its_shares():
    drawn = [choose_source(3, step, 0.25, seq_kd=True) for step in range(2000)]
    assert drawn == [choose_source(3, step, 0.25, seq_kd=True) for step in range(2000)]
    assert drawn.count(STUDENT) / 2000 == pytest.approx(0.25, abs=0.04)
    assert set(drawn) == {STUDENT, TEACHER}
    assert {choose_source(3, step, 0.0, seq_kd=False) for step in range(50)} == {DATASET}


def test_prompts_are_cut_before_the_answer_and_answers_after_the_stop():
    batch = {
        "input_ids": torch.tensor([[5, 6, 8, 9], [0, 5, 7, 9]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]),
        "labels": torch.tensor([[IGNORED, IGNORED, 8, 9], [IGNORED, IGNORED, IGNORED, 9]]),
        "mm_token_type_ids": torch.tensor([[0, 1, 0, 0], [0, 1, 1, 0]]),
        "pixel_values": torch.zeros(4, 3),
    }
    assert prompt_lengths(batch["labels"], batch["attention_mask"]).tolist() == [2, 3]
    prompts = _prompts(batch, pad_id=0)
    assert prompts["input_ids"].tolist() == [[5, 6], [5, 7]]
    assert prompts["mm_token_type_ids"].tolist() == [[0, 1], [1, 1]]
    joined = _joined(prompts, torch.tensor([[3, 2, 0], [3, 3, 3]]), stop_ids=[2])
    assert joined["labels"].tolist() == [[IGNORED, IGNORED, 3, 2, IGNORED], [IGNORED, IGNORED, 3, 3, 3]]
    assert joined["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert joined["pixel_values"] is batch["pixel_values"]


# --------------------------------------------------------------------------------------------------------------- frozen
class Model(nn.Module):
    """The three parts of Qwen3-VL by name."""

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.language_model = nn.Linear(4, 4)
        self.model.visual = nn.Module()
        self.model.visual.merger = nn.Linear(4, 4)
        self.model.visual.pos_embed = nn.Embedding(3, 5)
        self.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_fingerprint_sees_one_changed_value(dtype):
    tensor = torch.randn(3, 5, dtype=dtype)
    changed = tensor.clone()
    changed[2, 4] = torch.nextafter(changed[2, 4].float(), torch.tensor(9.0)) if dtype == torch.float32 else 1.0
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    assert fingerprint(tensor) != fingerprint(changed)


def test_a_fingerprint_takes_no_copy_of_a_large_weight(monkeypatch):
    monkeypatch.setattr(health, "_PIECE_WORDS", 1024)
    tensor = torch.randn(64, 1000)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        told = fingerprint(tensor)
    assert told == int(tensor.view(torch.int32).sum(dtype=torch.int64))
    allocated = [event.self_cpu_memory_usage for event in profile.events()]
    assert 0 < max(allocated) <= 2 * 8 * 1024


def test_a_frozen_tensor_that_moves_is_named():
    model = Model()
    frozen = FrozenTensors(model)
    frozen.check(model)
    with torch.no_grad():
        model.model.visual.pos_embed.weight[1, 2] += 1e-3
    with pytest.raises(FrozenChangedError, match=r"model.visual.pos_embed.weight"):
        frozen.check(model)


def test_targets_that_disagree_with_the_model_are_named():
    model = Model()
    llm = TrainingTargets("full", frozenset({"vit", "aligner"}))
    with pytest.raises(ConfigError, match="nothing would train"):
        check_targets(model, llm)
    model.model.language_model.requires_grad_(True)
    check_targets(model, llm)
    with pytest.raises(ConfigError, match="no adapter"):
        check_targets(model, TrainingTargets("lora", frozenset({"vit", "aligner"})))
    model.model.visual.merger.requires_grad_(True)
    with pytest.raises(ConfigError, match="aligner is frozen but 2 of its tensors would train"):
        check_targets(model, llm)
    check_targets(model, TrainingTargets("full", frozenset({"vit", "aligner"}), saved=("model.visual.merger",)))


# -------------------------------------------------------------------------------------------------------- dropped steps
def test_a_step_without_a_finite_gradient_is_dropped_and_counted(train, monkeypatch):
    from plumbline.train import step

    original, calls = step.head_terms, []

    def poisoned(rows, *args, **kwargs):
        calls.append(1)
        return original(rows * float("nan") if len(calls) == 2 else rows, *args, **kwargs)

    monkeypatch.setattr(step, "head_terms", poisoned)
    run = train(training={"max_steps": 3})
    assert run.series("train/nonfinite_steps") == [1.0]
    assert len(run.series("loss")) == 3
    assert all(math.isfinite(value) for name in ("loss", "train/loss", "train/sft_loss") for value in run.series(name))


def test_a_run_that_stays_non_finite_ends(train, monkeypatch):
    from plumbline.train import step

    original = step.head_terms
    monkeypatch.setattr(step, "head_terms", lambda rows, *a, **k: original(rows * float("inf"), *a, **k))
    with pytest.raises(step.DivergedError, match="non-finite gradient: CE is not finite, first in the loss itself"):
        train(training={"max_steps": 20})


def broken_forward(monkeypatch, module, calls_that_break):
    """Makes the output of a module class NaN in some of its calls, counted from 1; returns the list of calls."""
    forward, calls = module.forward, []

    def broken(self, *args, **kwargs):
        calls.append(1)
        output = forward(self, *args, **kwargs)
        return output * float("nan") if len(calls) in calls_that_break else output

    monkeypatch.setattr(module, "forward", broken)
    return calls


PARTS = {
    "the vision tower": "Qwen3VLVisionBlock",
    "the aligner": "Qwen3VLVisionPatchMerger",
    "the language model": "Qwen3VLTextRMSNorm",
}


@pytest.mark.parametrize(("part", "name"), PARTS.items())
def test_the_part_of_the_model_that_breaks_first_is_named(train, monkeypatch, caplog, part, name):
    module = getattr(importlib.import_module("transformers.models.qwen3_vl.modeling_qwen3_vl"), name)
    broken_forward(monkeypatch, module, range(2))
    own = logging.getLogger("plumbline.train.step")
    own.addHandler(caplog.handler)
    try:
        train(training={"max_steps": 2})
    finally:
        own.removeHandler(caplog.handler)
    assert f"step 1: the gradient is not finite (norm nan): CE is not finite, first in {part}" in caplog.text


@pytest.fixture
def broken_evaluation(monkeypatch):
    """From its second evaluation on, the head gives NaN for the first batch; returns a function that counts them."""
    from plumbline.train import step

    original, evaluations = step.StepMixin.evaluation_loop, []
    terms = step.head_terms

    def evaluate(self, *args, **kwargs):
        evaluations.append(0)
        return original(self, *args, **kwargs)

    def poisoned(rows, *args, **kwargs):
        if not torch.is_grad_enabled() and len(evaluations) > 1:
            evaluations[-1] += 1
            if evaluations[-1] == 1:
                rows = rows * float("nan")
        return terms(rows, *args, **kwargs)

    monkeypatch.setattr(step.StepMixin, "evaluation_loop", evaluate)
    monkeypatch.setattr(step, "head_terms", poisoned)


def test_an_evaluation_with_nan_is_counted_named_and_never_the_best(train, broken_evaluation, caplog):
    own = logging.getLogger("plumbline.train.step")
    own.addHandler(caplog.handler)
    try:
        run = train(training={"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1})
    finally:
        own.removeHandler(caplog.handler)
    whole, *others = run.series("eval/token_count")
    assert others == [whole, whole], "the count is of the whole set"
    lost = run.series("eval/nonfinite_tokens")
    assert len(lost) == 2 and all(0 < count < whole for count in lost)
    assert all(math.isfinite(value) for value in run.series("eval/loss"))
    state = json.loads((run.last / "trainer_state.json").read_text())
    assert state["best_global_step"] == 1
    assert f"evaluation at step 2: {lost[0]:.0f} of {whole:.0f} supervised tokens had no finite loss" in caplog.text
    assert "CE is not finite, first in the loss itself" in caplog.text
    assert "answer tokens without a finite loss" in write_run_report(run.folder).read_text(encoding="utf-8")


def test_an_evaluation_of_nothing_but_nan_logs_no_figure(train, monkeypatch):
    from plumbline.train import step

    terms = step.head_terms

    def poisoned(rows, *args, **kwargs):
        return terms(rows if torch.is_grad_enabled() else rows * float("nan"), *args, **kwargs)

    monkeypatch.setattr(step, "head_terms", poisoned)
    run = train(training={"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1})
    assert run.series("eval/nonfinite_tokens") == run.series("eval/token_count")
    assert "eval_loss" not in run.names() and "eval/loss" not in run.names()
    assert json.loads((run.last / "trainer_state.json").read_text())["best_model_checkpoint"] is None
