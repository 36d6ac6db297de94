"""Every recipe we ship loads, says what the documents say, and has a twin that a CPU can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plumbline.config.parse import parse_file
from plumbline.config.tree import plain
from plumbline.errors import Problem
from plumbline.train.config import TrainRun, load_run

CONFIGS = Path(__file__).parents[3] / "configs"
TINY = CONFIGS / "tiny"
RECIPES = (
    "base",
    "stage_1_aligner",
    "stage_2_llm_lora",
    "stage_2_llm_lora_gkd",
    "stage_3_vision_lora",
    "stage_3_gkd",
    "stage_3_gkd_forward_only",
    "stage_3_gkd_visual",
    "stage_3_anchored",
    "summary",
    "smoke",
    "aligner_playbook",
    "attention_only",
)
FREEZE = {  # llm, vit, aligner
    "stage_1_aligner": (True, True, False),
    "stage_2_llm_lora": (False, True, False),
    "stage_2_llm_lora_gkd": (False, True, False),
    "stage_3_vision_lora": (False, False, False),
    "stage_3_gkd": (False, False, False),
    "stage_3_gkd_forward_only": (False, False, False),
    "stage_3_gkd_visual": (False, False, False),
    "stage_3_anchored": (False, False, False),
    "aligner_playbook": (True, True, True),
    "attention_only": (False, True, True),
}


def load(name: str) -> TrainRun:
    loaded = load_run(CONFIGS / f"{name}.yaml")
    assert loaded.notes == (), f"{name}: a recipe uses today's names and nothing that is ignored"
    return loaded.run


def written(path: Path) -> dict[str, Any]:
    problems: list[Problem] = []
    tree = parse_file(path, problems)
    assert tree is not None
    assert not problems
    return plain(tree)


def test_nothing_is_shipped_untested() -> None:
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert names - {"missions", "stage_b_training_free"} == set(RECIPES)  # those two are Stage-B's, tested there
    assert {path.stem for path in TINY.glob("*.yaml")} == {*RECIPES, "_cpu"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_loads_with_what_a_run_needs(name: str) -> None:
    run = load(name)
    up = run.upstream
    assert up["max_length"] == up["max_model_len"] == 4096
    assert (up["bf16"], up["gradient_checkpointing"], up["report_to"]) == (True, True, ["tensorboard"])
    assert (up["lr_scheduler_type"], up["lr_scheduler_kwargs"]) == ("cosine_warmup_with_min_lr", {"min_lr": 1e-6})
    assert (up["lora_rank"], up["lora_alpha"]) == (32, 64)
    assert up["output_dir"] == f"output/{name}"
    assert not run.custom.augmentation.enabled
    assert run.custom.visual_kd.enabled == (name == "stage_3_gkd_visual")
    assert (run.custom.fusion is not None) == (name == "stage_3_anchored")
    assert "packing" not in up
    if name in FREEZE:
        assert (up["freeze_llm"], up["freeze_vit"], up["freeze_aligner"]) == FREEZE[name]


@pytest.mark.parametrize("name", RECIPES)
def test_twin_is_the_recipe_on_a_cpu(name: str) -> None:
    run, real = load(f"tiny/{name}"), load(name)
    up = run.upstream
    assert "../" + name + ".yaml" in written(TINY / f"{name}.yaml")["extends"]
    assert (up["use_cpu"], up["bf16"], up["torch_dtype"], up["max_steps"]) == (True, False, "float32", 20)
    assert (up["model"], up["output_dir"]) == ("output/demo/model", f"output/tiny/{name}")
    assert up["dataloader_num_workers"] in (1, 2)
    assert up["dataloader_persistent_workers"] is False
    assert 0 < up["eval_steps"] <= 20
    assert 0 < up["save_steps"] <= 20
    assert run.custom.train_jsonl == "output/demo/data/train.jsonl"
    assert run.custom.val_jsonl == "output/demo/data/val.jsonl"
    assert run.weights_from is None, "a twin runs on its own"
    kept = [key for key in up if key.startswith(("freeze_", "lora_", "lr_", "target_", "tuner_")) or key == "optimizer"]
    assert {key: up[key] for key in kept} == {key: real.upstream[key] for key in kept}
    if run.rlhf:
        assert real.rlhf is not None
        assert run.rlhf.teacher_model == up["model"]
        assert (run.rlhf.beta, run.rlhf.lmbda, run.rlhf.seq_kd) == (real.rlhf.beta, real.rlhf.lmbda, real.rlhf.seq_kd)


def test_stage_values_of_the_documents() -> None:
    for name, epochs, rate in (("stage_1_aligner", 3, 1e-4), ("stage_2_llm_lora", 2, 5e-5)):
        up = load(name).upstream
        assert (up["num_train_epochs"], up["learning_rate"], up["target_modules"]) == (epochs, rate, ["all-linear"])


@pytest.mark.parametrize("name", ["stage_2_llm_lora_gkd", "stage_3_gkd"])
def test_gkd_overlays_add_rlhf_and_custom_alone(name: str) -> None:
    assert written(CONFIGS / f"{name}.yaml").keys() == {"extends", "rlhf", "custom"}
    run = load(name)
    assert run.rlhf is not None
    assert (run.rlhf.beta, run.rlhf.sft_alpha, run.rlhf.lmbda, run.rlhf.seq_kd) == (0.5, 0.3, 0.5, True)
    assert (run.rlhf.max_completion_length, run.rlhf.temperature) == (256, 0.9)
    assert run.rlhf.teacher_model == run.upstream["model"]
    assert run.custom.trainer_variant == "gkd_monitor"


def test_forward_only_overlay() -> None:
    assert written(CONFIGS / "stage_3_gkd_forward_only.yaml").keys() == {"extends", "rlhf", "custom"}
    rlhf = load("stage_3_gkd_forward_only").rlhf
    assert rlhf is not None
    assert (rlhf.beta, rlhf.sft_alpha, rlhf.lmbda, rlhf.seq_kd) == (0.1, 1.0, 0.0, False)


def test_visual_overlay() -> None:
    assert written(CONFIGS / "stage_3_gkd_visual.yaml").keys() == {"extends", "custom"}
    visual = load("stage_3_gkd_visual").custom.visual_kd
    assert (visual.enabled, visual.weight, visual.targets, visual.distance) == (
        True,
        0.1,
        ("merger", "deepstack"),
        "mse",
    )


def test_attention_only_is_stage_2_with_fewer_targets() -> None:
    assert written(CONFIGS / "attention_only.yaml").keys() == {"extends", "tuner"}
    assert load("attention_only").upstream["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]


def test_smoke_and_summary() -> None:
    smoke = load("smoke")
    assert smoke.rlhf is not None
    assert (smoke.custom.sample_limit, smoke.upstream["save_steps"]) == (32, 5)
    assert load("tiny/smoke").upstream["save_steps"] == 5
    assert load("summary").custom.use_summary


def test_aligner_playbook() -> None:
    up = load("aligner_playbook").upstream
    assert (up["tuner_type"], up["target_regex"], up["optimizer"], up["aligner_lr"]) == (
        "lora",
        "^$",
        "multimodal",
        1e-4,
    )
    assert (up["weight_decay"], up["warmup_ratio"]) == (0.1, 0.3)
    lists = [f"model.visual.deepstack_merger_list.{i}" for i in range(3)]
    assert up["modules_to_save"] == ["model.visual.merger", *lists]
