"""Two processes train what one process trains: the gradient is the sum over both, evaluation counts nothing twice."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


def test_two_processes_equal_one(train, write_run, tiny_model, tmp_path):
    """Eight records in one optimiser step: 2 ranks x 2 x 2 micro-batches against 1 x 8, distillation included."""
    shared = {
        "max_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "ddp_backend": "gloo",
        "optim": "sgd",
        "learning_rate": 1.0e-2,
    }
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "sft_alpha": 0.5}
    one = train("one", training=shared | {"per_device_train_batch_size": 8}, rlhf=rlhf)
    config = write_run("two", training=shared | {"gradient_accumulation_steps": 2}, rlhf=rlhf)
    environment = os.environ | {"NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "plumbline", "train", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two = type(one)(tmp_path / "two", 0)
    for name in ("train/loss", "train/token_count", "eval/loss", "eval/token_count", "eval_loss"):
        assert two.series(name) == pytest.approx(one.series(name), rel=1e-5), name
    for name, tensor in load_file(one.last / "adapter_model.safetensors").items():
        found = load_file(two.last / "adapter_model.safetensors")[name]
        torch.testing.assert_close(found, tensor, rtol=0, atol=1e-6)
