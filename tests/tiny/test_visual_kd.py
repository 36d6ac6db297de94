"""The vision side of distillation: the frozen tower runs once, the features behind the mergers are anchored."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionBlock

from plumbline.errors import ConfigError
from plumbline.train.objective.features import VisualKd, feature_distances, mergers_of, watched
from plumbline.train.pipeline import GKDPipeline
from plumbline.train.teacher.shared import shares_tower, started_at_mergers

pytestmark = pytest.mark.slow

MERGERS = ["model.visual.merger", *(f"model.visual.deepstack_merger_list.{index}" for index in range(3))]
VISUAL = {"visual_kd": {"enabled": True, "weight": 0.5}}


@pytest.fixture
def gkd(tiny_model):
    return lambda **keys: {"rlhf_type": "gkd", "teacher_model": str(tiny_model), **keys}


@pytest.fixture
def blocks_run(monkeypatch):
    """Counts the forwards of vision blocks."""
    calls = []
    forward = Qwen3VLVisionBlock.forward

    def counted(self, *args, **kwargs):
        calls.append(id(self))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Qwen3VLVisionBlock, "forward", counted)
    return calls


def vision_layers(tiny_model) -> int:
    return json.loads((tiny_model / "config.json").read_text())["vision_config"]["depth"]


# ------------------------------------------------------------------------------------------------------- distances
def test_literal_distances_and_their_gradient():
    mine = [torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True) for _ in range(3)]
    theirs = [torch.tensor([[1.0, 0.0], [2.0, 0.0]], requires_grad=True) for _ in range(3)]
    squared = feature_distances(mine, theirs, VisualKd(1.0))
    assert {name: value.item() for name, value in squared.items()} == {"merger": 4.0, "deepstack": 4.0}
    cosine = feature_distances(mine, theirs, VisualKd(1.0, ("deepstack",), "cosine"))
    assert {name: value.item() for name, value in cosine.items()} == {"deepstack": 1.0}
    squared["merger"].backward()
    assert mine[0].grad.tolist() == [[0.0, 0.0], [-2.0, 2.0]]
    assert mine[1].grad is None and theirs[0].grad is None


@pytest.fixture
def adapted(tiny_model):
    """The tiny model with an adapter on its mergers that has moved."""
    torch.manual_seed(0)
    base = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    names = r".*visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
    model = get_peft_model(base, LoraConfig(r=2, target_modules=names))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def pictures(model):
    vision = model.get_base_model().config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    torch.manual_seed(1)
    return torch.randn(16 + 24, width), torch.tensor([[1, 4, 4], [1, 4, 6]])


def test_a_tower_that_starts_at_its_mergers_says_the_same(adapted):
    base = adapted.get_base_model().model
    pixels, grid = pictures(adapted)
    with torch.no_grad(), adapted.disable_adapter(), watched(base.visual) as taught:
        base.get_image_features(pixels, grid)
    assert [rows.shape[0] for rows in taught.left] == [10] * len(mergers_of(base.visual))
    whole = base.get_image_features(pixels, grid)
    forward = base.visual.forward
    with started_at_mergers(base.visual, taught), watched(base.visual) as mine:
        short = base.get_image_features(pixels, grid)
    assert base.visual.forward == forward
    for one, two in zip(whole.pooler_output, short.pooler_output, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    for one, two in zip(whole.deepstack_features, short.deepstack_features, strict=True):
        torch.testing.assert_close(torch.cat(one), torch.cat(two), rtol=0, atol=0)
    assert not torch.equal(mine.left[0], taught.left[0])


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_the_gradient_reaches_every_merger_and_nothing_else(adapted, distance):
    base = adapted.get_base_model().model
    pixels, grid = pictures(adapted)
    with torch.no_grad(), adapted.disable_adapter(), watched(base.visual) as taught:
        base.get_image_features(pixels, grid)
    assert shares_tower(base.visual, base.visual)
    with started_at_mergers(base.visual, taught), watched(base.visual) as mine:
        base.get_image_features(pixels, grid)
    sum(feature_distances(mine.left, taught.left, VisualKd(1.0, distance=distance)).values()).backward()
    moved = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("merger" in name for name in moved)
    norms = [parameter.grad.norm() for name, parameter in adapted.named_parameters() if name in moved]
    assert min(norms) > 0


def test_a_tower_is_shared_only_where_it_cannot_differ(adapted, tiny_model):
    visual = adapted.get_base_model().model.visual
    copy = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32).model.visual
    assert shares_tower(visual, copy)
    with torch.no_grad():
        copy.merger.linear_fc1.weight.add_(1.0)
    assert shares_tower(visual, copy), "the mergers are computed on both sides anyway"
    with torch.no_grad():
        copy.pos_embed.weight[0, 0] += 1e-3
    assert not shares_tower(visual, copy)
    visual.pos_embed.weight.requires_grad_(True)
    assert not shares_tower(visual, visual)
    lora = get_peft_model(
        Qwen3VLForConditionalGeneration.from_pretrained(tiny_model), LoraConfig(r=2, target_modules=["qkv"])
    )
    for parameter in lora.parameters():
        parameter.requires_grad_(False)
    tower = lora.get_base_model().model.visual
    assert not shares_tower(tower, tower), "a frozen adapter makes the student's tower another one"


# -------------------------------------------------------------------------------------------------------- training
def test_a_frozen_tower_runs_once_per_step_and_the_numbers_stay(train, gkd, tiny_model, blocks_run, monkeypatch):
    settings = {"rlhf": gkd(), "training": {"max_steps": 2}}
    shared = train("shared", **settings)
    once = len(blocks_run)
    assert once == 2 * vision_layers(tiny_model)
    monkeypatch.setattr("plumbline.train.gkd.shares_tower", lambda student, teacher: False)
    apart = train("apart", **settings)
    assert len(blocks_run) == once + 2 * once
    for name in ("train/loss", "train/llm_kd_loss", "train/sft_loss", "grad_norm"):
        assert shared.series(name) == pytest.approx(apart.series(name), rel=1e-6), name


def test_full_training_of_the_language_model_shares_the_tower_of_the_frozen_copy(train, gkd, tiny_model, blocks_run):
    full = {"tuner_type": "full", "freeze_aligner": True, "freeze_llm": False, "freeze_vit": True}
    train(rlhf=gkd(), tuner=full, training={"max_steps": 1, "learning_rate": 1.0e-5})
    assert len(blocks_run) == vision_layers(tiny_model)


def test_the_gradient_reaches_mergers_that_train_in_full(train, gkd, monkeypatch):
    """Each trained copy gets a gradient of the term once it has moved; the modules that it stands for get none."""
    names, reached = {}, []

    def differentiated(student, teacher, kd):
        distances = feature_distances(student, teacher, kd)
        total = sum(distances.values())
        found = torch.autograd.grad(total, list(names.values()), retain_graph=True, allow_unused=True)
        reached.append({name for name, grad in zip(names, found, strict=True) if grad is not None and grad.norm() > 0})
        return distances

    def prepared(self, args, model, **kwargs):
        model = prepare(self, args, model, **kwargs)
        names.update((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)
        return model

    prepare = GKDPipeline.prepare_model
    monkeypatch.setattr(GKDPipeline, "prepare_model", prepared)
    monkeypatch.setattr("plumbline.train.gkd.feature_distances", differentiated)
    tuner = {"freeze_aligner": True, "modules_to_save": MERGERS}
    run = train(rlhf=gkd(), custom=VISUAL, tuner=tuner, training={"max_steps": 2})
    assert run.series("train/vision_kd_loss")[0] == 0.0
    assert run.series("train/vision_kd_loss")[-1] > 0
    copies = {name for name in names if ".modules_to_save." in name}
    assert len(copies) == 6 * len(MERGERS)
    assert reached == [set(), copies]


def test_the_term_is_logged_by_target_and_adds_up(train, gkd):
    run = train(
        rlhf=gkd(sft_alpha=0.5, beta=0.3),
        custom=VISUAL,
        training={"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3},
    )
    total = run.series("train/vision_kd_loss")
    assert total[0] == 0.0, "the student begins as the teacher"
    assert total[-1] > 0
    for mode in ("train", "eval"):
        line = [line for line in run.log if f"{mode}/vision_kd_loss" in line][-1]
        parts = line[f"{mode}/vision_kd_loss/merger"] + line[f"{mode}/vision_kd_loss/deepstack"]
        assert line[f"{mode}/vision_kd_loss"] == pytest.approx(parts, rel=1e-6, abs=2e-8)  # logs have eight decimals
        whole = 0.5 * line[f"{mode}/sft_loss"] + line[f"{mode}/llm_kd_loss"] + line[f"{mode}/vision_kd_loss"]
        assert line[f"{mode}/loss"] == pytest.approx(whole, rel=1e-5)
        if mode == "train":
            assert line["loss"] == pytest.approx(line["train/loss"], rel=1e-5)


def test_accumulation_changes_nothing(train, gkd):
    shared = {"max_steps": 2, "optim": "sgd", "learning_rate": 1.0e-1}
    sections = {"rlhf": gkd(), "custom": {"visual_kd": {"enabled": True, "weight": 50.0}}}
    one = train("one", training=shared | {"per_device_train_batch_size": 4}, **sections)
    split = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    four = train("four", training=shared | split, **sections)
    for name in ("train/loss", "train/vision_kd_loss", "grad_norm"):
        assert four.series(name) == pytest.approx(one.series(name), rel=1e-4, abs=1e-9), name
    assert one.series("train/vision_kd_loss")[-1] > 0


def test_batches_without_pictures_skip_the_term(train, gkd, tmp_path):
    chat = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]}
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(chat) + "\n" for _ in range(4)), encoding="utf-8")
    run = train(rlhf=gkd(), custom=VISUAL | {"train_jsonl": str(path)}, training={"max_steps": 2})
    assert "train/llm_kd_loss" in run.names()
    assert not [name for name in run.names() if "vision_kd" in name]


def test_evaluation_without_the_teacher_has_no_term(train, gkd):
    custom = VISUAL | {"eval_teacher": False}
    run = train(rlhf=gkd(), custom=custom, training={"eval_strategy": "steps", "eval_steps": 2})
    assert "train/vision_kd_loss" in run.names()
    assert "eval/vision_kd_loss" not in run.names()


def test_a_visual_side_that_cannot_move_refuses_the_run(train, gkd):
    with pytest.raises(ConfigError, match="nothing on the visual side trains"):
        train(rlhf=gkd(), custom=VISUAL, tuner={"freeze_aligner": True})


def test_the_term_needs_a_teacher(train):
    with pytest.raises(ConfigError, match=r"custom\.visual_kd\.enabled needs a teacher"):
        train(custom=VISUAL)
