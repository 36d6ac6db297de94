"""Weights of the distillation term by what a token tells."""

import pytest

from plumbline.errors import ConfigError

pytestmark = pytest.mark.slow

KINDS = ("coordinates", "structure", "descriptions")
MOVED = {"learning_rate": 5.0e-2, "optim": "sgd", "max_steps": 2}


@pytest.fixture
def gkd(tiny_model):
    return lambda **keys: {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "sft_alpha": 1.0, **keys}


def test_the_kinds_add_up_to_the_whole(train, gkd):
    whole = train("whole", rlhf=gkd(), training=MOVED)
    same = train("same", rlhf=gkd(token_weights={}), training=MOVED)
    assert same.series("train/loss") == pytest.approx(whole.series("train/loss"), rel=1e-5)
    assert same.series("grad_norm") == pytest.approx(whole.series("grad_norm"), rel=1e-5)
    line = same.log[0]
    assert {f"train/token_acc/{kind}" for kind in KINDS} <= line.keys()
    assert min(line[f"train/token_acc/{kind}"] for kind in KINDS) <= line["train/token_acc"]
    assert max(line[f"train/token_acc/{kind}"] for kind in KINDS) >= line["train/token_acc"]
    # The first step is the same in all: the student is still its teacher. The second differs by the weights alone.
    parts = [
        train(kind, rlhf=gkd(token_weights=dict.fromkeys(KINDS, 0.0) | {kind: 1.0}), training=MOVED) for kind in KINDS
    ]
    kd = [part.series("train/llm_kd_loss")[1] for part in parts]
    assert all(value > 0 for value in kd)
    assert sum(kd) == pytest.approx(whole.series("train/llm_kd_loss")[1], rel=1e-3)


def test_packed_and_evaluated(train, gkd):
    run = train(
        rlhf=gkd(token_weights={"coordinates": 0.5}),
        training={"packing": True, "per_device_train_batch_size": 1, "eval_strategy": "steps", "eval_steps": 1},
    )
    assert {f"{mode}/token_acc/{kind}" for kind in KINDS for mode in ("train", "eval")} <= run.names()


@pytest.mark.parametrize("keys", [{"lmbda": 0.5}, {"seq_kd": True}, {"rlhf_type": "grpo"}])
def test_weights_need_the_records_own_answers(train, gkd, keys):
    with pytest.raises(ConfigError, match=r"rlhf\.token_weights needs"):
        train(rlhf=gkd(token_weights={"coordinates": 2.0}, **keys))
