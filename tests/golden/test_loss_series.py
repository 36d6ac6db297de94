"""A stored loss series guards refactors: same seed, same numbers; a change must say why and store a new one.

`python -m pytest tests/golden --store-golden` writes the file.
"""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STORED = Path(__file__).with_name("loss_series.json")
NAMES = ("train/loss", "train/sft_loss", "train/llm_kd_loss", "train/token_acc", "grad_norm")


def test_losses_of_a_short_anchored_run(train, tiny_model, request):
    run = train(
        rlhf={"rlhf_type": "gkd", "teacher_model": str(tiny_model), "beta": 0.3, "sft_alpha": 0.7},
        training={"max_steps": 4, "gradient_accumulation_steps": 2, "learning_rate": 2.0e-3},
    )
    series = {name: run.series(name) for name in NAMES}
    if request.config.getoption("--store-golden"):
        STORED.write_text(json.dumps(series, indent=1) + "\n")
    stored = json.loads(STORED.read_text())
    for name in NAMES:
        assert series[name] == pytest.approx(stored[name], rel=2e-4, abs=1e-6), name
