"""Merging: the written model gives the logits of base plus adapter, is whole, and loads without us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adapters import KINDS, TOUCHES_EMBEDDINGS, make_adapter

from plumbline.data.prompts import default_prompts
from plumbline.errors import DamagedFileError, UserError
from plumbline.model.checkpoints import Card, is_complete, mark_complete
from plumbline.model.merge import TOLERANCE, merge, probe_inputs, probe_logits
from plumbline.model.verbs import merge_verb

pytestmark = pytest.mark.slow

CARD = Card("norm1000", default_prompts(), "dense", "top_left", "qwen3_vl", 4096, 65536)


@pytest.fixture(scope="module")
def base_logits(tiny_model: Path) -> Any:
    """What the base says to the probe."""
    from plumbline.model.loading import load_model

    base = load_model(tiny_model)
    return probe_logits(base, probe_inputs(tiny_model, base))


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_model_equals_base_plus_adapter(
    tiny_model: Path, base_logits: Any, tmp_path: Path, kind: str
) -> None:
    from transformers import AutoModelForImageTextToText

    from plumbline.model.loading import load_model

    adapter = make_adapter(tiny_model, tmp_path / "adapter", kind)
    report = merge(adapter, tmp_path / "merged")
    assert report.max_abs_logit_diff is not None
    assert report.max_abs_logit_diff <= TOLERANCE
    assert report.tied_embeddings is (kind not in TOUCHES_EMBEDDINGS)

    merged, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"])
    probe = probe_inputs(tiny_model, merged)
    loaded = probe_logits(merged.eval(), probe)
    assert float((loaded - probe_logits(load_model(tiny_model, adapter), probe)).abs().max()) <= TOLERANCE
    assert float((loaded - base_logits).abs().max()) > 0.01, "the adapter does something"


@pytest.mark.parametrize("kind", ["lora", sorted(TOUCHES_EMBEDDINGS)[0]])
def test_alpha_lies_on_the_straight_line_between_base_and_merged(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    from plumbline.model.loading import load_model

    adapter = make_adapter(tiny_model, tmp_path / "adapter", kind)
    merge(adapter, tmp_path / "whole")
    report = merge(adapter, tmp_path / "part", alpha=0.7)
    assert report.alpha == 0.7
    base, whole, part = (
        dict(load_model(folder).named_parameters(remove_duplicate=False))
        for folder in (tiny_model, tmp_path / "whole", tmp_path / "part")
    )
    moved = 0
    for name, tensor in part.items():
        expected = base[name] + 0.7 * (whole[name] - base[name])
        assert float((tensor - expected).detach().abs().max()) <= 1e-6, name
        moved += not bool((whole[name] == base[name]).all())
    assert moved > 0
    merge(adapter, tmp_path / "none", alpha=0.0)
    none = dict(load_model(tmp_path / "none").named_parameters())
    assert all(bool((none[name] == base[name]).all()) for name in none)
    with pytest.raises(UserError, match="between 0"):
        merge(adapter, tmp_path / "far", alpha=1.5)


def test_a_sweep_makes_a_folder_per_alpha(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    code = merge_verb(adapter, tmp_path / "sweep", None, [0.25, 0.5], "5GB", None, True, False, as_json=True)
    merged = json.loads(capsys.readouterr().out)["merged"]
    assert code == 0 and [row["alpha"] for row in merged] == [0.25, 0.5]
    assert all(is_complete(tmp_path / "sweep" / name) for name in ("alpha-0.25", "alpha-0.5"))


def test_everything_a_model_folder_needs_comes_along(tiny_model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "checkpoint-3", "lora")
    CARD.write(adapter)
    mark_complete(adapter)
    report = merge(tmp_path / "checkpoint-3", tmp_path / "merged", max_shard_size="20MB")
    merged = report.output
    assert is_complete(merged)
    assert Card.read(merged) == CARD
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json"):
        assert (merged / name).read_bytes() == (tiny_model / name).read_bytes()
    assert (merged / "generation_config.json").read_bytes() == (tiny_model / "generation_config.json").read_bytes()
    assert json.loads((merged / "args.json").read_text())["model_type"] == "qwen3_vl"
    shards = sorted(merged.glob("*.safetensors"))
    assert len(shards) == report.files > 1
    assert (merged / "model.safetensors.index.json").is_file()
    assert not list(merged.glob("*.bin"))
    assert (shards[0].stat().st_mode & 0o777) == 0o644


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lower_precision_is_written_when_asked_for(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    from safetensors import safe_open

    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    report = merge(adapter, tmp_path / "merged", dtype=dtype)
    assert report.max_abs_logit_diff is not None
    with safe_open(tmp_path / "merged" / "model.safetensors", framework="pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {f"torch.{dtype}"}  # noqa: SIM118
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == dtype


def test_a_wrong_base_is_refused_and_nothing_is_left_behind(tiny_model: Path, tmp_path: Path) -> None:
    from plumbline.model.tiny import TinySize, build_model

    narrow = tmp_path / "narrow"
    build_model(TinySize(32, 4, 2, 1, 32, 32, 4, 2), 0).save_pretrained(narrow)
    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    with pytest.raises(DamagedFileError, match="does not fit the model"):
        merge(adapter, tmp_path / "merged", base=narrow)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "narrow"]


def test_an_adapter_that_lost_tensors_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(DamagedFileError):
        merge(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_not_a_number_is_never_merged(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    weights = load_file(adapter / "adapter_model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(DamagedFileError):
        merge(adapter, tmp_path / "merged")


def test_user_mistakes_are_told(tiny_model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    with pytest.raises(UserError, match="is a whole model already"):
        merge(tiny_model, tmp_path / "merged")
    with pytest.raises(UserError, match="none of float32"):
        merge(adapter, tmp_path / "merged", dtype="int3")
    with pytest.raises(UserError, match="--max-shard-size"):
        merge(adapter, tmp_path / "merged", max_shard_size="five")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        merge(adapter, tmp_path / "full")
    assert not (tmp_path / "merged").exists()
