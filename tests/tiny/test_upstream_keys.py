"""Keys that pass through to the upstream reach our step: each changes what a run does, or is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from plumbline.errors import ConfigError

pytestmark = pytest.mark.slow

BLOCK = "model.language_model.layers.0."
FULL = {"tuner_type": "full"}
NOT_FROZEN = {"freeze_vit": False, "freeze_aligner": False}
ADALORA = {"tuner_type": "adalora", "adalora_init_r": 12}
NF4 = {"quant_method": "bnb", "quant_bits": 4}
WIDE = {"lora_rank": 64}
"""An adapter whose matrices are large enough for the states of an 8-bit optimiser."""


@pytest.fixture(scope="module")
def losses():
    """Losses of the runs without the keys, made once: sections -> losses."""
    return {}


@pytest.fixture
def losses_of(train, losses):
    def run(name, sections):
        sections = {key: dict(value) for key, value in sections.items()}
        sections["training"] = {"max_steps": 3} | sections.get("training", {})
        return train(name, **sections).series("train/sft_loss")

    def remembered(sections):
        key = json.dumps(sections, sort_keys=True)
        if key not in losses:
            losses[key] = run("without", sections)
        return losses[key]

    run.without = remembered
    return run


@pytest.mark.parametrize(
    ("keys", "without"),
    [
        ({"training": {"neftune_noise_alpha": 50.0}}, {}),
        ({"training": {"optimizer": "multimodal", "vit_lr": 1e-5, "aligner_lr": 1e-5}}, {}),
        ({"training": {"optim": "sgd"}}, {}),
        ({"training": {"optim": "adafactor"}}, {}),
        ({"training": {"optim": "adagrad"}}, {}),
        ({"training": {"optim": "rmsprop"}}, {}),
        ({"training": {"optim": "ademamix"}}, {}),
        ({"training": {"optim": "lion_32bit"}}, {}),
        ({"training": {"optim": "adamw_8bit"}, "tuner": WIDE}, {"tuner": WIDE}),
        ({"training": {"optim": "ademamix", "optim_args": "alpha=50.0"}}, {"training": {"optim": "ademamix"}}),
        ({"training": {"max_grad_norm": 1e-4}}, {}),
        ({"training": {"weight_decay": 0.9, "learning_rate": 0.01}}, {}),
        ({"training": {"lr_scheduler_type": "constant"}}, {}),
        ({"training": {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}}}, {}),
        ({"training": {"adam_beta1": 0.1}}, {}),
        ({"training": {"adam_beta2": 0.1}}, {}),
        ({"training": {"adam_epsilon": 0.1}}, {}),
        ({"training": {"warmup_steps": 2}}, {}),
        ({"training": {"data_seed": 5}}, {}),
        ({"training": {"train_dataloader_shuffle": False}}, {}),
        ({"training": {"lorap_lr_ratio": 16.0}}, {}),
        ({"tuner": FULL | {"lisa_activated_layers": 1, "lisa_step_interval": 1}}, {"tuner": FULL}),
        ({"template": {"max_pixels": 4096}}, {}),
        ({"model": {"new_special_tokens": ["描述"]}}, {}),
        ({"tuner": {"init_weights": "gaussian"}}, {}),
        ({"tuner": {"init_weights": "pissa"}}, {}),
        ({"tuner": {"use_dora": True}}, {}),
        ({"tuner": {"use_rslora": True}}, {}),
        ({"tuner": {"lora_bias": "all"} | NOT_FROZEN}, {"tuner": NOT_FROZEN}),
        ({"tuner": {"lora_dtype": "bfloat16"}}, {}),
        (
            {"tuner": {"target_modules": ["q_proj"], "target_parameters": ["gate_proj.weight"]}},
            {"tuner": {"target_modules": ["q_proj"]}},
        ),
        ({"quantization": NF4}, {}),
        ({"quantization": NF4 | {"quant_bits": 8}}, {}),
        ({"quantization": NF4 | {"bnb_4bit_quant_type": "fp4"}}, {"quantization": NF4}),
        ({"quantization": NF4 | {"bnb_4bit_compute_dtype": "bfloat16"}}, {"quantization": NF4}),
        ({"quantization": NF4 | {"bnb_4bit_use_double_quant": False}}, {"quantization": NF4}),
    ],
    ids=lambda keys: "-".join(str(key) for section in keys.values() for key in section) or "plain",
)
def test_a_key_changes_the_losses(losses_of, keys, without):
    changed = losses_of("changed", keys)
    assert len(changed) == 3 and changed != losses_of.without(without)


@pytest.mark.parametrize(
    ("kind", "keys", "written"),
    [
        (
            ADALORA | {"adalora_target_r": 3},
            {"adalora_init_r": 6, "adalora_tinit": 1, "adalora_tfinal": 2, "adalora_deltaT": 3, "adalora_beta1": 0.5}
            | {"adalora_beta2": 0.6, "adalora_orth_reg_weight": 5.0, "adalora_target_r": 2},
            {"init_r": 6, "tinit": 1, "tfinal": 2, "deltaT": 3, "beta1": 0.5, "beta2": 0.6, "orth_reg_weight": 5.0}
            | {"target_r": 2},
        ),
        (
            {"tuner_type": "boft"},
            {"boft_block_size": 0, "boft_block_num": 2, "boft_dropout": 0.5},
            {"boft_block_size": 0, "boft_block_num": 2, "boft_dropout": 0.5},
        ),
        (
            {"tuner_type": "fourierft"},
            {"fourier_n_frequency": 50, "fourier_scaling": 3000.0},
            {"n_frequency": 50, "scaling": 3000.0},
        ),
        (
            {"tuner_type": "vera", "target_modules": ["gate_proj", "up_proj"]},
            {"vera_rank": 8, "vera_dropout": 0.5, "vera_d_initial": 1.0, "vera_projection_prng_key": 7},
            {"r": 8, "vera_dropout": 0.5, "d_initial": 1.0, "projection_prng_key": 7},
        ),
    ],
    ids=["adalora", "boft", "fourierft", "vera"],
)
def test_keys_of_an_adapter_arrive_and_change_the_losses(train, kind, keys, written):
    steps = {"max_steps": 5}
    plain = train("plain", tuner=kind, training=steps)
    changed = train("changed", tuner=kind | keys, training=steps)
    config = json.loads((changed.last / "adapter_config.json").read_text(encoding="utf-8"))
    assert {name: config[name] for name in written} == written
    assert changed.series("train/sft_loss") != plain.series("train/sft_loss")


def test_an_adapter_on_a_quantised_base_is_distilled_and_merged(train, tiny_model, plumbline, tmp_path):
    """The quantised base with its adapter off is the teacher; the adapter goes onto the base as it was."""
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "llm_kd_weight": 1.0}
    done = train("q", quantization=NF4, rlhf=rlhf)
    first, second = done.series("train/llm_kd_loss")
    assert abs(first) < 1e-6 < second
    code, said, _ = plumbline("merge", "--adapter", done.last, "--output", tmp_path / "merged")
    assert code == 0 and "largest difference" in said


@pytest.mark.parametrize(
    ("keys", "trains"),
    [
        ({"freeze_parameters": [BLOCK]}, lambda name: not name.startswith(BLOCK)),
        ({"freeze_parameters_regex": r".*layers\.0\..*"}, lambda name: not name.startswith(BLOCK)),
        ({"freeze_parameters_ratio": 1.0, "trainable_parameters": [BLOCK]}, lambda name: name.startswith(BLOCK)),
        (
            {"freeze_parameters_ratio": 1.0, "trainable_parameters_regex": r".*layers\.0\..*"},
            lambda name: name.startswith(BLOCK),
        ),
    ],
    ids=lambda keys: "-".join(keys) if isinstance(keys, dict) else "",
)
def test_full_training_changes_the_parameters_that_it_names(train, tiny_model, keys, trains):
    done = train("full", tuner=FULL | {"freeze_aligner": True} | keys)
    before, after = weights(tiny_model), weights(done.last)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    text = {name for name in after if "language_model.layers" in name}
    assert {name for name in text if name in changed} == {name for name in text if trains(name)}


def weights(folder):
    """Every tensor of a checkpoint, by name."""
    found = {}
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def test_logging_follows_its_strategy(train):
    assert len(train("epochs", training={"logging_strategy": "epoch", "max_steps": 8}).series("train/loss")) == 3
    assert len(train("none", training={"logging_strategy": "no"}).series("train/loss")) == 1
    keys = {"logging_steps": 2, "max_steps": 4}
    assert len(train("first", training=keys).series("train/loss")) == 3
    assert len(train("late", training=keys | {"logging_first_step": False}).series("train/loss")) == 2


def test_tokens_are_counted_where_asked(train):
    seen = train("seen", training={"include_num_input_tokens_seen": "all"})
    assert seen.series("num_input_tokens_seen")[-1] > 0


def test_max_epochs_ends_a_run(train):
    assert len(train("short", training={"max_epochs": 1, "max_steps": 9}).series("train/loss")) == 4


def test_an_evaluation_without_gain_ends_a_run(train):
    keys = {"early_stop_interval": 1, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 6}
    done = train("stopped", training=keys | {"learning_rate": 0.0})
    assert len(done.series("eval_loss")) == 2


def test_evaluation_starts_when_it_is_said(train):
    keys = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    assert len(train("late", training=keys | {"eval_delay": 2}).series("eval_loss")) == 2
    assert len(train("early", training=keys | {"eval_on_start": True}).series("eval_loss")) == 4


def test_deterministic_kernels_are_switched_on(train):
    try:
        train("exact", training={"full_determinism": True})
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_options_of_checkpointing_arrive(train, monkeypatch):
    from transformers import PreTrainedModel

    given, enable = [], PreTrainedModel.gradient_checkpointing_enable

    def spied(self, gradient_checkpointing_kwargs=None, **other):
        given.append(gradient_checkpointing_kwargs)
        return enable(self, gradient_checkpointing_kwargs, **other)

    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", spied)
    options = {"use_reentrant": True}
    train("again", training={"gradient_checkpointing": True, "gradient_checkpointing_kwargs": options})
    assert options in given


def test_gpu_memory_is_released_every_so_many_steps(train, monkeypatch):
    import transformers.trainer

    released = []
    monkeypatch.setattr(transformers.trainer, "clear_device_cache", lambda: released.append(1))
    train("released", training={"torch_empty_cache_steps": 2, "max_steps": 4})
    assert len(released) == 2


def test_the_keys_of_the_dataloader_arrive(train, monkeypatch):
    from plumbline.train import step

    made, real = [], step.DataLoaderShard

    def spied(*words, **keys):
        made.append(real(*words, **keys))
        return made[-1]

    monkeypatch.setattr(step, "DataLoaderShard", spied)
    keys = {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True}
    keys |= {"dataloader_pin_memory": False, "dataloader_drop_last": True, "per_device_train_batch_size": 3}
    train("loading", training=keys)
    assert (made[0].num_workers, made[0].prefetch_factor, made[0].persistent_workers) == (1, 3, True)
    assert made[0].pin_memory is False
    assert len(made[0]) == 2  # eight records in threes: the last two are left out


@pytest.fixture
def arguments_of(write_run):
    """The upstream's arguments of a run with these sections."""
    from plumbline.train.arguments import upstream_arguments
    from plumbline.train.config import load_run
    from plumbline.train.folder import Continuation

    return lambda **sections: upstream_arguments(load_run(write_run(**sections)).run, Continuation())


def test_the_keys_of_several_processes_arrive(arguments_of):
    from transformers import Trainer

    keys = {"ddp_bucket_cap_mb": 7, "ddp_find_unused_parameters": True, "ddp_broadcast_buffers": False}
    arguments = arguments_of(training=keys | {"ddp_static_graph": True, "ddp_timeout": 77}).training_args
    built = Trainer._build_accelerator_args(SimpleNamespace(args=arguments, model=None))
    handler = built["kwargs_handlers"][0]
    assert (handler.bucket_cap_mb, handler.find_unused_parameters, handler.broadcast_buffers) == (7, True, False)
    assert handler.static_graph is True
    assert arguments.ddp_timeout == 77


def test_the_storage_of_quantised_weights_arrives(arguments_of):
    arguments = arguments_of(quantization=NF4 | {"bnb_4bit_quant_storage": "bfloat16"})
    assert arguments.get_quantization_config().bnb_4bit_quant_storage is torch.bfloat16


def test_tf32_arrives_where_no_card_has_it(arguments_of):
    if torch.cuda.is_available():
        pytest.skip("the card of this machine multiplies in TF32")
    with pytest.raises(ConfigError, match="tf32"):
        arguments_of(training={"tf32": True})


def test_swanlab_receives_its_keys(train, tmp_path, monkeypatch):
    pytest.importorskip("swanlab", reason="swanlab is not installed")
    monkeypatch.chdir(tmp_path)
    keys = {"report_to": ["swanlab"], "swanlab_mode": "local", "swanlab_project": "p1", "swanlab_exp_name": "e1"}
    train("tracked", training=keys)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "swanlog").glob("runs.swanlab*"))
    assert b"p1" in kept and b"e1" in kept


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ({"training": {"optimizer": "muon"}}, "multimodal"),
        ({"training": {"optimizer": "lorap"}}, "lorap_lr_ratio"),
        ({"training": {"optim": "lomo"}}, "adamw_torch"),
        ({"training": {"report_to": ["trackio"]}}, "tensorboard"),
        ({"tuner": {"tuner_type": "llamapro"}}, "adalora"),
        ({"tuner": {"tuner_type": "ia3"}}, "adalora"),
        ({"tuner": {"tuner_type": "lora_llm"}}, "adalora"),
        ({"training": {"lr_scheduler_type": "greedy"}}, "cosine"),
        ({"quantization": {"quant_bits": 4}}, "quant_method: bnb"),
        ({"quantization": NF4, "tuner": FULL}, "adapter"),
        ({"tuner": {"init_weights": "eva"}}, "pissa"),
        ({"tuner": {"init_weights": "loftq"}}, "pissa"),
        ({"tuner": ADALORA | {"adalora_target_r": 12}}, "adalora_init_r"),
        ({"quantization": {"quant_method": "hqq", "quant_bits": 4}}, "bnb"),
        ({"quantization": NF4 | {"quant_bits": 2}}, "4, 8"),
        ({"training": {"vit_lr": 1e-5}}, "optimizer: multimodal"),
        ({"tuner": {"vera_rank": 8}}, "tuner_type: vera"),
        ({"tuner": {"freeze_parameters_ratio": 0.5}}, "tuner_type: full"),
        ({"tuner": FULL | {"use_dora": True}}, "tuner_type: lora"),
        ({"training": {"lisa_activated_layers": 1}}, "tuner_type: full"),
        ({"quantization": {"bnb_4bit_quant_type": "fp4"}}, "quant_bits: 4"),
        ({"training": {"swanlab_project": "x"}}, "report_to: swanlab"),
        ({"training": {"neftune_noise_alpha": 5.0}, "rlhf": {"rlhf_type": "gkd"}}, "teacher"),
    ],
)
def test_what_cannot_work_with_our_step_is_refused(write_run, tiny_model, keys, advice):
    from plumbline.train.config import load_run

    if "rlhf" in keys:
        keys = keys | {"rlhf": keys["rlhf"] | {"teacher_model": str(tiny_model), "llm_kd_weight": 0.5}}
    with pytest.raises(ConfigError) as error:
        load_run(write_run(**keys))
    assert advice in str(error.value)


def test_every_accepted_key_is_described():
    """A key that is neither refused nor on the page of the configuration has crept in."""
    from plumbline.config.upstream import KNOWN, table
    from plumbline.train.canonical import OWN_RLHF
    from plumbline.train.unused import without_effect

    assert set(table()) - set(without_effect()) - set(KNOWN) - {*OWN_RLHF, "deepspeed"} == set()
    assert set(KNOWN) & set(without_effect()) == set()


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
        ("rlhf", "teacher_adapters", ["x"], "rlhf.teacher_model"),
        ("training", "use_liger_kernel", True, "kernels of our own"),
        ("training", "push_to_hub", True, "hf upload"),
        ("training", "disable_tqdm", True, "--debug"),
        ("training", "average_tokens_across_devices", False, "whole step"),
        ("training", "ignore_data_skip", True, "resume_from_checkpoint"),
        ("model", "model_kwargs", {"MAX_PIXELS": 1}, "template.max_pixels"),
        ("model", "model_revision", "v1", "revision"),
        ("template", "enable_thinking", True, "thoughts"),
        ("template", "loss_scale", "all", "rlhf.sft_alpha"),
        ("tuner", "use_swift_lora", True, "fourierft"),
        ("tuner", "boft_n_butterfly_factor", 2, "CUDA extension"),
        ("tuner", "adapters", ["x"], "tuner.resume_from_checkpoint"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(write_run, tiny_model, section, key, value, advice):
    from plumbline.train.config import load_run

    sections = {section: {key: value}}
    if section == "rlhf":
        sections = {"rlhf": {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "llm_kd_weight": 0.5, key: value}}
    with pytest.raises(ConfigError) as error:
        load_run(write_run(**sections))
    assert f".{key}: " in str(error.value) and "would be ignored" in str(error.value) and advice in str(error.value)
