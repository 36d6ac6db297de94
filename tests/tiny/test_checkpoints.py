"""Loading trusts a folder as data only, and says what is wrong with it before weights are touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from adapters import make_adapter

from plumbline.errors import DamagedFileError, UserError
from plumbline.model.loading import base_of, load_model

pytestmark = pytest.mark.slow


@pytest.fixture
def copy_of_tiny(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint as a folder of another program: no marker."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("COMPLETE"))
    return folder


def test_another_architecture_is_refused_by_name(copy_of_tiny: Path) -> None:
    path = copy_of_tiny / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(UserError, match="LlamaForCausalLM"):
        load_model(copy_of_tiny)


def test_a_model_cut_short_is_refused_before_it_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(DamagedFileError, match=r"model\.safetensors is 1000 bytes long"):
        load_model(folder)


def test_an_adapter_in_the_wrong_place_is_told(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a whole model, not an adapter"):
        load_model(tiny_model, tiny_model)
    adapter = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    assert base_of(adapter) == tiny_model
    (adapter / "adapter_config.json").write_text('{"peft_type": "NOT_A_TUNER"}')
    with pytest.raises(DamagedFileError, match="does not fit the model"):
        load_model(tiny_model, adapter)
