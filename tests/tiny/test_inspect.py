"""`inspect-lora`: counts and norms per part, what has not moved, what is not a number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from adapters import make_adapter

from plumbline.data.prompts import default_prompts
from plumbline.errors import DamagedFileError, UserError
from plumbline.model.checkpoints import Card
from plumbline.model.inspect import inspect
from plumbline.model.verbs import inspect_verb

pytestmark = pytest.mark.slow


def test_counts_and_norms_are_those_of_the_file(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    adapter = make_adapter(tiny_model, tmp_path / "adapter", "merger_copies")
    found = inspect(adapter)
    assert (found.peft_type, found.rank, found.alpha) == ("LORA", 4, 8)
    assert found.base_model == str(tiny_model)
    assert [(group.part, group.kind, group.modules) for group in found.groups] == [
        ("llm", "adapter", 12),  # 4 layers of q, v and down
        ("aligner", "modules_to_save", 12),  # 4 mergers of a norm and two linear layers
    ]
    weights = load_file(adapter / "adapter_model.safetensors")
    assert sum(group.tensors for group in found.groups) == len(weights)
    assert sum(group.parameters for group in found.groups) == sum(value.numel() for value in weights.values())
    text = [value for name, value in weights.items() if "language_model" in name]
    assert found.groups[0].norm == pytest.approx(sum(float(value.square().sum()) for value in text) ** 0.5, rel=1e-5)
    assert (found.unmoved, found.not_finite, found.card) == ((), (), None)


@pytest.mark.parametrize("kind", ["lora", "dora", "boft"])
def test_modules_that_change_nothing_are_named(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    found = inspect(make_adapter(tiny_model, tmp_path / "adapter", kind, size=0.0))
    assert len(found.unmoved) == 13
    assert "model.language_model.layers.0.self_attn.q_proj" in found.unmoved
    assert "model.visual.merger.linear_fc1" in found.unmoved


def test_the_verb_prints_a_table_or_one_json_object(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", "merger_copies")
    Card("norm100", default_prompts(), "dense", "top_left", "qwen3_vl", None).write(adapter)
    (tmp_path / "adapter" / "COMPLETE").write_text(json.dumps({"files": {}}))
    capsys.readouterr()
    assert inspect_verb(adapter, as_json=False) == 0
    text = capsys.readouterr().out
    assert "aligner" in text
    assert "modules_to_save" in text
    assert "norm100" in text
    assert inspect_verb(adapter, as_json=True) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["card"]["emit_norm"] == "norm100"
    assert content["groups"][0]["part"] == "llm"


def test_not_a_number_is_named_and_exits_3(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = sorted(weights)[0]
    weights[name][0, 0] = float("inf")
    save_file(weights, adapter / "adapter_model.safetensors")
    assert inspect(adapter).not_finite == (name,)
    assert inspect_verb(adapter, as_json=False) == 3
    assert "NaN or Inf (1)" in capsys.readouterr().out


def test_what_is_no_adapter_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a whole model"):
        inspect(tiny_model)
    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamagedFileError, match="cannot be read"):
        inspect(adapter)
