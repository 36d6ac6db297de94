"""A run's YAML: sections, old names, rules between keys, what the program gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import ConfigError
from plumbline.train.config import LoadedRun, TrainRun, check_file, load_run

MINIMAL = "model: {model: m}\ncustom: {train_jsonl: t.jsonl}\n"
Load = Callable[..., LoadedRun]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(text: str, **files: str) -> LoadedRun:
        for name, content in files.items():
            (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return load_run(tmp_path / "run.yaml")

    return run


def refusal(load: Load, text: str, **files: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, **files)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def upstream(run: TrainRun, **expected: Any) -> None:
    for key, value in expected.items():
        assert run.upstream[key] == value
        assert type(run.upstream[key]) is type(value)


def test_the_least_that_runs(load: Load) -> None:
    run = load(MINIMAL).run
    assert run.upstream == {"model": "m", "output_dir": "output/run"}
    assert run.rlhf is None
    assert run.custom.strict
    assert run.custom.emit_norm == "norm1000"
    assert run.custom.trainer_variant is None
    assert (run.weights_from, run.continue_from) == (None, None)


def test_pass_through_keys_are_read_in_any_section_and_arrive_as_written(load: Load) -> None:
    run = load(
        MINIMAL + "training: {learning_rate: 1e-4, save_steps: 5, eval_strategy: no}\n"
        "template: {freeze_vit: false, dataloader_num_workers: 2}\nquantization: {lora_rank: 32}\n"
        "tuner: {lora_alpha: 64, target_modules: all-linear, gradient_checkpointing_kwargs: {use_reentrant: false}}\n"
    ).run
    upstream(run, learning_rate=1e-4, save_steps=5, eval_strategy="no", freeze_vit=False, dataloader_num_workers=2)
    upstream(run, lora_rank=32, lora_alpha=64, target_modules=["all-linear"])
    upstream(run, gradient_checkpointing_kwargs={"use_reentrant": False})


def test_a_key_overrides_the_base_whatever_its_section_or_spelling(load: Load) -> None:
    run = load(
        "extends: base.yaml\ntraining: {dataloader_num_workers: 4, train_type: full}\n",
        base=MINIMAL + "data: {dataloader_num_workers: 1}\ntuner: {tuner_type: lora}\n",
    ).run
    upstream(run, dataloader_num_workers=4, tuner_type="full")


def test_one_file_saying_two_things_in_two_sections_is_told(load: Load) -> None:
    (problem,) = refusal(load, MINIMAL + "data:\n  max_steps: 3\ntraining:\n  max_steps: 4\n")
    assert "run.yaml:6:3: `training.max_steps` is 4 here and 3 at" in problem
    assert load(MINIMAL + "data:\n  max_steps: 3\ntraining:\n  max_steps: 3\n").run.upstream["max_steps"] == 3


def test_one_length_knob(load: Load) -> None:
    upstream(load(MINIMAL + "global_max_length: 2048\n").run, max_length=2048, max_model_len=2048)
    upstream(load(MINIMAL + "global_max_length: 9\ntemplate: {max_length: 9}\n").run, max_length=9, max_model_len=9)
    freed = load("extends: b.yaml\nglobal_max_length: null\n", b=MINIMAL + "global_max_length: 9\n")
    assert "max_length" not in freed.run.upstream
    problems = refusal(load, MINIMAL + "global_max_length: 9\ntemplate:\n  max_length: 8\n  max_model_len: 7\n")
    assert [problem.split(": ", 1)[0].rsplit("run.yaml", 1)[1] for problem in problems] == [":5:15", ":6:18"]


def test_two_meanings_of_resume(load: Load) -> None:
    run = load(MINIMAL + "tuner: {resume_from_checkpoint: a}\ntraining: {resume_from_checkpoint: b}\n").run
    assert (run.weights_from, run.continue_from) == ("a", "b")
    assert "resume_from_checkpoint" not in run.upstream
    assert "tuner.resume_from_checkpoint" in refusal(load, "data: {resume_from_checkpoint: a}\n")[0]


def test_data_dataset_takes_any_value_and_reaches_nobody(load: Load) -> None:
    for value in ("[dummy]", "null", "{a: [1]}", "3"):
        loaded = load(MINIMAL + f"data: {{dataset: {value}}}\n")
        assert "dataset" not in loaded.run.upstream
        assert "`dataset` is not used" in loaded.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("train_type: adalora", "tuner_type", "adalora"),
        ("evaluation_strategy: no", "eval_strategy", "no"),
        ("save_safetensors: true", "safe_serialization", True),
        ("no_cuda: true", "use_cpu", True),
    ],
)
def test_old_names_are_read_with_a_note(load: Load, old: str, new: str, value: Any) -> None:
    loaded = load(MINIMAL + f"training:\n  {old}\n")
    upstream(loaded.run, **{new: value})
    assert f"is called `{new}` today" in loaded.notes[0]
    assert "run.yaml:4:3" in loaded.notes[0]


def test_keys_without_effect_are_noted_and_dropped(load: Load) -> None:
    loaded = load(MINIMAL + "training: {overwrite_output_dir: true}\n")
    assert loaded.run.upstream.keys() == {"model", "output_dir"}
    assert "no effect any more" in loaded.notes[0]


def test_strict_has_one_place(load: Load) -> None:
    assert load(MINIMAL + "data: {strict: false}\n").run.custom.strict is False
    assert "strict" not in load(MINIMAL + "training: {strict: false}\n").run.upstream


@pytest.mark.parametrize(
    "text",
    ["deepspeed: {enabled: true, config: zero3}", "deepspeed: zero3", "training: {deepspeed: zero3}"],
)
def test_deepspeed_spellings(load: Load, text: str) -> None:
    run = load(MINIMAL + text + "\n").run
    assert (run.deepspeed.enabled, run.deepspeed.config) == (True, "zero3")
    assert "deepspeed" not in run.upstream


def test_prompts_have_two_names_and_one_value(load: Load) -> None:
    run = load("model: {model: m}\ncustom: {train_jsonl: t, user_prompt: 描述, system_prompt_summary: S}\n").run
    assert (run.prompts.user_dense, run.prompts.system_summary) == ("描述", "S")
    (problem,) = refusal(
        load, "model: {model: m}\nprompts: {user_dense: a}\ncustom: {train_jsonl: t, user_prompt: b}\n"
    )
    assert "custom.user_prompt and prompts.user_dense are one thing" in problem


def test_empty_sections_say_nothing(load: Load) -> None:
    run = load(
        "extends: base.yaml\ncustom:\ntraining:\nrlhf:\n",
        base=MINIMAL + "training: {seed: 7}\n",
    ).run
    upstream(run, seed=7)
    assert run.custom.train_jsonl == "t.jsonl"
    base = "model: {model: m}\ncustom: {train_jsonl: t, visual_kd: {weight: 3}}\n"
    nested = load("extends: base.yaml\ncustom:\n  visual_kd:\n", base=base)
    assert nested.run.custom.visual_kd.weight == 3.0


GKD = MINIMAL + "rlhf:\n  rlhf_type: gkd\n  teacher_model: m\n"


def test_gkd_means_gkd_monitor_with_the_documented_defaults(load: Load) -> None:
    run = load(GKD).run
    assert run.custom.trainer_variant == "gkd_monitor"
    assert run.rlhf is not None
    assert (run.rlhf.beta, run.rlhf.sft_alpha, run.rlhf.llm_kd_weight) == (0.5, 1.0, 1.0)
    assert (run.rlhf.lmbda, run.rlhf.seq_kd, run.rlhf.kd_temperature) == (0.0, False, 1.0)


def test_own_rlhf_keys_stay_and_others_pass_through(load: Load) -> None:
    run = load(GKD + "  beta: 0.1\n  gkd_logits_topk: 20\n  learning_rate: 3\n").run
    assert run.rlhf is not None
    assert run.rlhf.beta == 0.1
    upstream(run, gkd_logits_topk=20, learning_rate=3)
    assert not {"beta", "teacher_model", "rlhf_type"} & run.upstream.keys()


def test_beta_zero_alone_is_refused_with_both_rewrites(load: Load) -> None:
    """Earlier versions switched the term off by it; here it is forward KL at full weight."""
    (said,) = refusal(load, GKD + "  beta: 0\n")
    assert "rlhf.beta: beta: 0 switched" in said and "`llm_kd_weight: 0`" in said and "`llm_kd_weight: 1.0`" in said
    assert load(GKD + "  beta: 0\n  llm_kd_weight: 1.0\n").run.rlhf.beta == 0
    assert load(GKD + "  llm_kd_weight: 0\n").run.rlhf.llm_kd_weight == 0
    assert load(GKD + "  beta: 0.0\n  llm_kd_weight: 0\n").run.rlhf.llm_kd_weight == 0


def test_a_resolved_configuration_with_beta_zero_loads_again(load: Load) -> None:
    first = load(GKD + "  beta: 0\n  llm_kd_weight: 0.5\n")
    assert load(first.to_yaml()).resolved == first.resolved


@pytest.mark.parametrize(("percent", "readings"), [("0.5", ("0.5 %", "50 %")), ("0.25", ("0.25 %", "25 %"))])
def test_a_share_for_a_percentage_is_refused_with_both_readings(load: Load, percent: str, readings: tuple) -> None:
    text = "model: {model: m}\ncustom: {train_jsonl: t.jsonl, augmentation: {curriculum: {phases: [{until_percent: "
    (said,) = refusal(load, text + percent + "}]}}}\n")
    assert "run.yaml:2:" in said and "phases[0].until_percent" in said
    assert all(reading in said for reading in readings)
    assert load(text + "1}]}}}\n")


def test_notes_on_sampling_that_does_not_happen(load: Load) -> None:
    notes = load(GKD + "  temperature: 0.7\n  max_completion_length: 9\n").notes
    assert sum("is ignored" in note for note in notes) == 2
    assert not load(GKD + "  temperature: 0.7\n  lmbda: 0.5\n").notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("custom: {train_jsonl: t}\n", "model.model is not set"),
        ("model: {model: m}\n", "custom.train_jsonl is not set"),
        (MINIMAL + "rlhf: {beta: 0.5}\n", "rlhf.rlhf_type is not set"),
        (MINIMAL + "rlhf: {rlhf_type: gkd}\n", "needs rlhf.teacher_model"),
        (MINIMAL.replace("t.jsonl", "t, trainer_variant: gkd_monitor"), "needs rlhf.rlhf_type: gkd"),
        (MINIMAL.replace("t.jsonl", "t, use_summary: true, summary_ratio: 0.5"), "keep one of them"),
        (MINIMAL + "training: {warmup_ratio: 0.1, warmup_steps: 5}\n", "both set"),
        (MINIMAL + "training: {bf16: true, fp16: true}\n", "both true"),
        (MINIMAL + "training: {lr_scheduler_type: cosine_with_min_lr}\n", "min_lr"),
        (MINIMAL + "data: {val_dataset: [x]}\n", "custom.val_jsonl"),
        (MINIMAL + "data: {streaming: true}\n", "would be ignored"),
    ],
)
def test_rules_between_keys(load: Load, tmp_path: Path, text: str, words: str) -> None:
    problems = refusal(load, text)
    assert len(problems) == 1
    assert words in problems[0]
    assert check_file(tmp_path / "run.yaml").problems == (), "each key by itself is fine"


@pytest.mark.parametrize(
    ("text", "col", "words"),
    [
        ("learning_rate: 1e-4", 1, "`learning_rate` belongs under `training`"),
        ("modle: {}", 1, "did you mean `model`?"),
        ("model: {modl: m}", 9, "did you mean `model`?"),
        ("model: {train_jsonl: m}", 9, "`train_jsonl` belongs under `custom`"),
        ("training: {beta: 0.5}", 12, "`beta` belongs under `rlhf`"),
        ("training: {global_max_length: 5}", 12, "top level"),
        ("training: {custom: {}}", 12, "section of its own"),
        ("training: {min_lr: 1e-6}", 12, "lr_scheduler_kwargs"),
        ("custom: {augmentation: {enabeld: true}}", 25, "did you mean `enabled`?"),
        ("custom: {augmentation: {ops: [{name: hflop}]}}", 38, "did you mean `hflip`?"),
        ("custom: {visual_kd: {targets: [merge]}}", 32, "did you mean `merger`?"),
        ("custom: {fusion: {sources: [{name: a, train_jsonl: b, raito: 1}]}}", 55, "did you mean `ratio`?"),
        ("rlhf: {temprature: 1}", 8, "did you mean `temperature`?"),
        ("prompts: {user_dens: a}", 11, "did you mean `user_dense`?"),
        ("deepspeed: {confg: zero2}", 13, "did you mean `config`?"),
        ("tuner: {tuner_type: lorra}", 21, "did you mean `lora`?"),
    ],
)
def test_a_wrong_key_at_every_level(tmp_path: Path, text: str, col: int, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    (problem,) = check_file(file).problems
    assert problem.where == f"{file}:1:{col}"
    assert words in problem.fix


@pytest.mark.parametrize(
    "text",
    [
        "training: {learning_rate: -1e-4}",
        "training: {warmup_ratio: 1.5}",
        "training: {max_steps: -2}",
        "training: {per_device_train_batch_size: 0}",
        "training: {gradient_accumulation_steps: 0.5}",
        "training: {num_train_epochs: 0}",
        "training: {eval_strategy: sometimes}",
        "training: {bf16: 1}",
        "tuner: {lora_rank: 0}",
        "tuner: {lora_dropout: 1.0}",
        "tuner: {modules_to_save: [1]}",
        "tuner: {tuner_type: dora}",
        "model: {torch_dtype: bf16}",
        "global_max_length: 0",
        "rlhf: {beta: 1.1}",
        "rlhf: {lmbda: -0.1}",
        "rlhf: {temperature: 0}",
        "rlhf: {rlhf_type: dpo}",
        "custom: {emit_norm: null}",
        "custom: {summary_ratio: 2}",
        "custom: {images_per_user_turn: 0}",
        "custom: {sample_limit: 0}",
        "custom: {visual_kd: {targets: []}}",
        "custom: {object_ordering: bottom}",
        "deepspeed: {config: zero9}",
        "deepspeed: 3",
        "custom: [a]",
    ],
)
def test_values_out_of_range(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    assert len(check_file(file).problems) == 1


def test_origins_and_comments_name_the_places(load: Load, tmp_path: Path) -> None:
    loaded = load("extends: base.yaml\ntraining:\n  seed: 7\n", base=MINIMAL)
    assert str(loaded.origins["training.seed"]) == f"{tmp_path}/run.yaml:3:9"
    assert str(loaded.origins["custom.train_jsonl"]) == f"{tmp_path}/base.yaml:2:23"
    text = loaded.to_yaml()
    assert f"  seed: 7  # {tmp_path}/run.yaml:3:9\n" in text
    assert "  emit_norm: norm1000  # default\n" in text


def test_the_base_below_everything(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MINIMAL + "training: {seed: 1, max_steps: 2}\n", encoding="utf-8")
    (tmp_path / "run.yaml").write_text("training: {seed: 3}\n", encoding="utf-8")
    upstream(load_run(tmp_path / "run.yaml", tmp_path / "base.yaml").run, seed=3, max_steps=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {deepspeed: 3}", "deepspeed must be one of zero0"),
        ("training: {deepspeed: {zero_optimization: {stage: 2}}}", "unknown key `deepspeed.zero_optimization`"),
        ("custom: [a]\ndata: {strict: false}", "custom must be a mapping"),
        ("training: {deepspeed: {}}\ncustom: 3", "custom must be a mapping"),
        ("custom: {}\ndeepspeed: zero2\ntraining: {deepspeed: zero3}", "`deepspeed.config` is the text 'zero3' here"),
    ],
)
def test_odd_placements_are_told(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    (problem,) = check_file(file).problems
    assert words in problem.what
