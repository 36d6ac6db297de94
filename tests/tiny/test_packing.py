"""Packs in training: no sample sees another, gradients are those of the samples alone, lengths are as planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import SkipBatchSampler
from PIL import Image
from safetensors.torch import load_file

from plumbline.augment.ops import OPERATIONS
from plumbline.batch.schedule import EpochBatches, SampleKey
from plumbline.errors import ConfigError, DataError
from plumbline.train.batches import BatchCollator, EncodedSamples, Encoder

pytestmark = pytest.mark.slow

OPS = [
    {"name": "hflip", "params": {"prob": 0.5}},
    {"name": "rotate", "params": {"max_deg": 15.0, "prob": 0.5}},
    {"name": "random_crop", "params": {"area": [0.5, 1.0], "prob": 0.5}},
    {"name": "resize_by_scale", "params": {"factor": [0.7, 1.4], "prob": 0.7}},
    {"name": "color_jitter"},
    {"name": "noise"},
    {"name": "pad_to_multiple", "params": {"multiple": 32}},
]


PHASES = [
    {"until_percent": 30, "ops": {"rotate": {"max_deg": 5.0}, "resize_by_scale": {"factor": [1.0, 1.1]}}},
    {"until_percent": 80, "ops": {"rotate": {"max_deg": 40.0}, "resize_by_scale": {"factor": [1.3, 1.6]}}},
]
"""A curriculum that changes lengths, too."""


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    """(base model in fp32 with packing enabled, template)."""
    from swift.model import get_model_processor  # only tests may: the peer is the upstream itself
    from swift.template import get_template

    from plumbline.model.packed_attention import enable_packing

    model, processor = get_model_processor(str(tiny_model), torch_dtype=torch.float32, model_type="qwen3_vl")
    template = get_template(processor)
    template.set_mode("train")
    template.model = model
    model.eval()
    enable_packing(model)
    return model, template


def open_samples(write_run: Any, **sections: Any) -> Any:
    from plumbline.train.config import load_run
    from plumbline.train.datasets import open_datasets, plan_training

    run = load_run(write_run("plan", **sections)).run
    return plan_training(run, open_datasets(run)[0], ranks=1)


def encoder_of(model: Any, template: Any, tiny_model: Path) -> Encoder:
    from plumbline.batch.lengths import PixelLimits

    limits = PixelLimits.of_folder(tiny_model)
    return Encoder(template, limits, 4096, model.config.image_token_id, model.config.vision_config.spatial_merge_size)


def hidden_rows(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    from plumbline.model.packed_attention import segments_of

    inputs = {key: value for key, value in batch.items() if key != "labels"}
    return model.model(**inputs, **segments_of(inputs.get("position_ids")), use_cache=False).last_hidden_state


def test_packed_logits_equal_those_of_the_samples_alone(loaded, tiny_model, write_run):
    model, template = loaded
    plan = open_samples(write_run)
    rows = EncodedSamples(plan.samples, encoder_of(model, template, tiny_model))
    units = [rows[index] for index in range(4)]
    packed = BatchCollator(template, packing=True)(units)
    assert "attention_mask" not in packed and packed["input_ids"].shape[0] == 1
    assert (packed["position_ids"][:, 0, 0] == 0).all()
    with torch.no_grad():
        together = model.lm_head(hidden_rows(model, packed))[0]
        start = 0
        for unit in units:
            alone = model.lm_head(hidden_rows(model, BatchCollator(template)([unit])))[0]
            part = together[start : start + len(alone)]
            assert (part - alone).abs().max() < 1e-4
            start += len(alone)
        assert start == len(together)


def test_nothing_of_one_sample_reaches_another(loaded, tiny_model, write_run):
    model, template = loaded
    plan = open_samples(write_run)
    rows = EncodedSamples(plan.samples, encoder_of(model, template, tiny_model))
    batch = BatchCollator(template, packing=True)([rows[0], rows[1]])
    length = len(rows[0][0]["input_ids"])
    embedded = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: embedded.append(kwargs["inputs_embeds"].requires_grad_()), with_kwargs=True
    )
    try:
        hidden = hidden_rows(model, batch)
    finally:
        handle.remove()
    for part, other in ((slice(0, length), slice(length, None)), (slice(length, None), slice(0, length))):
        (gradient,) = torch.autograd.grad(hidden[0, part].square().sum(), embedded[0], retain_graph=True)
        assert gradient[0, part].abs().max() > 0
        assert gradient[0, other].abs().max() == 0


@pytest.mark.parametrize("kind", ["sft", "gkd"])
def test_a_packed_step_equals_the_padded_one(train, tiny_model, kind):
    """All samples in one step, whatever the packs: same loss; SGD shows that the gradients are the same, too."""
    shared = {
        "optim": "sgd",
        "learning_rate": 1.0e-2,
        "max_grad_norm": 1.0e9,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    sections: dict[str, Any] = {}
    if kind == "gkd":
        sections["rlhf"] = {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "beta": 0.5, "sft_alpha": 0.7}
    padded = train("padded", training=shared | {"per_device_train_batch_size": 8}, **sections)
    packed = train("packed", training=shared | {"per_device_train_batch_size": 8, "packing": True}, **sections)
    assert packed.series("train/loss") == pytest.approx(padded.series("train/loss"), rel=1e-4)
    assert packed.series("grad_norm") == pytest.approx(padded.series("grad_norm"), rel=1e-4)
    assert packed.series("train/token_count") == padded.series("train/token_count")
    assert packed.series("eval/loss") == pytest.approx(padded.series("eval/loss"), rel=1e-4)
    mine, theirs = (load_file(run.last / "adapter_model.safetensors") for run in (packed, padded))
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("curriculum", [None, {"phases": PHASES}])
def test_augmented_samples_are_as_long_as_planned_and_look_as_the_same_key_says(
    loaded, tiny_model, write_run, curriculum
):
    model, template = loaded
    plan = open_samples(
        write_run,
        custom={"augmentation": {"enabled": True, "bypass_prob": 0.1, "ops": OPS, "curriculum": curriculum}},
        training={"packing": True, "max_steps": -1, "num_train_epochs": 3},
    )
    encoded = EncodedSamples(plan.samples, encoder_of(model, template, tiny_model))
    seen = []
    for epoch in range(3):
        units = plan.schedule.units(epoch)
        assert len(units) == len(plan.schedule)
        assert sorted(key.position for unit in units for key in unit) == list(range(8))
        for unit in units:
            rows = encoded[unit]
            assert not [row for row in rows if "problem" in row]
            assert [len(row["input_ids"]) for row in rows] == [key.length for key in unit]
            assert sum(key.length for key in unit) <= 1024
            again = encoded[unit]
            for row, same in zip(rows, again, strict=True):
                assert torch.equal(row["pixel_values"], same["pixel_values"])
            seen += [key.length for key in unit]
    assert len(set(seen)) > 8, "augmentation changes lengths"


def test_every_epoch_of_a_target_drawn_with_replacement_is_planned(write_run, records):
    target = {"name": "own", "train_jsonl": str(records[0]), "without_replacement": False}
    plan = open_samples(
        write_run,
        custom={"train_jsonl": None, "fusion": {"targets": [target]}},
        training={"packing": True, "max_steps": -1, "num_train_epochs": 3},
    )
    shown = []
    for epoch in range(3):
        keys = [key for unit in plan.schedule.units(epoch) for key in unit]
        assert sorted(key.position for key in keys) == list(range(8)) and all(key.length for key in keys)
        shown.append(sorted(turn.records for turn in plan.samples.mixture.turns(epoch)))
    assert shown[0] != shown[1]


class Planned(torch.utils.data.Dataset):
    """The samples of a unit as they are planned: key, map, canvas, answer."""

    def __init__(self, samples: Any):
        self.samples = samples

    def __getitem__(self, unit: Any) -> list[Any]:
        return [(key, *self._told(self.samples.item(*key[:3]))) for key in unit]

    @staticmethod
    def _told(sample: Any) -> tuple[Any, ...]:
        plan = sample.pictures[0].plan
        return plan.matrix.tolist(), (plan.width, plan.height), sample.messages[-1]["content"]


@pytest.mark.parametrize("packing", [False, True])
def test_a_curriculum_plans_the_same_whatever_the_workers_and_after_a_resume(write_run, packing):
    custom = {"augmentation": {"enabled": True, "ops": OPS, "curriculum": {"phases": PHASES}}}
    training = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 1 if packing else 2}
    first, again = (
        open_samples(write_run, global_max_length=420, custom=custom, training={"packing": packing, **training})
        for _ in range(2)
    )

    def batches(plan: Any, workers: int, done: int = 0) -> list[Any]:
        """Every epoch through the trainer's own sampler; done: batches of the first epoch trained before a stop."""
        sampler, found = EpochBatches(plan.schedule, plan.shape), []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            left = sampler if epoch else SkipBatchSampler(sampler, done)
            loader = torch.utils.data.DataLoader(
                Planned(plan.samples), batch_sampler=left, num_workers=workers, collate_fn=list
            )
            found += list(loader)
        return found

    wanted = batches(first, workers=0)
    assert batches(first, workers=2) == wanted
    assert batches(again, workers=2, done=3) == wanted[3:]
    keys = [told[0] for batch in wanted for unit in batch for told in unit]
    assert sorted((key.epoch, key.position) for key in keys) == [(e, p) for e in range(2) for p in range(8)]
    assert [key.step for key in keys] == sorted(key.step for key in keys)
    assert len({key.step for key in keys}) == (2 if packing else 8), "the curriculum has moved"


def test_a_changed_picture_is_named_instead_of_overfilling_its_pack(loaded, tiny_model, write_run, records, tmp_path):
    model, template = loaded
    rows = [json.loads(line) for line in records[0].read_text(encoding="utf-8").splitlines()[:2]]
    for number, row in enumerate(rows):
        Image.fromarray(np.zeros((row["height"], row["width"], 3), np.uint8)).save(tmp_path / f"{number}.png")
        row["images"] = [f"{number}.png"]
        del row["objects"], row["width"], row["height"]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    custom = {"train_jsonl": str(tmp_path / "own.jsonl"), "use_summary": True}
    plan = open_samples(write_run, custom=custom, training={"packing": True})
    Image.new("RGB", (640, 480)).save(tmp_path / "0.png")
    Image.new("RGB", (640, 480)).save(tmp_path / "1.png")
    unit = plan.schedule.units(0)[0]
    problem = EncodedSamples(plan.samples, encoder_of(model, template, tiny_model))[unit][0]["problem"]
    assert "planned with" in problem.what


def test_a_packed_run_resumes_with_the_batches_that_were_left(train):
    settings = {"packing": True, "per_device_train_batch_size": 1, "save_steps": 2, "global_max_length": 512}
    augmentation = {"augmentation": {"enabled": True, "ops": OPS}}
    training = {"packing": True, "per_device_train_batch_size": 1, "save_steps": 2, "max_steps": 6}
    whole = train("whole", global_max_length=400, training=training, custom=augmentation)
    part = train("part", global_max_length=400, training=training, custom=augmentation)
    del settings
    for step in (4, 6):
        import shutil

        shutil.rmtree(part.folder / f"checkpoint-{step}")
    resumed = train("part", global_max_length=400, training=training, custom=augmentation)
    assert resumed.series("loss")[-4:] == whole.series("loss")[-4:]
    mine, theirs = (load_file(run.folder / "checkpoint-6/adapter_model.safetensors") for run in (resumed, whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"model": {"attn_impl": "eager"}}, "model.attn_impl"),
        ({"data": {"lazy_tokenize": True}}, "training.lazy_tokenize"),
        ({"rlhf": {"rlhf_type": "gkd", "lmbda": 0.5}}, "training.packing"),
        (
            {
                "custom": {
                    "augmentation": {
                        "enabled": True,
                        "ops": [{"name": "hflip"}],
                        "curriculum": {"phases": [{"until_step": 3, "ops": {"hflip": {"prob": 0.5}}}]},
                    }
                }
            },
            "custom.augmentation.curriculum",
        ),
    ],
)
def test_what_packing_cannot_do_stops_the_run(train, tiny_model, sections, where):
    if "rlhf" in sections:
        sections["rlhf"]["teacher_model"] = str(tiny_model)
    with pytest.raises(ConfigError, match=where):
        train(training={"packing": True}, **sections)


def test_a_sample_longer_than_a_pack_is_named_or_counted(train):
    with pytest.raises(DataError, match=r"train.jsonl:\d+.*tokens, the limit is 98"):
        train("strict", global_max_length=98, training={"packing": True})
    counted = train("counted", global_max_length=98, training={"packing": True}, custom={"strict": False})
    assert counted.exit_code == 3


def test_every_operation_has_a_place_in_the_schema():
    assert all(OPERATIONS[op["name"]] for op in OPS)
    assert SampleKey(1).length == 0
