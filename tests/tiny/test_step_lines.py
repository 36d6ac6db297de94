"""One line per logged step, for people."""

from __future__ import annotations

import pytest

from plumbline.train.step_lines import step_line

SFT = {"loss": 0.5, "train/loss": 0.51234, "train/sft_loss": 0.51234, "train/token_count": 150.0, "learning_rate": 1e-4}
CLOCK = {"global_step/max_steps": "10/200", "remaining_time": "12m 3s"}


@pytest.mark.parametrize(
    ("logs", "speed", "line"),
    [
        (SFT | CLOCK, 4512.3, "step 10/200  loss 0.5123  lr 1.00e-04  4,512 tokens/s  12m 3s left"),
        (
            SFT | CLOCK | {"train/llm_kd_loss": 0.2, "train/vision_kd_loss": 0.0, "memory(GiB)": 12.34},
            None,
            "step 10/200  loss 0.5123  sft 0.5123  kd 0.2000  vision 0.0000  lr 1.00e-04  12m 3s left  12.34 GiB",
        ),
        (
            CLOCK | {"eval/loss": 1.5, "eval/sft_loss": 1.5, "eval/token_acc": 0.75, "eval/token_count": 9.0},
            None,
            "step 10/200, evaluation  loss 1.5000  token_acc 0.750",
        ),
        (
            CLOCK | {"train/vision_kd_loss": 0.25, "train/token_count": 0.0},
            None,
            "step 10/200  vision 0.2500  12m 3s left",
        ),
        ({"train_runtime": 3.0, "total_flos": 1e9}, None, ""),
    ],
)
def test_a_line(logs, speed, line):
    assert step_line(logs, speed) == line
