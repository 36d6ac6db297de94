"""`plumbline config check|show|schema` serve Stage-B's files as well, recognised by their content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage_b_folders import MISSIONS

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_shipped_file_is_recognised_and_sound(plumbline, monkeypatch, name: str) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    code, out, error = plumbline("config", "check", f"configs/{name}")
    assert (code, out) == (0, f"configs/{name}: ok\n"), out + error


def test_a_wrong_key_is_named_with_its_place(plumbline, tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("stage_a_paths: [a.jsonl]\nengine: {model: m, modle: x}\n")
    code, out, _ = plumbline("config", "check", path)
    assert code == 2 and f"{path}:2:20: unknown key `engine.modle`" in out and "1 problem\n" in out
    code, out, _ = plumbline("config", "check", path, "--json")
    assert json.loads(out)["problems"][0]["line"] == 2
    code, out, _ = plumbline("config", "check", path, "--kind", "train")
    assert code == 2 and "stage_a_paths" in out


def test_show_and_schema(plumbline, tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("stage_a_paths: [a.jsonl]\nengine: {model: m}\n")
    code, out, _ = plumbline("config", "show", path)
    assert code == 0 and "samples_per_decode" in out
    code, out, _ = plumbline("config", "show", path, "--json")
    assert json.loads(out)["resolved"]["engine"]["model"] == "m"
    code, out, _ = plumbline("config", "show", MISSIONS)
    assert code == 0 and "BBU接地线检查" in json.loads(out)
    code, out, _ = plumbline("config", "schema", "--kind", "stage-b")
    assert code == 0 and "stage_a_paths" in json.loads(out)["properties"]


def test_missions_are_checked(plumbline, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("挡风板: {focus: 好, itmes: [x]}\n", "utf-8")
    code, out, _ = plumbline("config", "check", path)
    assert code == 2 and "unknown key" in out
