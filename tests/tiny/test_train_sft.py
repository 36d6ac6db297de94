"""Fine-tuning runs through the real trainer: what trains, what is saved, what stops a run."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from plumbline.errors import ConfigError, DataError
from plumbline.model.checkpoints import Card, is_complete
from plumbline.model.parts import part_of

pytestmark = pytest.mark.slow

MERGERS = ["model.visual.merger", *(f"model.visual.deepstack_merger_list.{index}" for index in range(3))]


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def parts_trained(folder):
    return {part_of(name) for name in adapter(folder)}


def test_accumulated_steps_equal_one_large_batch(train):
    """4 x 1 and 1 x 4: same samples, ragged answers, same loss; SGD shows that the gradient is the same, too."""
    shared = {"optim": "sgd", "learning_rate": 1.0e-2, "max_grad_norm": 1.0e9}
    split = train("split", training=shared | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4})
    whole = train("whole", training=shared | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1})
    assert split.series("train/loss") == pytest.approx(whole.series("train/loss"), rel=1e-5)
    assert split.series("grad_norm") == pytest.approx(whole.series("grad_norm"), rel=1e-5)
    assert split.series("train/token_count") == whole.series("train/token_count")
    for name, tensor in adapter(whole.last).items():
        torch.testing.assert_close(adapter(split.last)[name], tensor, rtol=0, atol=1e-6)


def test_loss_falls_and_the_checkpoint_says_how_to_use_it(train, tiny_model):
    run = train(training={"max_steps": 6, "learning_rate": 5.0e-3})
    losses = run.series("train/loss")
    assert losses[-1] < losses[0]
    assert is_complete(run.last)
    card = Card.read(run.last)
    assert (card.emit_norm, card.mode, card.prompts.user_dense) == ("norm1000", "dense", "描述")
    assert json.loads((run.last / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_model)
    for name in ("resolved.yaml", "versions.json", "data_manifest.json"):
        assert (run.folder / name).is_file()


def test_summary_mode_trains_on_the_summary(train):
    run = train(custom={"use_summary": True, "dump_conversation_text": True}, training={"max_steps": 1})
    assert Card.read(run.last).mode == "summary"
    assert "×1" in (run.folder / "conversation.txt").read_text(encoding="utf-8").split("--- supervised ---")[1]


def test_only_the_parts_that_are_not_frozen_train(train):
    aligner = train("aligner", tuner={"freeze_llm": True}, training={"max_steps": 1})
    assert parts_trained(aligner.last) == {"aligner"}
    vision = train("vision", tuner={"freeze_llm": True, "freeze_vit": False, "freeze_aligner": True})
    assert parts_trained(vision.last) == {"vit"}


def test_aligner_playbook_trains_the_saved_modules_in_full(train):
    run = train(
        tuner={"freeze_llm": True, "freeze_aligner": True, "target_regex": "^$", "modules_to_save": MERGERS},
        training={"optimizer": "multimodal", "aligner_lr": 1.0e-3, "max_steps": 2},
    )
    saved = adapter(run.last)
    assert parts_trained(run.last) == {"aligner"}
    assert not [name for name in saved if "lora_" in name]
    assert {name.split("base_model.model.")[1].rsplit(".", 2)[0] for name in saved} == set(MERGERS)


@pytest.mark.parametrize(
    "tuner",
    [
        {"use_dora": True},
        {"tuner_type": "adalora", "lora_rank": 4},
        {"tuner_type": "boft", "boft_block_size": 4},
        {"tuner_type": "fourierft", "fourier_n_frequency": 50},
    ],
    ids=lambda tuner: next(iter(tuner.values())) if "tuner_type" in tuner else "dora",
)
def test_other_adapters_train_and_are_saved(train, tuner):
    run = train(tuner=tuner | {"freeze_llm": True}, training={"max_steps": 3})
    assert (run.last / "adapter_model.safetensors").stat().st_size > 0
    assert run.series("train/loss")[-1] != run.series("train/loss")[0]


def test_full_training_moves_only_the_unfrozen_part(train, tiny_model):
    run = train(
        tuner={"tuner_type": "full", "freeze_llm": True, "freeze_vit": True, "freeze_aligner": False},
        training={"max_steps": 1, "optimizer": "multimodal", "aligner_lr": 1.0e-3},
    )
    before, after = load_file(tiny_model / "model.safetensors"), load_file(run.last / "model.safetensors")
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert moved
    assert {part_of(name) for name in moved} == {"aligner"}


def test_second_stage_takes_the_first_stage_weights_and_trains_all_its_own_targets(train):
    first = train("first", tuner={"freeze_llm": True}, training={"max_steps": 2})
    second = train(
        "second", tuner={"resume_from_checkpoint": str(first.last)}, training={"max_steps": 2, "learning_rate": 1.0e-9}
    )
    before, after = adapter(first.last), adapter(second.last)
    assert parts_trained(second.last) == {"llm", "aligner"}
    assert before.keys() < after.keys()
    for name, tensor in before.items():  # the tiny learning rate leaves them where stage 1 ended
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)
    assert any(after[name].abs().max() > 0 for name in after.keys() - before.keys() if "lora_B" in name)
    assert second.series("train/loss")[0] != first.series("train/loss")[0]


def test_second_stage_refuses_weights_that_it_has_no_place_for(train, write_run):
    first = train("first", training={"max_steps": 1})
    with pytest.raises(ConfigError, match="no place in this run"):
        train("second", tuner={"freeze_llm": True, "resume_from_checkpoint": str(first.last)})


def test_resume_is_bit_equal(train):
    """Stopped at step 2 of 4 and continued: the same losses, rates and weights as a run that was never stopped."""
    steps = {"max_steps": 4, "save_steps": 2, "save_total_limit": 5}
    tuner = {"lora_dropout": 0.1}
    whole = train("whole", training=steps, tuner=tuner)
    halved = train("halved", training=steps, tuner=tuner)
    shutil.rmtree(halved.last)  # as if it had been killed after step 2
    resumed = train("halved", training=steps, tuner=tuner)
    for name in ("train/loss", "learning_rate", "grad_norm"):
        assert resumed.series(name) == whole.series(name)
    for name, tensor in adapter(whole.last).items():
        assert torch.equal(adapter(resumed.last)[name], tensor), name
    lines = [(run.folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines() for run in (whole, resumed)]
    (account,), (rest,) = ([json.loads(line) for line in found] for found in lines)
    assert (account["epoch"], account["samples"], account["covered"]) == (1, 8, 1.0)
    assert (rest["epoch"], rest["samples"], rest["covered"]) == (1, 4, 0.5), "what came after step 2 was done again"


def test_a_finished_run_is_not_trained_again_and_a_changed_one_is_refused(train):
    run = train(training={"max_steps": 1})
    stamp = run.last.stat().st_mtime_ns
    again = train(training={"max_steps": 1})
    assert again.last.stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match=r"training.learning_rate was 0.001 and is now 0.002"):
        train(training={"max_steps": 1, "learning_rate": 2.0e-3})
    with pytest.raises(ConfigError, match="holds a run already"):
        train(training={"max_steps": 1}, resume=False)


def test_with_a_limit_of_one_the_last_and_the_best_checkpoint_stay(train):
    steps = {"max_steps": 3, "save_steps": 1, "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 1}
    steps |= {"metric_for_best_model": "token_count", "greater_is_better": True}  # constant: the first stays the best
    run = train(training=steps)
    assert sorted(path.name for path in run.folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-3"]
    stamp = run.last.stat().st_mtime_ns
    assert train(training=steps).last.stat().st_mtime_ns == stamp, "a finished run has nothing to do"


def test_an_incomplete_checkpoint_is_passed_over(train):
    run = train(training={"max_steps": 4, "save_steps": 2})
    weights = run.last / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    resumed = train(training={"max_steps": 4, "save_steps": 2})
    assert is_complete(resumed.last)
    assert resumed.last.name == "checkpoint-4"


def test_saving_waits_and_an_early_best_does_not_block_a_later_one(train):
    run = train(
        training={
            "max_steps": 4,
            "save_strategy": "best",
            "metric_for_best_model": "token_count",  # constant: the first evaluation would stay the best for ever
            "greater_is_better": True,
            "eval_strategy": "steps",
            "eval_steps": 1,
        },
        custom={"save_delay_steps": 3},
    )
    saved = sorted(path.name for path in run.folder.glob("checkpoint-*"))
    assert saved[0] == "checkpoint-3"
    state = json.loads((run.last / "trainer_state.json").read_text())
    assert state["best_global_step"] == 3


def test_a_record_that_cannot_be_encoded_stops_the_run_by_name(train, records, tmp_path):
    broken = _with_a_broken_picture(records[0], tmp_path)
    with pytest.raises(DataError, match=r"train.jsonl:2.*"):
        train(custom={"train_jsonl": str(broken)})


def test_without_strict_such_records_are_counted_and_nothing_takes_their_place(train, records, tmp_path):
    broken = _with_a_broken_picture(records[0], tmp_path)
    run = train(custom={"train_jsonl": str(broken), "strict": False}, training={"max_steps": 4})
    assert run.exit_code == 3
    assert sum(run.series("train/token_count")) < sum(
        train("all", training={"max_steps": 4}).series("train/token_count")
    )


def _with_a_broken_picture(jsonl, folder):
    copied = folder / "broken"
    shutil.copytree(jsonl.parent, copied)
    (copied / "train_1.png").write_bytes(b"\x89PNG not really")
    return copied / jsonl.name


def test_an_over_long_record_is_named_with_the_limit(train):
    with pytest.raises(DataError, match="tokens, the limit is 32"):
        train(global_max_length=32)


def test_a_stop_signal_saves_and_ends_with_its_code(train, monkeypatch):
    """SIGTERM to this very process during the first step, as a scheduler would send it."""
    from plumbline.train import step

    original, sent = step.head_terms, []

    def interrupted(*args, **kwargs):
        if not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(step, "head_terms", interrupted)
    run = train(training={"max_steps": 50})
    assert run.exit_code == 143
    assert run.last.name == "checkpoint-1"
    assert is_complete(run.last)


@pytest.mark.parametrize("length", ["max_steps", "num_train_epochs"])
def test_a_finished_run_is_extended_when_that_is_asked_for(plumbline, write_run, tmp_path, length):
    def config(count):
        lengths = {"max_steps": 2 * count} if length == "max_steps" else {"max_steps": -1, "num_train_epochs": count}
        return write_run(training=lengths | {"save_steps": 2, "lr_scheduler_type": "cosine"})

    folder = tmp_path / "run"
    assert plumbline("train", config(1))[0] == 0
    first = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    code, _, error = plumbline("train", config(2))
    assert code == 2 and f"training.{length} was" in error and "--extend" in error and "schedule" in error
    code, _, error = plumbline("train", config(2), "--extend")
    assert code == 0, error
    steps = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert steps[-1] == 2 * first
    rates = [json.loads(line) for line in (folder / "logging.jsonl").read_text("utf-8").splitlines()]
    assert [row["global_step/max_steps"].split("/")[0] for row in rates if "train/sft_loss" in row] == [
        str(step) for step in range(1, steps[-1] + 1)
    ]
    assert plumbline("train", config(2), "--extend")[0] == 0, "finished: nothing to do"
    code, _, error = plumbline("train", config(1), "--extend")
    assert code == 2 and "--extend" not in error, "a shorter run is another run"
