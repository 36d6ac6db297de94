"""Distillation runs through the real trainer: names, weights, teacher, sampling."""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3VLForConditionalGeneration

from plumbline.train.gkd import GKDMonitorTrainer
from plumbline.train.objective.weights import LossWeights
from plumbline.train.step import base_of, head_weight

pytestmark = pytest.mark.slow

MERGERS = ["model.visual.merger", *(f"model.visual.deepstack_merger_list.{index}" for index in range(3))]


@pytest.fixture
def gkd(tiny_model):
    return lambda **keys: {"rlhf_type": "gkd", "teacher_model": str(tiny_model), **keys}


def test_terms_are_logged_apart_and_add_up(train, gkd):
    run = train(
        rlhf=gkd(beta=0.3, sft_alpha=0.5, llm_kd_weight=2.0),
        training={"eval_strategy": "steps", "eval_steps": 2, "max_steps": 2},
    )
    names = {"loss", "sft_loss", "llm_kd_loss", "token_acc", "token_count"}
    assert {f"train/{name}" for name in names} <= run.names()
    assert {f"eval/{name}" for name in names} <= run.names()
    assert not [name for name in run.names() if name.startswith(("train/train", "eval/eval", "eval_eval"))]
    for line in run.log:
        if "train/loss" in line:
            assert line["train/loss"] == pytest.approx(
                0.5 * line["train/sft_loss"] + line["train/llm_kd_loss"], rel=1e-5
            )
            assert line["loss"] == pytest.approx(line["train/loss"], rel=1e-5)
        if "eval/loss" in line:
            assert line["eval_loss"] == pytest.approx(line["eval/loss"], rel=1e-6)


def test_teacher_equals_student_at_step_one_and_the_divergence_grows(train, gkd):
    run = train(rlhf=gkd(), training={"max_steps": 3})
    kd = run.series("train/llm_kd_loss")
    assert abs(kd[0]) < 1e-6
    assert kd[-1] > 1e-7


def test_zero_weight_omits_the_term_and_equals_plain_fine_tuning(train, gkd):
    anchored = train("zero", rlhf=gkd(llm_kd_weight=0.0))
    plain = train("plain")
    assert "train/llm_kd_loss" not in anchored.names()
    assert anchored.series("train/sft_loss") == pytest.approx(plain.series("train/sft_loss"), rel=1e-6)


def test_forward_only_ignores_the_sampling_knobs(train, gkd):
    one = train("one", rlhf=gkd(beta=0.1, temperature=0.9, max_completion_length=7))
    two = train("two", rlhf=gkd(beta=0.1, temperature=2.0, max_completion_length=400))
    assert one.series("train/loss") == two.series("train/loss")


def test_student_samples_are_anchored_but_not_learned(train, gkd):
    run = train(rlhf=gkd(lmbda=1.0, max_completion_length=4), training={"max_steps": 2})
    assert "train/sft_loss" not in run.names()
    assert all(0 < count <= 2 * 4 for count in run.series("train/token_count"))


def test_teacher_samples_replace_the_answers_under_seq_kd(train, gkd):
    run = train(rlhf=gkd(seq_kd=True, lmbda=0.0, temperature=1.0, max_completion_length=4), training={"max_steps": 2})
    assert all(0 < count <= 2 * 4 for count in run.series("train/token_count"))
    assert "train/sft_loss" in run.names()


def test_gradient_checkpointing_changes_no_number(train, gkd):
    plain = train("plain", rlhf=gkd(lmbda=0.5, max_completion_length=4), training={"max_steps": 3})
    saved = train(
        "saved",
        rlhf=gkd(lmbda=0.5, max_completion_length=4),
        training={"max_steps": 3, "gradient_checkpointing": True},
    )
    assert saved.series("train/loss") == pytest.approx(plain.series("train/loss"), rel=1e-5)


def test_initialisation_that_changes_the_base_gets_a_frozen_copy(train, gkd):
    run = train(rlhf=gkd(), tuner={"init_weights": "pissa"}, training={"max_steps": 2})
    assert abs(run.series("train/llm_kd_loss")[0]) < 1e-5


def test_modules_trained_in_full_leave_the_teacher_as_it_was(train, gkd, tiny_model, monkeypatch):
    """Mergers and output head train beside LoRA; at every step the teacher says what the base model says."""
    base = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    taught, heads = GKDMonitorTrainer._taught, []

    def compared(self, model, inputs, keep):
        found = taught(self, model, inputs, keep)
        with torch.no_grad():
            hidden = base.model(**inputs, use_cache=False).last_hidden_state[:, :-1][keep]
        torch.testing.assert_close(found.hidden, hidden, rtol=1e-5, atol=1e-6)
        assert torch.equal(found.head, base.lm_head.weight)
        heads.append(head_weight(base_of(model)).detach().clone())
        return found

    monkeypatch.setattr(GKDMonitorTrainer, "_taught", compared)
    tuner = {"freeze_aligner": True, "modules_to_save": [*MERGERS, "lm_head"]}
    run = train(rlhf=gkd(), tuner=tuner, training={"max_steps": 3, "learning_rate": 1.0e-2})
    assert len(heads) == 3
    assert torch.equal(heads[0], base.lm_head.weight)
    assert not torch.allclose(heads[-1], base.lm_head.weight, atol=1e-3), "the student's head has moved"
    kd = run.series("train/llm_kd_loss")
    assert abs(kd[0]) < 1e-6
    assert kd[-1] > 1e-3


@pytest.mark.parametrize("custom", [{}, {"visual_kd": {"enabled": True}}], ids=["plain", "visual"])
def test_resume_is_bit_equal(train, gkd, custom):
    """Stopped at step 1 of 2 and continued: the same losses and weights as a run that was never stopped."""
    training = {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 1}
    sections = {"rlhf": gkd(), "custom": custom, "training": training, "tuner": {"lora_dropout": 0.1}}
    whole = train("run", **sections)
    losses = {name: whole.series(name) for name in whole.names() if name.startswith("train/") or name == "grad_norm"}
    assert losses["train/llm_kd_loss"][-1] > 0
    assert ("train/vision_kd_loss" in losses) == bool(custom)
    weights = load_file(whole.last / "adapter_model.safetensors")
    shutil.rmtree(whole.last)  # as if it had been killed after step 1
    resumed = train("run", **sections)
    assert {name: resumed.series(name) for name in losses} == losses
    for name, tensor in load_file(resumed.last / "adapter_model.safetensors").items():
        assert torch.equal(weights[name], tensor), name


def test_evaluation_without_the_teacher_is_cross_entropy_alone(train, gkd):
    run = train(rlhf=gkd(), custom={"eval_teacher": False}, training={"eval_strategy": "steps", "eval_steps": 2})
    assert "train/llm_kd_loss" in run.names()
    assert "eval/llm_kd_loss" not in run.names()
    assert run.series("eval/loss") == pytest.approx(run.series("eval/sft_loss"))


def test_an_offloaded_copy_is_back_wherever_it_is_asked(train, gkd, monkeypatch):
    """It samples, reads and lends its head. Here what is offloaded is gone: on a CPU there is nowhere else to be."""
    away = {}

    def offload(self, model):
        away.update((name, parameter.data) for name, parameter in model.named_parameters())
        for parameter in model.parameters():
            parameter.data = parameter.data.new_empty(0)

    def load(self, model):
        for name, parameter in model.named_parameters():
            parameter.data = away[name]

    monkeypatch.setattr(GKDMonitorTrainer, "offload_model", offload)
    monkeypatch.setattr(GKDMonitorTrainer, "load_model", load)
    keys = {"offload_teacher_model": True, "seq_kd": True, "max_completion_length": 4}
    run = train(rlhf=gkd(**keys), tuner={"init_weights": "pissa"}, training={"max_steps": 2})
    kd = run.series("train/llm_kd_loss")
    assert abs(kd[0]) < 1e-5 < kd[-1]


def test_rows_from_a_cache_get_the_head_of_an_offloaded_copy():
    base = SimpleNamespace(
        lm_head=torch.nn.Linear(4, 8), config=SimpleNamespace(text_config=SimpleNamespace(hidden_size=4))
    )
    cache = SimpleNamespace(rows=lambda entries, width: torch.zeros(2, width))
    trainer = SimpleNamespace(
        parts=SimpleNamespace(teacher_server=None, teacher_cache=cache), _teacher=lambda model: nullcontext(base)
    )
    keep = torch.ones(1, 2, dtype=torch.bool, device="meta")  # where the student is
    taught = GKDMonitorTrainer._teacher_side(trainer, base, LossWeights(llm_kd_weight=1.0), {}, keep, {"entries": ()})
    assert taught.hidden.device == taught.head.device == keep.device


def test_adapter_as_teacher_is_loaded_on_its_base(train, gkd):
    first = train("first", training={"max_steps": 2, "learning_rate": 5.0e-3})
    run = train("second", rlhf=gkd(teacher_model=str(first.last)), training={"max_steps": 1})
    assert run.series("train/llm_kd_loss")[0] > 1e-6
    assert json.loads((first.last / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_sampled_answers_are_written_on_request(train, gkd):
    keys = {"lmbda": 1.0, "max_completion_length": 4, "log_completions": True}
    run = train(rlhf=gkd(**keys), training={"max_steps": 2})
    lines = [json.loads(line) for line in (run.folder / "completions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["step"], line["rank"], line["by"]) for line in lines] == [(s, 0, "student") for s in (1, 1, 2, 2)]
    for line in lines:
        assert line["prompt"].count("<|image_pad|>") == 1
        assert line["prompt"].endswith("<|im_start|>assistant\n")
        assert line["completion"]
        assert line["completion"] not in line["prompt"]
