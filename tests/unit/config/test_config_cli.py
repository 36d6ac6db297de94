"""`plumbline config ...`: what it prints and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.cli import app
from plumbline.errors import ConfigError
from plumbline.train.reference import reference_page

ROOT = Path(__file__).parents[3]
FRAGMENTS = sorted((Path(__file__).parent / "fragments").glob("*.yaml"))


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as left:
        app([str(arg) for arg in args])
    return int(left.value.code or 0)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text("model:\n  mdoel: x\ntraining:\n  learning_rate: fast\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.stem)
def test_every_documented_fragment_passes(fragment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run("config", "check", fragment, "--base_config", ROOT / "configs/tiny/smoke.yaml")
    captured = capsys.readouterr()
    assert code == 0, captured.out
    translated = "train_type" in fragment.read_text(encoding="utf-8")
    assert ("is called `tuner_type` today" in captured.err) == translated


def test_there_are_fragments() -> None:
    assert len(FRAGMENTS) == 22


def test_check_prints_every_problem(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", bad) == 2
    out = capsys.readouterr().out
    assert f"{bad}:2:3: unknown key `model.mdoel`" in out
    assert f"{bad}:4:18: training.learning_rate must be a number" in out
    assert "2 problems" in out


def test_check_as_json_splits_the_place(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", bad, "--json") == 2
    result = json.loads(capsys.readouterr().out)
    assert not result["ok"]
    first = result["problems"][0]
    assert (first["file"], first["line"], first["col"]) == (str(bad), 2, 3)
    assert first["fix"] == "did you mean `model`?"


def test_check_of_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", tmp_path / "none.yaml") == 2
    assert "cannot be read: No such file" in capsys.readouterr().out


def test_show_names_origins_and_refuses_what_is_wrong(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ROOT / "configs/stage_1_aligner.yaml"
    assert run("config", "show", recipe) == 0
    out = capsys.readouterr().out
    assert f"freeze_llm: true  # {recipe}:" in out
    assert f"lora_rank: 32  # {ROOT}/configs/base.yaml:" in out
    assert run("config", "show", recipe, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["resolved"]["tuner"]["lora_rank"] == 32
    assert shown["origins"]["tuner.lora_rank"].startswith(f"{ROOT}/configs/base.yaml:")
    with pytest.raises(ConfigError):
        app(["config", "show", str(bad)])


def test_diff_shows_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = ROOT / "configs/stage_1_aligner.yaml", ROOT / "configs/stage_2_llm_lora.yaml"
    assert run("config", "diff", one, two) == 0
    out = capsys.readouterr().out
    assert f"tuner.freeze_llm: true ({one}:" in out
    assert "training.learning_rate: 0.0001 (" in out
    assert "lora_rank" not in out
    assert run("config", "diff", one, one) == 0
    assert "no difference" in capsys.readouterr().out


def test_schema_is_complete_and_strict(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["additionalProperties"] is False
    sections = {"extends", "model", "template", "data", "tuner", "training", "rlhf", "custom", "prompts", "deepspeed"}
    assert {*sections, "quantization", "global_max_length"} == schema["properties"].keys()
    through = schema["$defs"]["pass_through_with_resume"]
    assert through["additionalProperties"] is False
    assert through["properties"]["lora_rank"] == {
        "type": "integer",
        "minimum": 1,
        "description": "Rank of the LoRA matrices.",
        "default": 8,
    }
    assert through["properties"]["train_type"]["deprecated"] is True
    references = set()
    for text in json.dumps(schema).split('"$ref": "#/$defs/')[1:]:
        references.add(text.split('"', 1)[0])
    assert references == schema["$defs"].keys()


def test_the_reference_page_is_up_to_date() -> None:
    page = (ROOT / "docs/CONFIG.md").read_text(encoding="utf-8")
    assert page == reference_page(), "run: plumbline config reference > docs/CONFIG.md"


def test_the_verbs_need_no_torch() -> None:
    code = (
        "import sys, plumbline.cli, plumbline.train.config_verbs as verbs, pathlib;"
        "verbs.schema(); plumbline.cli.config.config_reference(); plumbline.cli.config.config_reference(stage_b=True);"
        "heavy = {'torch', 'swift', 'transformers', 'shapely', 'pydantic', 'cv2'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
