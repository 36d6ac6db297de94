"""Keys that pass through to the upstream reach our step: each changes what a run does, or is refused."""

from __future__ import annotations

import pytest

from plumbline.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def losses():
    """Losses of the run without any of the keys, made once."""
    return {}


@pytest.mark.parametrize(
    "training",
    [
        {"neftune_noise_alpha": 50.0},
        {"optimizer": "multimodal", "vit_lr": 1e-5, "aligner_lr": 1e-5},
        {"optim": "sgd"},
        {"max_grad_norm": 1e-4},
        {"weight_decay": 0.9, "learning_rate": 0.01},
        {"lr_scheduler_type": "constant"},
        {"adam_beta1": 0.1},
        {"warmup_steps": 2},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_a_key_changes_the_losses(train, losses, training):
    if not losses:
        losses["base"] = train("base", training={"max_steps": 3}).series("train/sft_loss")
    changed = train("changed", training={"max_steps": 3, **training}).series("train/sft_loss")
    assert len(changed) == 3 and changed != losses["base"]


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ({"training": {"optimizer": "muon"}}, "multimodal"),
        ({"training": {"neftune_noise_alpha": 5.0}, "rlhf": {"rlhf_type": "gkd"}}, "teacher"),
    ],
)
def test_what_cannot_work_with_our_step_is_refused(write_run, tiny_model, keys, advice):
    from plumbline.train.config import load_train_run

    if "rlhf" in keys:
        keys = keys | {"rlhf": keys["rlhf"] | {"teacher_model": str(tiny_model), "llm_kd_weight": 0.5}}
    with pytest.raises(ConfigError) as error:
        load_train_run(write_run(**keys))
    assert advice in str(error.value)


@pytest.mark.parametrize(
    ("section", "key", "value", "advice"),
    [
        ("training", "torch_compile", True, "compiling"),
        ("training", "fsdp", "full_shard", "deepspeed"),
        ("training", "eval_metric", "acc", "evaluation"),
        ("training", "eval_dataset", ["x"], "custom.val_jsonl"),
        ("training", "logging_dir", "logs", "runs"),
        ("training", "group_by_length", True, "order"),
        ("training", "packing_length", 4096, "training.packing"),
        ("data", "dataset_num_proc", 8, "order"),
        ("training", "use_galore", True, "optimiser"),
        ("rlhf", "num_generations", 4, "reinforcement"),
        ("rlhf", "vllm_tensor_parallel_size", 2, "vLLM"),
        ("rlhf", "kl_coef", 0.9, "reinforcement"),
        ("rlhf", "ref_model", "x", "preferences"),
        ("rlhf", "top_k", 3, "rlhf.temperature"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(write_run, tiny_model, section, key, value, advice):
    from plumbline.train.config import load_train_run

    sections = {section: {key: value}}
    if section == "rlhf":
        sections = {"rlhf": {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "llm_kd_weight": 0.5, key: value}}
    with pytest.raises(ConfigError) as error:
        load_train_run(write_run(**sections))
    assert f".{key}: " in str(error.value) and "would be ignored" in str(error.value) and advice in str(error.value)
