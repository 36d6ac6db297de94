"""Runs at the edges: chats of several turns, wrong sizes and names, stops inside a delay, what cannot be continued."""

import json
import shutil
import signal

import pytest

from plumbline.errors import ConfigError, DataError
from plumbline.model.checkpoints import is_complete

pytestmark = pytest.mark.slow


@pytest.fixture
def chats(tmp_path):
    """A file of text-only chats with two answers each."""
    turns = [("user", "一"), ("assistant", "二三四"), ("user", "五"), ("assistant", "六七")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    path = tmp_path / "chats.jsonl"
    path.write_text((json.dumps(row, ensure_ascii=False) + "\n") * 4, encoding="utf-8")
    return path


@pytest.fixture
def stop_at_first_step(monkeypatch):
    from plumbline.train import step

    original, sent = step.head_terms, []

    def interrupted(*args, **kwargs):
        if not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(step, "head_terms", interrupted)


def test_every_answer_of_a_chat_is_supervised_with_and_without_a_teacher(train, chats, tiny_model):
    held_out = chats.with_name("held_out.jsonl")
    held_out.write_text(chats.read_text(encoding="utf-8").replace("六七", "八九"), encoding="utf-8")
    custom = {"train_jsonl": str(chats), "val_jsonl": str(held_out)}
    plain = train("plain", custom=custom, training={"max_steps": 1})
    anchored = train(
        "gkd", custom=custom, training={"max_steps": 1}, rlhf={"rlhf_type": "gkd", "teacher_model": str(tiny_model)}
    )
    assert plain.series("train/token_count") == anchored.series("train/token_count")
    assert plain.series("train/sft_loss") == pytest.approx(anchored.series("train/sft_loss"), rel=1e-6)


def test_adalora_trains_on_batches_without_a_picture(train, chats):
    run = train(custom={"train_jsonl": str(chats)}, tuner={"tuner_type": "adalora"}, training={"max_steps": 2})
    assert len(run.series("loss")) == 2


def _copied(jsonl, folder):
    shutil.copytree(jsonl.parent, folder / "copied")
    return folder / "copied" / jsonl.name


def test_a_picture_of_another_size_than_its_record_stops_the_run(train, records, tmp_path):
    copied = _copied(records[0], tmp_path)
    rows = [json.loads(line) for line in copied.read_text(encoding="utf-8").splitlines()]
    rows[0]["width"], rows[0]["height"] = rows[0]["width"] + 1, rows[0]["height"]
    copied.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"train.jsonl:1.*the record says"):
        train(custom={"train_jsonl": str(copied)})
    assert not (tmp_path / "run").exists()


def test_a_skipped_record_is_not_answered_by_sampling(train, records, tmp_path, tiny_model):
    copied = _copied(records[0], tmp_path)
    for number in range(8):
        (copied.parent / f"train_{number}.png").write_bytes(b"no picture") if number else None
    run = train(
        custom={"train_jsonl": str(copied), "strict": False},
        rlhf={"rlhf_type": "gkd", "teacher_model": str(tiny_model), "lmbda": 1.0, "max_completion_length": 3},
        training={"max_steps": 8, "per_device_train_batch_size": 1},
    )
    assert run.exit_code == 3
    assert sorted(run.series("train/token_count")) == [*[0.0] * 7, 3.0]


def test_a_wrong_name_in_modules_to_save_is_refused(train, tmp_path):
    with pytest.raises(ConfigError, match=r"no module of the model is called model.visual.mergerr"):
        train(tuner={"modules_to_save": ["model.visual.mergerr"]})
    assert not (tmp_path / "run").exists()


def test_a_stop_inside_the_save_delay_still_saves(train, stop_at_first_step):
    run = train(custom={"save_delay_steps": 10}, training={"max_steps": 20})
    assert run.exit_code == 143
    assert is_complete(run.last)


def test_a_checkpoint_of_weights_alone_is_not_continued(train):
    train(training={"max_steps": 4, "save_steps": 2, "save_only_model": True})
    folder = train("other", training={"max_steps": 4, "save_steps": 2, "save_only_model": True}).folder
    shutil.rmtree(folder / "checkpoint-4")
    with pytest.raises(ConfigError, match="holds weights alone"):
        train("other", training={"max_steps": 4, "save_steps": 2, "save_only_model": True})


def test_one_json_object_on_standard_output(write_run, capsys):
    from plumbline.train.launch import TrainOptions
    from plumbline.train.run import run_training

    config = write_run(training={"max_steps": 1})
    for _ in range(2):  # once trained, once found finished
        run_training(config, TrainOptions(as_json=True))
        assert json.loads(capsys.readouterr().out)["last_checkpoint"].endswith("checkpoint-1")
