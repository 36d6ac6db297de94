"""An anchor stream in training: weighted apart, logged apart, and the teacher reads nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import UserError
from plumbline.train.gkd import GKDMonitorTrainer
from plumbline.train.objective.grouped import TeacherRows, grouped_terms
from plumbline.train.objective.terms import head_terms
from plumbline.train.objective.top_tokens import TopTokens
from plumbline.train.objective.weights import LossWeights

pytestmark = pytest.mark.slow

QUESTIONS = ("天空是什么颜色?", "一加一等于几?", "写一句问候。", "法国的首都是哪里?", "列出三种水果。", "What is ice?")


# ----------------------------------------------------------------------------------------------------- the mathematics
def problem(seed: int = 0, rows: int = 41) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return rand(rows, 9), rand(30, 9), torch.randint(0, 30, (rows,), generator=g), rand(rows, 9), rand(30, 9)


GROUPS = (LossWeights(1.0, 0.0), LossWeights(0.0, 0.7, 0.0), LossWeights(0.3, 2.0, 0.5, 2.0))


@pytest.mark.parametrize("with_kinds", [False, True])
def test_every_group_has_its_own_objective_and_gradient(with_kinds: bool) -> None:
    rows, head, targets, t_rows, t_head = problem()
    owner = torch.arange(len(rows)) % 3
    counted = torch.linspace(0, 2, len(rows), dtype=torch.float64) if with_kinds else None
    groups = [((owner == number).nonzero()[:, 0], weights) for number, weights in enumerate(GROUPS)]
    mine, my_head = rows.clone().requires_grad_(), head.clone().requires_grad_()
    terms = grouped_terms(mine, my_head, targets, groups, TeacherRows(t_rows, t_head, counted))
    terms.objective.backward()
    theirs, their_head = rows.clone().requires_grad_(), head.clone().requires_grad_()
    whole = torch.zeros((), dtype=torch.float64)
    for index, weights in groups:
        side = (t_rows[index], t_head, None if counted is None else counted[index]) if weights.llm_kd_weight else ()
        part = head_terms(theirs[index], their_head, targets[index], weights, *side)
        whole = whole + part.objective
        torch.testing.assert_close(terms.row_ce[index], part.row_ce)
        torch.testing.assert_close(terms.row_kd[index], part.row_kd)
        torch.testing.assert_close(terms.row_hits[index], part.row_hits)
    whole.backward()
    torch.testing.assert_close(terms.objective, whole)
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(my_head.grad, their_head.grad)


def test_a_teacher_of_top_tokens_is_split_too() -> None:
    rows, head, targets, *_ = problem()
    top = TopTokens(torch.arange(3).repeat(len(rows), 1), torch.full((len(rows), 3), -1.5, dtype=torch.float64))
    index = torch.arange(0, len(rows), 2)
    rest = torch.arange(1, len(rows), 2)
    weights = LossWeights(0.0, 1.0, 0.0)
    terms = grouped_terms(rows, head, targets, [(rest, LossWeights()), (index, weights)], TeacherRows(top=top))
    alone = head_terms(rows, head, targets, weights, teacher_top=top)
    torch.testing.assert_close(terms.row_kd[index], alone.row_kd[index])
    assert (terms.row_kd[rest] == 0).all()


# ------------------------------------------------------------------------------------------------------- in a training
@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    """Text-only chats, as the base might have answered them."""
    path = tmp_path / "anchors.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for question in QUESTIONS:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": f"好的。{question[:3]}"}]
            stream.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    return path


@pytest.fixture
def anchored(train: Callable[..., Any], tiny_model: Path, anchors: Path) -> Callable[..., Any]:
    """A run with an anchor source; keyword sections are merged over it."""

    def run(name: str = "run", rlhf: dict[str, Any] | None = None, source: dict[str, Any] | None = None, **more: Any):
        fusion = {"sources": [{"name": "held", "train_jsonl": str(anchors), "role": "anchor", **(source or {})}]}
        custom = {"fusion": fusion, **more.pop("custom", {})}
        distilled = {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "llm_kd_weight": 0.0, **(rlhf or {})}
        training = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "max_steps": 4}
        training |= more.pop("training", {})
        return train(name, custom=custom, rlhf=distilled, training=training, **more)

    return run


def test_the_terms_of_each_source_are_logged_and_add_up(anchored) -> None:
    run = anchored(source={"sft_alpha": 0.5, "llm_kd_weight": 2.0, "beta": 0.0, "ratio": 1.0})
    mixed = [line for line in run.log if "train/llm_kd_loss/held" in line]
    assert mixed, "anchors are among the samples"
    assert run.series("train/llm_kd_loss/held")[0] == pytest.approx(0, abs=1e-6), "logged while it is 0"
    assert run.series("train/llm_kd_loss/held")[-1] > 1e-7, "the student moves"
    for line in mixed:
        if "train/sft_loss" not in line:
            continue
        # Per source: means over its own tokens; the whole: over all tokens.
        tokens, target, held = line["train/token_count"], line["train/sft_loss/target"], line["train/sft_loss/held"]
        assert line["train/sft_loss"] == pytest.approx(target, rel=1e-6), "anchors are not part of what is learned"
        own = (line["train/loss"] - line["train/sft_loss"]) / (
            0.5 * held + line["train/llm_kd_loss/held"] - line["train/sft_loss"]
        )
        assert 0 < own < 1 and round(own * tokens) == pytest.approx(own * tokens, abs=2e-2), "a whole number of tokens"


def test_the_teacher_reads_only_batches_with_anchors(anchored, monkeypatch) -> None:
    read: list[bool] = []
    taught = GKDMonitorTrainer._taught

    def watched(self, model, inputs, keep):
        read.append("pixel_values" in inputs)
        return taught(self, model, inputs, keep)

    monkeypatch.setattr(GKDMonitorTrainer, "_taught", watched)
    run = anchored(source={"ratio": 1.0}, training={"max_steps": 4})
    account = [json.loads(line) for line in (run.folder / "epochs.jsonl").read_text().splitlines()]
    shown = sum(epoch["source"].get("held", 0) for epoch in account)
    assert 0 < len(read) == shown < 16 and not any(read), "the anchors have no pictures, the rest has"


def test_anchors_pull_the_model_back(anchored) -> None:
    """The same run with and without weight on the anchors: the distance on them is smaller with it."""
    far = anchored("far", source={"llm_kd_weight": 1.0e-3, "ratio": 1.0}, training={"max_steps": 12})
    near = anchored("near", source={"llm_kd_weight": 30.0, "ratio": 1.0}, training={"max_steps": 12})
    assert near.series("train/llm_kd_loss/held")[-1] / 30.0 < 0.7 * far.series("train/llm_kd_loss/held")[-1] / 1.0e-3


def test_packed_and_padded_steps_agree(anchored) -> None:
    """The first losses of an anchored run, in packs of several samples against one by one."""
    source = {"ratio": 1.0, "sft_alpha": 0.3}
    keys = {"max_steps": 1, "gradient_accumulation_steps": 64}
    single = anchored("single", source=source, training=keys)
    packed = anchored("packed", source=source, training={**keys, "packing": True}, template={"max_length": 1024})
    for name in ("train/loss", "train/sft_loss/held", "train/sft_loss/target", "train/token_count"):
        assert packed.series(name)[0] == pytest.approx(single.series(name)[0], rel=1e-5), name


def test_with_a_cache_the_second_epoch_needs_no_teacher(anchored, tmp_path, monkeypatch) -> None:
    calls: list[int] = []
    taught = GKDMonitorTrainer._taught

    def counted(self, model, inputs, keep):
        calls.append(self.state.global_step)
        return taught(self, model, inputs, keep)

    monkeypatch.setattr(GKDMonitorTrainer, "_taught", counted)
    keys = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 4}
    source = {"ratio": 0.5}
    cached = anchored("cached", rlhf={"teacher_cache": str(tmp_path / "rows")}, source=source, training=keys)
    with_cache, calls[:] = list(calls), []
    plain = anchored("plain", source=source, training=keys)
    assert 0 < len(with_cache) < len(calls)
    assert cached.series("train/loss") == pytest.approx(plain.series("train/loss"), rel=1e-4)


def test_evaluation_measures_anchors_and_leaves_them_out_of_the_loss(anchored, anchors, tmp_path) -> None:
    others = tmp_path / "others.jsonl"
    others.write_text(anchors.read_text(encoding="utf-8").replace("?", "??"), encoding="utf-8")
    keys = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 2}
    run = anchored(source={"val_jsonl": str(others), "ratio": 1.0}, training=keys)
    (line,) = [line for line in run.log if "eval/loss" in line]
    assert line["eval/drift/held"] > 0 and line["eval/sft_loss/held"] > 0
    assert line["eval/loss"] == pytest.approx(line["eval/sft_loss"], rel=1e-6)
    assert "eval/llm_kd_loss" not in line, "the run itself has no such term"
    silent = anchored("silent", source={"val_jsonl": str(others)}, training=keys, custom={"eval_teacher": False})
    (line,) = [line for line in silent.log if "eval/loss" in line]
    assert "eval/drift/held" not in line and line["eval/sft_loss/held"] > 0


def test_a_share_of_tokens_becomes_a_number_of_samples(anchored) -> None:
    keys = {"max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 8}
    run = anchored(source={"token_share": 0.2}, training=keys)
    (account,) = [json.loads(line) for line in (run.folder / "epochs.jsonl").read_text().splitlines()]
    targets, held = account["source"]["target"], account["source"]["held"]
    # The anchors' answers are short: more than a fifth of the samples make a fifth of the tokens.
    assert held / (held + targets) > 0.2
    tokens = {name: sum(line.get(f"train/sft_loss/{name}", 0) > 0 for line in run.log) for name in ("target", "held")}
    assert tokens["held"] > 0


def test_plain_replay_needs_no_teacher(train, anchors) -> None:
    source = {"name": "held", "train_jsonl": str(anchors), "role": "anchor", "sft_alpha": 0.5, "llm_kd_weight": 0.0}
    run = train(custom={"fusion": {"sources": [{**source, "ratio": 1.0}]}})
    assert "train/sft_loss/held" in run.names() and "train/llm_kd_loss/held" not in run.names()


@pytest.mark.parametrize(
    ("source", "rlhf", "words"),
    [
        ({"role": "learn", "beta": 0.5}, {}, "beta of held belong to an anchor"),
        ({"llm_kd_weight": 0.0}, {}, "no weight at all"),
        ({}, {"lmbda": 0.5}, "has answers of the base"),
    ],
)
def test_what_cannot_be_right_is_refused(anchored, source, rlhf, words) -> None:
    with pytest.raises(UserError, match=words):
        anchored(source=source, rlhf=rlhf)


def test_an_anchor_without_a_teacher_is_refused(train, anchors) -> None:
    with pytest.raises(UserError, match="the anchor held needs a teacher"):
        train(custom={"fusion": {"sources": [{"name": "held", "train_jsonl": str(anchors), "role": "anchor"}]}})


# ------------------------------------------------------------------------------------------------------ drift in budget
@pytest.fixture
def probed(anchored, anchors, tmp_path):
    """A run whose drift is measured on a file of its own after every step."""
    probe = tmp_path / "probe.jsonl"
    probe.write_text(anchors.read_text(encoding="utf-8").replace("?", "!"), encoding="utf-8")

    def run(name: str = "run", drift: dict[str, Any] | None = None, **more: Any):
        keys = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 4, "learning_rate": 5.0e-3}
        custom = {"drift": {"probe": str(probe), "budget": 1.0e-6, **(drift or {})}}
        return anchored(name, custom=custom, training={**keys, **more.pop("training", {})}, **more)

    return run


def test_the_drift_is_forward_kl_whatever_the_anchors_are_trained_with(probed) -> None:
    runs = [probed(name, source={"llm_kd_weight": 1.0e-9, "beta": beta}) for name, beta in (("a", 0.0), ("b", 1.0))]
    first = [[line["eval/drift"] for line in run.log if "eval/drift" in line] for run in runs]
    assert first[0] == pytest.approx(first[1], rel=1e-3) and len(first[0]) == 4 and first[0][-1] > 1e-6
    assert all(line["eval/drift"] == line["eval/drift/drift_probe"] for line in runs[0].log if "eval/drift" in line)


def test_a_run_over_its_budget_ends_with_a_checkpoint(probed) -> None:
    run = probed(drift={"on_budget": "stop"})
    assert run.last.name == "checkpoint-1" and (run.last / "COMPLETE").exists()


def test_checkpoints_over_the_budget_are_never_the_best(probed) -> None:
    keys = {"metric_for_best_model": "loss", "save_steps": 1}
    far = probed("far", training=keys)
    near = probed("near", drift={"budget": 100.0}, training=keys)
    best = [json.loads((run.last / "trainer_state.json").read_text())["best_model_checkpoint"] for run in (far, near)]
    assert best[0] is None and best[1] is not None


def test_the_anchors_weigh_more_and_more_over_the_budget(probed) -> None:
    run = probed(drift={"on_budget": "raise_weight"})
    assert [line["eval/anchor_factor"] for line in run.log if "eval/anchor_factor" in line] == [2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize(
    ("drift", "training", "words"),
    [
        ({"probe": None}, {}, "nothing to measure it on"),
        ({}, {"eval_strategy": "no"}, "is measured in evaluation"),
    ],
)
def test_a_budget_that_cannot_be_measured_is_refused(probed, drift, training, words) -> None:
    with pytest.raises(UserError, match=words):
        probed(drift=drift, training=training)


def test_a_probe_without_a_finite_loss_is_counted_and_no_checkpoint_is_the_best(probed, monkeypatch) -> None:
    from plumbline.train import step

    terms = step.grouped_terms

    def poisoned(rows, head, targets, groups, teacher):
        is_probe = not torch.is_grad_enabled() and all(weights.llm_kd_weight for _, weights in groups)
        return terms(rows * float("nan") if is_probe else rows, head, targets, groups, teacher)

    monkeypatch.setattr(step, "grouped_terms", poisoned)
    keys = {"metric_for_best_model": "loss", "save_steps": 1, "max_steps": 1}
    run = probed(drift={"budget": 100.0}, training=keys)
    (lost,) = run.series("eval/nonfinite_tokens")
    assert lost > 0 and all(line["eval/loss"] > 0 for line in run.log if "eval/loss" in line)
    assert json.loads((run.last / "trainer_state.json").read_text())["best_model_checkpoint"] is None
