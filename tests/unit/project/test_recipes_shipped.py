"""What ships: recipes as files of one's own, prompts and missions from any folder, scripts that find the program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from plumbline.config.recipes import recipes
from plumbline.config.shipped import or_shipped, shipped
from plumbline.stage_a.summaries import mission_prompt
from plumbline.train.config import check_file

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_becomes_one_sound_file(plumbline, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.yaml"  # a run is named after its file
    code, out, error = plumbline("config", "new", name, "-o", path)
    assert code == 0 and f"config check {path}" in out, error
    assert plumbline("config", "check", path)[:2] == (0, f"{path}: ok\n")
    if name not in ("missions", "stage_b_training_free"):
        assert "extends" not in path.read_text("utf-8")
        assert check_file(path, None).resolved == check_file(shipped(f"{name}.yaml"), None).resolved


def test_recipes_are_listed_and_nothing_is_replaced_unasked(plumbline, tmp_path: Path) -> None:
    code, out, _ = plumbline("config", "new")
    assert code == 0 and "stage_3_gkd_forward_only" in out and "Stage 3" in out
    path = tmp_path / "my.yaml"
    path.write_text("mine")
    code, _, error = plumbline("config", "new", "base", "-o", path)
    assert code == 1 and "is there already" in error and path.read_text() == "mine"
    assert plumbline("config", "new", "base", "-o", path, "--overwrite")[0] == 0
    code, _, error = plumbline("config", "new", "nothing", "-o", path)
    assert code == 2 and "there are aligner_playbook" in error


def test_prompts_and_missions_that_ship_stand_in_for_the_default_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mission_prompt(Path("configs/prompts"), "挡风板安装检查")
    default = Path("configs/missions.yaml")
    assert or_shipped(default, default).is_file()
    assert or_shipped(tmp_path / "mine.yaml", default) == tmp_path / "mine.yaml"
    (tmp_path / "configs").mkdir()
    default.write_text("a: b\n")
    assert or_shipped(default, default) == default


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "scripts").glob("*.sh"))])
def test_a_script_that_was_copied_finds_the_program_on_the_path(tmp_path: Path, name: str) -> None:
    program = tmp_path / "bin" / "plumbline"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    script = shutil.copy(ROOT / "scripts" / name, tmp_path / "elsewhere" / name)
    path = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", script, "first", "second"],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        check=False,
    )
    assert done.returncode == 0 and "first" in done.stdout, done.stderr
