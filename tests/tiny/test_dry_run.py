"""What `train` refuses, `--dry-run` refuses in the same words; neither leaves a folder."""

import json
import shutil

import pytest
import torch
from PIL import Image

from plumbline.errors import UserError
from plumbline.train import forecast, preflight
from plumbline.train.config import load_run
from plumbline.train.forecast import checkpoint_bytes, copies_kept
from plumbline.train.launch import TrainOptions
from plumbline.train.run import run_training

pytestmark = pytest.mark.slow


@pytest.fixture
def refusal(write_run, tmp_path):
    """The words in which a configuration is refused, the same with and without --dry-run."""

    def words(**sections):
        config, said = write_run(**sections), []
        for dry in (True, False):
            with pytest.raises(UserError) as refused:
                run_training(config, TrainOptions(dry_run=dry))
            said.append(str(refused.value))
        assert said[0] == said[1]
        assert not (tmp_path / "run").exists()
        return said[0]

    return words


@pytest.fixture
def copied(records, tmp_path):
    """A copy of the training records and their pictures that a test may damage."""
    shutil.copytree(records[0].parent, tmp_path / "copied")
    return tmp_path / "copied" / records[0].name


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_bf16_without_a_gpu(refusal):
    said = refusal(training={"use_cpu": False, "bf16": True})
    assert said.startswith("training.bf16: needs a GPU, and this process sees none") and "use_cpu: true" in said


def test_missing_and_unreadable_pictures_of_the_whole_set_are_named(refusal, copied):
    (copied.parent / "train_6.png").unlink()
    (copied.parent / "train_7.png").write_bytes(b"no picture")
    said = refusal(custom={"train_jsonl": str(copied)})
    assert "train.jsonl:7" in said and "train_6.png" in said and "train.jsonl:8" in said and "is not a picture" in said


def test_a_picture_of_another_size_than_its_record(refusal, copied):
    Image.new("RGB", (30, 20)).save(copied.parent / "train_7.png")
    assert "train_7.png: the picture is 30 x 20, the record says" in refusal(custom={"train_jsonl": str(copied)})


def test_records_over_the_limit_longest_first(refusal):
    said = refusal(global_max_length=60)
    lengths = [int(line.split(": ")[1].split(" tokens")[0]) for line in said.splitlines() if " tokens, the" in line]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) == 8
    assert "train.jsonl:" in said and "raise global_max_length" in said


def test_the_same_file_in_both_sets(refusal, records):
    said = refusal(custom={"val_jsonl": str(records[0])}, training={"eval_strategy": "steps"})
    assert "holds the records of" in said and "take it out of one of the two sets" in said


def test_a_training_picture_under_another_name_in_the_validation_set(refusal, records, copied):
    row = json.loads(records[0].read_text(encoding="utf-8").splitlines()[2])
    shutil.copyfile(records[0].parent / row["images"][0], copied.parent / "renamed.png")
    other = copied.parent / "other.jsonl"
    other.write_text(json.dumps(row | {"images": ["renamed.png"]}) + "\n", encoding="utf-8")
    said = refusal(custom={"val_jsonl": str(other)}, training={"eval_strategy": "steps"})
    assert "other.jsonl:1: its picture is also that of" in said and "train.jsonl:3" in said


def _anchor(path, image, question="有几个人?"):
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "没有。"}]
    path.write_text(json.dumps({"messages": turns}, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(path)


def test_anchors_to_probe_with_may_be_about_training_pictures_but_not_about_those_of_anchors(
    refusal, write_run, records, copied, tiny_model
):
    """They ask something else than the training records do, and nothing that an anchor was trained on."""
    held = _anchor(copied.parent / "held.jsonl", "train_1.png")
    files = {"role": "anchor", "train_jsonl": held}
    custom = {"train_jsonl": str(copied), "val_jsonl": str(records[1])}
    sections = {
        "training": {"eval_strategy": "steps"},
        "rlhf": {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "llm_kd_weight": 0.0},
    }

    def fusion(probe):
        return {"custom": custom | {"fusion": {"sources": [{"name": "held", "val_jsonl": probe, **files}]}}}

    other = fusion(_anchor(copied.parent / "other.jsonl", "train_2.png"))
    assert run_training(write_run(**sections, **other), TrainOptions(dry_run=True)).exit_code == 0
    same = fusion(_anchor(copied.parent / "same.jsonl", "train_1.png", "是什么颜色?"))
    said = refusal(**sections, **same)
    assert "same.jsonl:1" in said and "is also that of" in said and "held.jsonl:1" in said


@pytest.mark.parametrize(
    ("tuner", "wanted"),
    [
        (
            {"target_modules": None, "target_regex": ".*nothing.*"},
            "tuner.target_regex: '.*nothing.*' matches no module",
        ),
        ({"target_modules": ["q_proj", "quer"]}, "tuner.target_modules: no module of"),
        ({"target_regex": "(", "target_modules": None}, "is no regular expression"),
        ({"modules_to_save": ["model.visual.mergers"]}, "no module of the model is called model.visual.mergers"),
        ({"target_modules": ["lm_head"]}, "the output head cannot carry an adapter"),
        ({"freeze_llm": True, "freeze_vit": True, "freeze_aligner": True}, "nothing would train"),
    ],
)
def test_targets_that_are_not_in_the_model(refusal, tuner, wanted):
    tuner = {key: value for key, value in tuner.items() if value is not None} | (
        {"target_modules": []} if "target_regex" in tuner else {}
    )
    assert wanted in refusal(tuner=tuner)


def test_a_visual_term_with_nothing_to_move(refusal, tiny_model):
    said = refusal(
        rlhf={"rlhf_type": "gkd", "teacher_model": str(tiny_model)},
        custom={"visual_kd": {"enabled": True, "weight": 0.5}},
        tuner={"freeze_aligner": True},
    )
    assert "nothing on the visual side trains" in said


def test_an_attention_kernel_whose_package_is_missing(refusal):
    said = refusal(model={"attn_impl": "flash_attention_2"})
    assert "model.attn_impl: flash_attention_2 needs the package flash_attn" in said


def test_a_folder_that_cannot_be_written(refusal, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(training={"output_dir": str(tmp_path / "file" / "below")})
    monkeypatch.setattr(preflight.os, "access", lambda *_: False)
    assert "cannot be written to" in refusal()


def test_a_disk_without_room(refusal, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: usage)
    said = refusal()
    assert "training.output_dir: 1 checkpoints of about" in said and "set training.save_total_limit" in said


def test_a_folder_with_another_run(train, write_run):
    train(training={"max_steps": 1})
    for dry in (True, False):
        with pytest.raises(UserError, match=r"training.learning_rate was 0.001 and is now 0.5"):
            run_training(write_run(training={"max_steps": 1, "learning_rate": 0.5}), TrainOptions(dry_run=dry))


def test_what_the_upstream_refuses(refusal):
    assert "the upstream's arguments" in refusal(
        training={"eval_strategy": "epoch", "save_strategy": "steps", "load_best_model_at_end": True}
    )


def test_the_plan_of_a_good_run(write_run, tmp_path, capsys):
    run_training(write_run(), TrainOptions(dry_run=True, as_json=True))
    plan = json.loads(capsys.readouterr().out)
    assert plan["start"] == "fresh" and plan["checkpoints_kept"] == 1 and len(plan["longest"]) == 8
    assert plan["longest"][0]["tokens"] >= plan["longest"][-1]["tokens"]
    assert not (tmp_path / "run").exists()
    run_training(write_run(), TrainOptions(dry_run=True))
    shown = capsys.readouterr().out
    assert "frozen: vit\n" in shown and "[" not in shown


@pytest.mark.parametrize("tuner", [{"tuner_type": "lora"}, {"tuner_type": "full", "target_modules": ["all-linear"]}])
def test_the_predicted_size_of_a_checkpoint_is_near_the_real_one(train, write_run, tuner):
    run = train(tuner=tuner, training={"max_steps": 1})
    actual = sum(path.stat().st_size for path in run.last.iterdir() if path.suffix in (".safetensors", ".pt"))
    assert checkpoint_bytes(load_run(write_run(tuner=tuner), None).run) == pytest.approx(actual, rel=0.25)


@pytest.mark.parametrize(
    ("training", "copies"),
    [
        ({}, 1),
        ({"save_steps": 1}, 4),
        ({"save_steps": 1, "save_total_limit": 1}, 3),
        ({"save_steps": 0.5}, 2),
        ({"save_strategy": "epoch", "num_train_epochs": 2}, 2),
        ({"save_strategy": "no"}, 1),
    ],
)
def test_copies_on_the_disk_at_a_time(write_run, training, copies):
    assert copies_kept(load_run(write_run(training=training), None).run, 4) == copies


def test_without_strict_what_is_wrong_with_the_data_is_a_warning(train, copied):
    (copied.parent / "train_7.png").write_bytes(b"no picture")
    run = train(custom={"train_jsonl": str(copied), "strict": False}, training={"max_steps": 4})
    assert run.exit_code == 3


def test_a_large_set_is_read_in_every_core(write_run, make_records, tmp_path, monkeypatch):
    """The same findings from several processes as from one."""
    many = make_records(tmp_path / "many", "train", 12, 3)
    (many.parent / "train_11.png").unlink()
    monkeypatch.setattr(forecast, "_LEAST_PER_PROCESS", 2)
    monkeypatch.setattr(forecast, "_CHUNK", 3)
    with pytest.raises(UserError, match=r"train.jsonl:12.*train_11.png"):
        run_training(write_run(custom={"train_jsonl": str(many)}), TrainOptions(dry_run=True))
