"""Two processes train what one process trains: the gradient is the sum over both, evaluation counts nothing twice."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


SHARED = {
    "max_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "ddp_backend": "gloo",
    "optim": "sgd",
    "learning_rate": 1.0e-2,
}


@pytest.fixture
def in_two_processes(write_run, tmp_path):
    """Train in two processes; the run's folder."""

    def go(name, **sections):
        config = write_run(name, **sections)
        environment = os.environ | {"NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "plumbline", "train", str(config)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return tmp_path / name

    return go


def assert_same_step(two, one):
    """Equal losses, counts and weights."""
    for name in ("train/loss", "train/token_count", "eval/loss", "eval/token_count", "eval_loss"):
        assert two.series(name) == pytest.approx(one.series(name), rel=1e-5), name
    for name, tensor in load_file(one.last / "adapter_model.safetensors").items():
        found = load_file(two.last / "adapter_model.safetensors")[name]
        torch.testing.assert_close(found, tensor, rtol=0, atol=1e-6)


def anchors(folder, name):
    """Four chats without a picture."""
    path = folder / f"{name}.jsonl"
    asked = [{"role": "user", "content": f"{name} {number}?"} for number in range(4)]
    answers = [{"role": "assistant", "content": "好的。" * (number + 1)} for number in range(4)]
    lines = [json.dumps({"messages": [*pair]}) + "\n" for pair in zip(asked, answers, strict=True)]
    path.write_text("".join(lines))
    return str(path)


def test_two_processes_equal_one(train, in_two_processes, tiny_model, tmp_path):
    """Eight records and four anchors in one optimiser step, distillation included.

    2 ranks x 2 x 3 micro-batches against 1 x 12: some micro-batches hold anchors alone, some none.
    """
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "sft_alpha": 0.5}
    files = {"train_jsonl": anchors(tmp_path, "train"), "val_jsonl": anchors(tmp_path, "val")}
    held = {"name": "held", "role": "anchor", "ratio": 0.5, "sft_alpha": 0.2, "beta": 0.0, **files}
    sections = {"rlhf": rlhf, "custom": {"fusion": {"sources": [held]}}}
    one = train("one", training=SHARED | {"per_device_train_batch_size": 12}, **sections)
    folder = in_two_processes("two", training=SHARED | {"gradient_accumulation_steps": 3}, **sections)
    two = type(one)(folder, 0)
    assert_same_step(two, one)
    for name in ("train/sft_loss/held", "train/sft_loss/target", "eval/sft_loss/held", "eval/drift/held"):
        assert two.series(name) == pytest.approx(one.series(name), rel=1e-4) and one.series(name), name


def test_two_processes_share_the_packs_of_one(train, in_two_processes, tiny_model):
    """Four packs in one optimiser step: 2 ranks x 2 micro-batches of a pack against 4, distillation included."""
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "sft_alpha": 0.5}
    sections = {"rlhf": rlhf, "global_max_length": 256}
    packs = SHARED | {"packing": True, "per_device_train_batch_size": 1}
    one = train("one", training=packs | {"gradient_accumulation_steps": 4}, **sections)
    folder = in_two_processes("two", training=packs | {"gradient_accumulation_steps": 2}, **sections)
    two = type(one)(folder, 0)
    assert one.series("train/token_count")[0] > 0
    assert_same_step(two, one)
