"""ms-swift really receives what we pass, and really opens what we write."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from adapters import make_adapter

from plumbline.errors import UserError
from plumbline.infer.config import Sampling
from plumbline.train.preflight import check_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.name for path in (ROOT / "configs" / "tiny").glob("[a-z]*.yaml"))
TRANSFORMED = {  # what upstream turns into something else than what was written, with the reason
    "torch_dtype",  # the name becomes a torch dtype
    "output_dir",  # becomes absolute
    "model",  # becomes absolute
    "target_regex",  # `^$` is spelled as PEFT's own "no target"
    "target_modules",  # a regex takes its place
    "report_to",
    "lr_scheduler_kwargs",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_value_of_a_recipe_arrives(recipe, tiny_model, tmp_path):
    from plumbline.train.arguments import upstream_arguments
    from plumbline.train.config import load_run
    from plumbline.train.folder import Continuation

    run = load_run(ROOT / "configs" / "tiny" / recipe).run
    run.upstream["model"], run.upstream["output_dir"] = str(tiny_model), str(tmp_path / "out")
    arguments = upstream_arguments(run, Continuation())
    for key, value in run.upstream.items():
        if key not in TRANSFORMED:
            assert getattr(arguments, key) == value, key
    shared = {field.name for field in fields(arguments.training_args)} & run.upstream.keys() - TRANSFORMED
    for key in shared - {"gradient_checkpointing", "warmup_ratio"}:
        assert getattr(arguments.training_args, key) == run.upstream[key], key
    warmup = run.upstream["warmup_ratio"]
    assert arguments.training_args.warmup_steps == warmup  # transformers 5 reads a warm-up below 1 as a share
    assert arguments.training_args.logging_nan_inf_filter is False
    assert arguments.training_args.lr_scheduler_kwargs["min_lr"] == run.upstream["lr_scheduler_kwargs"]["min_lr"]


def test_lora_dropout_survives_distillation(train, tiny_model):
    """Upstream's GKD arguments switch every dropout off by default."""
    from plumbline.train.arguments import upstream_arguments
    from plumbline.train.config import load_run
    from plumbline.train.folder import Continuation

    run = load_run(ROOT / "configs" / "tiny" / "stage_3_gkd.yaml").run
    run.upstream["model"] = str(tiny_model)
    assert upstream_arguments(run, Continuation()).training_args.disable_dropout is False


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero2_offload", 2), ("zero3", 3), ("zero3_offload", 3)])
def test_sharding_and_the_teacher_arrive_together(name, stage, write_run, tiny_model, monkeypatch):
    """Up to what starts processes; the upstream's file of that name has the stage."""
    import swift

    from plumbline.model import upstream
    from plumbline.train.arguments import upstream_arguments
    from plumbline.train.config import load_run
    from plumbline.train.folder import Continuation

    started, given = [], []
    monkeypatch.setattr(upstream, "start_process_group_on_cpu", lambda: started.append("gloo"))
    monkeypatch.setattr(upstream, "build_arguments", lambda values, rlhf_type: given.append((values, rlhf_type)))
    rlhf = {"rlhf_type": "gkd", "teacher_model": str(tiny_model), "sft_alpha": 0.25}
    run = load_run(write_run(deepspeed={"enabled": True, "config": name}, rlhf=rlhf)).run
    check_run(run)
    upstream_arguments(run, Continuation())
    ((values, kind),) = given
    assert (values["deepspeed"], kind, values["sft_alpha"], started) == (name, "gkd", 0.25, ["gloo"])
    (file,) = Path(swift.__file__).parent.rglob(f"{name}.json")
    assert json.loads(file.read_text())["zero_optimization"]["stage"] == stage


def test_sharded_heads_of_both_sides_are_gathered_together(monkeypatch):
    from plumbline.model.upstream import gathered

    asked = []
    zero = SimpleNamespace(GatheredParameters=lambda weights: asked.append(weights) or nullcontext())
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=zero))
    sharded, other, whole = (
        SimpleNamespace(ds_id=number, ds_status=SimpleNamespace(name=status))
        for number, status in enumerate(("NOT_AVAILABLE", "NOT_AVAILABLE", "AVAILABLE"))
    )
    for weights in ([sharded, other], [sharded, sharded], [sharded, whole], [whole, SimpleNamespace()]):
        with gathered(weights):
            pass
    assert asked == [[sharded, other], [sharded], [sharded]], "one head for both sides is gathered once"


def swift(verb, *arguments):
    """Run upstream's own program; what its command line calls."""
    import swift as upstream

    getattr(upstream, f"{verb}_main")([str(argument) for argument in arguments])


def test_checkpoints_open_with_the_upstreams_infer_and_export(train, tiny_model, records, tmp_path):
    run = train(training={"max_steps": 2})
    question = tmp_path / "question.jsonl"
    picture = records[0].parent / "train_0.png"
    turn = {"role": "user", "content": "<image>描述"}
    question.write_text(json.dumps({"messages": [turn], "images": [str(picture)]}) + "\n", encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    shared = ["--model", tiny_model, "--model_type", "qwen3_vl", "--adapters", run.last]
    swift(
        "infer",
        *shared,
        "--val_dataset",
        question,
        "--max_new_tokens",
        3,
        "--result_path",
        answers,
        "--stream",
        "false",
    )
    assert "response" in json.loads(answers.read_text(encoding="utf-8").splitlines()[0])
    merged = tmp_path / "merged"
    swift("export", *shared, "--merge_lora", "true", "--output_dir", merged, "--safe_serialization", "true")
    assert list(merged.glob("*.safetensors"))


@pytest.mark.parametrize("method", ["bnb4", "bnb8"])
def test_a_model_in_fewer_bits_answers_and_is_smaller(method, tiny_model, tmp_path):
    from PIL import Image

    from plumbline.infer.engine import Request
    from plumbline.infer.local import TransformersEngine
    from plumbline.model.quantize import quantize

    report = quantize(tiny_model, tmp_path / "small", method)
    assert report.size < report.size_before
    stored = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    assert stored["load_in_4bit"] is (method == "bnb4")
    image = Image.new("RGB", (96, 128), "red")
    (reply,) = TransformersEngine(tmp_path / "small").generate([Request("k", (image,), "", "描述图片", Sampling(4))])
    assert not reply.error and reply.tokens == 4


def test_what_cannot_be_put_into_fewer_bits_is_refused(tiny_model, tmp_path):
    import torch

    from plumbline.model.quantize import quantize

    with pytest.raises(UserError, match="none of bnb4, bnb8, fp8"):
        quantize(tiny_model, tmp_path / "small", "int3")
    with pytest.raises(UserError, match="merge it first"):
        quantize(make_adapter(tiny_model, tmp_path / "adapter", "lora"), tmp_path / "small", "bnb4")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="fp8 needs a GPU"):
            quantize(tiny_model, tmp_path / "small", "fp8")
    assert not (tmp_path / "small").exists()


def test_a_start_does_not_load_torchs_compiler():
    """bitsandbytes, which PEFT imports, would compile kernels while it is imported: 1.6 s of every start."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    code = (
        "import sys, torch; from plumbline.model import upstream; compile_now = torch.compile\n"
        "print('bitsandbytes' in sys.modules, 'torch._inductor.compile_fx' in sys.modules, compile_now.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "torch"]
