"""The COMPLETE marker: whatever is cut short is noticed, and the checkpoint before it is used, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.errors import DamagedFileError, UserError
from plumbline.model.checkpoints import (
    MARKER_FILE,
    drafted,
    is_complete,
    latest_complete,
    locate,
    mark_complete,
    why_incomplete,
)

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"12345678", "sub/state.bin": b"abc", "empty": b""}


def make_checkpoint(folder: Path, mark: bool = True) -> Path:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if mark:
        mark_complete(folder)
    return folder


@pytest.mark.parametrize("name", [name for name, content in FILES.items() if content])
def test_every_truncation_of_every_file_is_noticed(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint-1")
    assert is_complete(folder)
    for length in range(len(FILES[name])):
        (folder / name).write_bytes(FILES[name][:length])
        assert name in why_incomplete(folder)
    (folder / name).unlink()
    assert f"{name} is missing" in why_incomplete(folder)


def test_every_truncation_of_the_marker_is_noticed(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint-1")
    content = (folder / MARKER_FILE).read_bytes().rstrip()
    for length in range(len(content)):
        (folder / MARKER_FILE).write_bytes(content[:length])
        assert not is_complete(folder)


@pytest.mark.parametrize(
    "content",
    [
        '{"schema": 1}',
        '{"schema": 1, "files": []}',
        '{"schema": 1, "files": {"../x": 1}}',
        '{"files": {"/etc/hosts": 1}}',
        '{"files": {"empty": true}}',
        "null",
    ],
)
def test_a_marker_that_is_none_of_ours_marks_nothing(tmp_path: Path, content: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint-1")
    (folder / MARKER_FILE).write_text(content)
    assert why_incomplete(folder) == "its COMPLETE marker is damaged"


def test_the_newest_whole_checkpoint_is_used_and_the_others_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint-9")
    make_checkpoint(tmp_path / "checkpoint-10")
    make_checkpoint(tmp_path / "checkpoint-100", mark=False)
    make_checkpoint(tmp_path / "checkpoint-20")
    (tmp_path / "checkpoint-20" / "adapter_model.safetensors").write_bytes(b"1")
    (tmp_path / "checkpoint-best").mkdir()
    latest = latest_complete(tmp_path)
    assert latest.folder == tmp_path / "checkpoint-10"
    assert [folder.name for folder, _ in latest.skipped] == ["checkpoint-100", "checkpoint-20"]
    assert "no COMPLETE marker" in latest.skipped[0][1]
    assert "adapter_model.safetensors is 1 bytes long, 8 bytes were written" in latest.skipped[1][1]


def test_locate_goes_from_a_run_to_its_newest_whole_checkpoint_and_says_so(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint-1")
    make_checkpoint(tmp_path / "checkpoint-2", mark=False)
    located = locate(tmp_path)
    assert (located.folder, located.kind) == (tmp_path / "checkpoint-1", "adapter")
    assert any("checkpoint-2 was passed over" in note for note in located.notes)


def test_locate_refuses_a_run_without_a_whole_checkpoint(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint-2", mark=False)
    with pytest.raises(DamagedFileError, match="no checkpoint is complete"):
        locate(tmp_path)


def test_locate_refuses_a_cut_checkpoint_of_ours(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint-1")
    (folder / "adapter_model.safetensors").write_bytes(b"1")
    with pytest.raises(DamagedFileError, match="8 bytes were written"):
        locate(folder)


def test_locate_takes_an_adapter_of_another_program(tmp_path: Path) -> None:
    located = locate(make_checkpoint(tmp_path / "adapter", mark=False))
    assert (located.kind, located.notes) == ("adapter", ())


def test_locate_never_takes_pickled_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match="pickled"):
        locate(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_locate_tells_where_there_is_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no such folder|neither adapter_config"):
        locate(tmp_path / name)


def test_a_draft_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(RuntimeError), drafted(target) as draft:
        (draft / "half").write_text("x")
        raise RuntimeError("disk gone")
    assert list(tmp_path.iterdir()) == []
    with drafted(target) as draft:
        (draft / "whole").write_text("x")
        assert not target.exists()
    assert is_complete(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_draft_replaces_only_when_told_to_and_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("x")
    with pytest.raises(UserError, match="not empty"), drafted(target):
        pass
    with pytest.raises(RuntimeError), drafted(target, overwrite=True):
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    with drafted(target, overwrite=True) as draft:
        (draft / "new").write_text("x")
    assert sorted(json.loads((target / MARKER_FILE).read_text())["files"]) == ["new"]
    assert not (target / "old").exists()
