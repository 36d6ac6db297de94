"""Names of a hub and paths that are not there: which it is, and the command that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.model.checkpoints import locate
from plumbline.model.hub import downloaded, is_hub_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-VL-4B-Instruct", True),
        ("models/qwen", False),  # the folder `models` is there
        ("./Qwen/Qwen3", False),
        ("/Qwen/Qwen3", False),
        ("../a/b", False),
        ("a/b/c", False),
        ("qwen", False),
        ("~/a", False),
        ("a//b", False),
    ],
)
def test_a_hub_name_is_told_from_a_path(tmp_path: Path, monkeypatch, text: str, expected: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert is_hub_name(text) is expected


def test_what_is_not_here_is_named_with_the_command(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        locate("Qwen/Qwen3-VL-4B-Instruct")
    assert "the name of a model on a hub, and no folder here" in str(error.value)
    assert "hf download Qwen/Qwen3-VL-4B-Instruct --local-dir models/Qwen3-VL-4B-Instruct" in str(error.value)
    assert "modelscope download --model Qwen/Qwen3-VL-4B-Instruct" in str(error.value)
    (tmp_path / "weights" / "first").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        locate(tmp_path / "weights" / "frist")
    assert f"no such folder\n    -> correct it ({tmp_path}/weights has first)" in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        locate(tmp_path / "file")


def cached(home: Path, name: str, model: Path) -> None:
    """The cache of downloads as the hub's client lays it out."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "abc").symlink_to(model)


def test_what_is_not_in_the_cache_is_refused_with_the_command(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError) as error:
        downloaded("nobody/nothing", only_local=True)
    assert "is not in the cache of downloads" in str(error.value) and "hf download nobody/nothing" in str(error.value)


@pytest.mark.slow
def test_a_dry_run_names_a_hub_model_and_takes_it_from_the_cache(
    tmp_path: Path, monkeypatch, write_run, tiny_model: Path, plumbline
) -> None:
    config = write_run(model={"model": "Qwen/Tiny-VL"})
    code, _, error = plumbline("train", config, "--dry-run")
    assert code == 2 and "hf download Qwen/Tiny-VL" in error and "model.download: true" in error
    cached(tmp_path, "Qwen/Tiny-VL", tiny_model)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config = write_run(model={"model": "Qwen/Tiny-VL", "download": True})
    code, out, error = plumbline("train", config, "--dry-run")
    assert code == 0, error
    assert str(tmp_path / "hub") in out
