"""Rules between keys and paths, judged from files alone: no torch, no weights."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from plumbline.batch.schedule import SingleSchedule
from plumbline.errors import ConfigError
from plumbline.model.checkpoints import mark_complete
from plumbline.train.config import load_run
from plumbline.train.datasets import step_shape, steps_planned
from plumbline.train.folder import trim_log
from plumbline.train.preflight import card_of, check_run
from plumbline.train.teacher.plan import plan_teacher, teacher_problems

PROCESSOR = {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 4096, "longest_edge": 65536}}


def model_folder(folder, *, vocab=("a", "b"), template="{{ x }}", processor=PROCESSOR, **config):
    """The files of a model folder; of its weights these checks read names and shapes."""
    folder.mkdir(parents=True)
    base = {"model_type": "qwen3_vl", "image_token_id": 1, "text_config": {"vocab_size": 9}}
    files = {
        "config.json": base | config,
        "tokenizer.json": {"model": {"vocab": {word: index for index, word in enumerate(vocab)}}, "added_tokens": []},
        "preprocessor_config.json": processor,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    layers = ("language_model.layers.0.self_attn.q_proj", "visual.blocks.0.attn.qkv", "visual.merger.linear_fc1")
    save_file({f"model.{name}.weight": np.zeros((2, 2), np.float32) for name in layers}, folder / "model.safetensors")
    return folder


def pickled(folder):
    """The same folder with its weights as pickles; another file of safetensors does not make up for them."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "training_args.safetensors").touch()
    return folder


@pytest.fixture
def problems(tmp_path):
    """Judge a run whose sections are merged over one that is in order; returns {where: what} (empty when it passes)."""
    model = model_folder(tmp_path / "base")
    (tmp_path / "train.jsonl").write_text("{}\n")

    def judge(**sections):
        base = {
            "global_max_length": 64,
            "model": {"model": str(model)},
            "training": {"output_dir": str(tmp_path / "out")},
            "custom": {"train_jsonl": str(tmp_path / "train.jsonl")},
        }
        merged = {
            name: {**base.get(name, {}), **over} if isinstance(over, dict) else over for name, over in sections.items()
        }
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump({**base, **merged}))
        try:
            check_run(load_run(file).run)
        except ConfigError as error:
            return {problem.where.rsplit("/", 1)[-1]: problem.what for problem in error.problems}
        return {}

    judge.model = model
    return judge


def test_a_run_in_order_passes(problems):
    assert problems() == {}


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"custom": {"augmentation": {"enabled": True}}}, "custom.augmentation.ops"),
        ({"template": {"truncation_strategy": "right"}}, "template.truncation_strategy"),
    ],
)
def test_what_is_not_built_is_refused_not_ignored(problems, sections, key):
    assert key in problems(**sections)


def test_missing_things_are_all_named_at_once(problems, tmp_path):
    found = problems(
        model={"model": str(tmp_path / "nowhere")},
        custom={"train_jsonl": str(tmp_path / "none.jsonl"), "image_roots": [str(tmp_path / "no")]},
        training={"eval_strategy": "steps"},
        global_max_length=None,
    )
    assert {"model.model", "custom.train_jsonl", "custom.val_jsonl", "custom.image_roots", "global_max_length"} <= set(
        found
    )


def test_a_model_that_brings_code_is_refused(problems, tmp_path):
    hostile = model_folder(tmp_path / "hostile", auto_map={"AutoModel": "evil.Model"})
    assert "auto_map" in problems(model={"model": str(hostile)})["model.model"]


def test_distillation_without_a_teacher_is_refused(problems, tmp_path):
    assert (
        "no such folder"
        in problems(rlhf={"rlhf_type": "gkd", "teacher_model": str(tmp_path / "no")})["rlhf.teacher_model"]
    )
    assert problems(rlhf={"rlhf_type": "gkd", "teacher_model": str(problems.model)}) == {}


def test_a_loss_of_nothing_is_refused(problems):
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(problems.model), "sft_alpha": 0, "llm_kd_weight": 0}
    assert "nothing to learn" in problems(rlhf=rlhf)["rlhf"]


def test_pickled_weights_of_student_or_teacher_are_refused(problems, tmp_path):
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(pickled(model_folder(tmp_path / "teacher")))}
    found = problems(rlhf=rlhf)
    assert list(found) == ["teacher"] and "its weights are pickled (pytorch_model.bin)" in found["teacher"]
    pickled(problems.model)
    assert list(problems(rlhf={"rlhf_type": "gkd", "teacher_model": str(problems.model)})) == ["base"]
    assert list(problems()) == ["base"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"vocab": ("a", "c")}, "tokenizer vocabulary"),
        ({"template": "{{ y }}"}, "chat template"),
        ({"processor": PROCESSOR | {"patch_size": 14}}, "image processor patch size differs: student 16, teacher 14"),
        ({"processor": PROCESSOR | {"merge_size": 1}}, "image processor merge size"),
        ({"processor": PROCESSOR | {"size": {"shortest_edge": 1, "longest_edge": 65536}}}, "student 4096, teacher 1"),
        ({"text_config": {"vocab_size": 10}}, "vocabulary size differs: student 9, teacher 10"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named_with_the_numbers(tmp_path, other, named):
    student, teacher = model_folder(tmp_path / "s"), model_folder(tmp_path / "t", **other)
    assert any(named in problem.what for problem in teacher_problems(str(student), str(teacher)))
    assert teacher_problems(str(student), str(student)) == []


def test_processor_settings_in_either_file_compare_equal(tmp_path):
    student, teacher = model_folder(tmp_path / "s"), model_folder(tmp_path / "t")
    (teacher / "preprocessor_config.json").unlink()
    (teacher / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR}))
    assert teacher_problems(str(student), str(teacher)) == []


SUMMARIES = {"name": "s", "train_jsonl": "s.jsonl", "mode": "summary"}
CHATS = {"name": "c", "train_jsonl": "c.jsonl", "mode": "chat"}


@pytest.mark.parametrize(
    ("custom", "mode"),
    [
        ({}, "dense"),
        ({"use_summary": True}, "summary"),
        ({"summary_ratio": 1.0}, "summary"),
        ({"summary_ratio": 0.1}, "mixed"),
        ({"fusion": {"sources": [SUMMARIES]}}, "mixed"),
        ({"fusion": {"sources": [CHATS]}}, "dense"),
        ({"use_summary": True, "fusion": {"sources": [SUMMARIES, CHATS]}}, "summary"),
        ({"train_jsonl": None, "fusion": {"targets": [SUMMARIES]}}, "summary"),
    ],
)
def test_the_card_tells_what_was_trained(tmp_path, custom, mode):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"model": {"model": "m"}, "custom": {"train_jsonl": "t.jsonl"} | custom}))
    assert card_of(load_run(file).run).mode == mode


@pytest.mark.parametrize("key", ["user_prompt", "system_prompt"])
def test_prompts_that_would_not_be_asked_are_refused(problems, key):
    fusion = {"sources": [CHATS | {"train_jsonl": str(problems.model / "config.json")}]}
    assert problems(custom={"fusion": fusion}) == {}
    fusion["sources"][0][key] = "q"
    assert "keeps each record's own messages" in problems(custom={"fusion": fusion})["custom.fusion"]


def test_who_the_teacher_is(tmp_path):
    base, other = model_folder(tmp_path / "base"), model_folder(tmp_path / "other")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    shared = {"model": str(base), "tuner_type": "lora"}
    assert plan_teacher(shared, str(base) + "/").adapters_off
    assert plan_teacher({**shared, "tuner_type": "adalora"}, str(base)).adapters_off
    for upstream in ({"tuner_type": "fourierft"}, {"init_weights": "pissa"}, {"tuner_type": "full"}):
        assert not plan_teacher({**shared, **upstream}, str(base)).adapters_off
    assert not plan_teacher(shared, str(other)).adapters_off
    assert plan_teacher(shared, str(adapter)).adapters == (str(adapter),)


def test_continuing_needs_a_complete_checkpoint(problems, tmp_path):
    torn, whole = tmp_path / "out" / "checkpoint-4", tmp_path / "out" / "checkpoint-2"
    for folder in (torn, whole):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"12345678")
        mark_complete(folder)
    (torn / "adapter_model.safetensors").write_bytes(b"1234")
    assert "4 bytes long" in problems(training={"resume_from_checkpoint": str(torn)})["training.resume_from_checkpoint"]
    assert problems(training={"resume_from_checkpoint": str(whole)}) == {}


def test_planned_steps_count_what_the_trainer_counts():
    upstream = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_train_epochs": 3}
    for ranks, updates in ((1, 13), (2, 7)):
        shape = step_shape(upstream, ranks)
        units = len(SingleSchedule(103, shape))
        assert steps_planned(upstream, units, shape) == updates * 3
        assert steps_planned({**upstream, "max_steps": 5}, units, shape) == 5


def test_trimming_the_log_keeps_what_the_checkpoint_holds(tmp_path):
    log = tmp_path / "logging.jsonl"
    lines = [json.dumps({"loss": n, "global_step/max_steps": f"{n}/9"}) for n in range(1, 6)]
    log.write_text("\n".join([*lines, '{"last_model_checkpoint": null}', '{"loss": 6, "glob']))
    trim_log(log, 3)
    assert [json.loads(line)["loss"] for line in log.read_text().splitlines()] == [1, 2, 3]
    log.write_text("".join(json.dumps({"epoch": n, "step": 2 * n}) + "\n" for n in range(1, 4)))
    trim_log(log, 5, "step")
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2]


def test_the_checks_import_no_torch():
    code = "import sys, plumbline.train.run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


ADAPTER, FULL = {"tuner_type": "lora"}, {"tuner_type": "full"}


@pytest.mark.parametrize("config", ["zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_every_ready_deepspeed_configuration_goes_with_an_adapter(problems, config):
    assert problems(deepspeed={"enabled": True, "config": config}, tuner=ADAPTER) == {}


def test_zero_3_shards_a_head_that_trains(problems, tmp_path):
    file = tmp_path / "ds.json"
    for stage, refused in ((2, False), (3, True)):
        file.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        for config in (f"zero{stage}", str(file)):
            found = problems(deepspeed={"enabled": True, "config": config}, tuner=FULL)
            assert ("deepspeed.config" in found) == refused, (config, found)
    file.write_text("{}")
    assert problems(deepspeed={"enabled": True, "config": str(file)}, tuner=FULL) == {}


@pytest.mark.parametrize(("config", "refused"), [("zero2", False), ("zero3", True), ("zero3_offload", True)])
def test_zero_3_does_not_offload_the_teacher_besides(problems, config, refused):
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(problems.model), "offload_teacher_model": True}
    found = problems(deepspeed={"enabled": True, "config": config}, rlhf=rlhf)
    assert list(found) == ["rlhf.offload_teacher_model"] * refused


@pytest.mark.parametrize("text", [None, "{", "[]", '{"zero_optimization": 3}', '{"zero_optimization": {"stage": "x"}}'])
def test_a_deepspeed_file_that_is_none(problems, tmp_path, text):
    file = tmp_path / "ds.json"
    if text is not None:
        file.write_text(text)
    found = problems(deepspeed={"enabled": True, "config": str(file)})
    assert "is no DeepSpeed configuration" in found["deepspeed.config"]
    assert problems(deepspeed={"enabled": False, "config": str(file)}) == {}
