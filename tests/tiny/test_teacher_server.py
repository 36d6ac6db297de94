"""A teacher behind a server: what it tells, where it is used, and what it cannot do."""

import pytest
from teaching import teaching

from plumbline.errors import ConfigError, UserError

pytestmark = pytest.mark.slow

STEPS = {"learning_rate": 5.0e-2, "optim": "sgd", "max_steps": 2, "eval_strategy": "steps", "eval_steps": 2}


@pytest.fixture(scope="module")
def teacher(tiny_model):
    with teaching(tiny_model) as (url, asked):
        yield url, asked


@pytest.mark.parametrize("packing", [False, True])
def test_the_server_teaches_what_the_local_base_teaches(train, tiny_model, teacher, packing):
    url, asked = teacher
    training = STEPS | ({"packing": True, "per_device_train_batch_size": 1} if packing else {})
    local = train("local", rlhf={"rlhf_type": "gkd", "teacher_model": str(tiny_model)}, training=training)
    asked.clear()
    server = {"rlhf_type": "gkd", "teacher_model_server": url, "gkd_logits_topk": 200}
    run = train("server", rlhf=server, training=training)
    assert asked and all(body["prompt_logprobs"] == 200 and body["model"] == "tiny" for body in asked)
    # First step: student and teacher are the same. Later: what the top tokens tell is at most the whole divergence.
    assert run.series("train/llm_kd_loss")[0] == pytest.approx(0, abs=1e-5)
    assert 0 < run.series("train/llm_kd_loss")[1] <= local.series("train/llm_kd_loss")[1] * 1.001
    assert 0 < run.series("eval/llm_kd_loss")[0] <= local.series("eval/llm_kd_loss")[0] * 1.05
    assert run.series("train/sft_loss")[0] == pytest.approx(local.series("train/sft_loss")[0], rel=1e-5)


def test_a_model_that_the_server_does_not_have_and_tokens_that_are_not_ours(train, teacher, tiny_model):
    url, _ = teacher
    with pytest.raises(UserError, match="has no model 'other'"):
        train(rlhf={"rlhf_type": "gkd", "teacher_model_server": url, "teacher_model": "other"})
    with teaching(tiny_model, ("a", "b")) as (several, _), pytest.raises(UserError, match="several models"):
        train("several", rlhf={"rlhf_type": "gkd", "teacher_model_server": several})
    with teaching(tiny_model, lost=1) as (short, _), pytest.raises(UserError, match="reads other tokens than training"):
        train("short", rlhf={"rlhf_type": "gkd", "teacher_model_server": short})


@pytest.mark.parametrize(
    ("rlhf", "more", "what"),
    [
        ({"lmbda": 0.5}, {}, "own answers"),
        ({"seq_kd": True}, {}, "own answers"),
        ({"kd_temperature": 2.0}, {}, "whole distribution"),
        ({"teacher_cache": "rows"}, {}, "returns none"),
        ({}, {"custom": {"visual_kd": {"enabled": True}}}, "teacher's features"),
        ({"teacher_model_server": "localhost:8000"}, {}, "is not an http"),
    ],
)
def test_what_a_server_cannot_do_is_refused_before_the_run(train, rlhf, more, what):
    keys = {"rlhf_type": "gkd", "teacher_model_server": "http://127.0.0.1:9", **rlhf}
    with pytest.raises(ConfigError, match=what):
        train(rlhf=keys, **more)
