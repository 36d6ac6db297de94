"""What earlier versions wrote: replies, guidance, recorded replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.errors import DataError
from plumbline.stage_b.engine import recorded_replies
from plumbline.stage_b.guidance import read_guidance
from plumbline.stage_b.verdict import FAIL, PASS, read_verdict

OLD = {
    "挡风板安装检查": {
        "step": 4,
        "updated_at": "2025-11-01T00:00:00Z",
        "experiences": {"G0": "挡风板方向正确", "G1": "方向无法判断时\n不通过", "G2": "方向无法判断时 不通过"},
    },
    "BBU接地线检查": {"step": 1, "experiences": {"G0": "接地螺丝符合要求"}},
}


@pytest.mark.parametrize(
    ("text", "verdict", "reason"),
    [
        ("Verdict: 通过\nReason: 螺丝符合要求\nConfidence: 0.9", PASS, "螺丝符合要求"),
        ("Verdict：不通过\nReason：螺丝未拧紧\nConfidence：85%", FAIL, "螺丝未拧紧"),
        ("verdict: pass\nreason: the screws are tight", PASS, "the screws are tight"),
        ("Verdict: FAIL\r\nReason: 螺丝未拧紧\r\nConfidence: 1\r\n", FAIL, "螺丝未拧紧"),
    ],
)
def test_replies_of_earlier_versions_are_read(text: str, verdict: str, reason: str) -> None:
    assert (read_verdict(text).verdict, read_verdict(text).reason) == (verdict, reason)


@pytest.mark.parametrize(
    "text",
    [
        "Verdict: 通过",
        "Verdict: maybe\nReason: x",
        "Verdict: 通过不通过\nReason: 螺丝符合要求",
        "Verdict: 通过\nReason: \nConfidence: 0.9",
        "Verdict: 通过\nReason: 其实不通过",
        "Verdict: pass\nReason: it should fail",
        "Verdict: pass\nReason: ok Verdict: fail",
        "Verdict: 通过\nConfidence: 0.9\nReason: 螺丝符合要求",
        "Verdict: 通过\nReason: 螺丝符合要求\nConfidence: high\nVerdict: 不通过",
        "Verdict: 通过\nReason: 螺丝符合要求\nConfidence: 0.9\nVerdict: 不通过",
    ],
)
def test_and_nothing_like_them_is_a_pass(text: str) -> None:
    assert read_verdict(text).verdict is None
    assert read_verdict(text).problems


def test_recorded_replies_need_no_status(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    rows = [{"key": "a", "text": "x"}, {"key": "b", "text": "y", "status": "error:timeout"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recorded_replies(path) == {"a": "x"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ('{"text": "x"}\n', "no key"),
        ('{"key": "a"}\n', "has no text"),
        ("[]\n", "is not a row"),
    ],
)
def test_recorded_replies_that_cannot_be_read_are_a_mistake_of_the_user(tmp_path: Path, text, said) -> None:
    path = tmp_path / "replies.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as error:
        recorded_replies(path)
    assert said in str(error.value) and error.value.exit_code == 2


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "guidance.json"
    path.write_text(json.dumps(OLD, ensure_ascii=False), "utf-8")
    return path


def test_old_guidance_is_imported(old: Path, tmp_path: Path, plumbline) -> None:
    code, said, _ = plumbline("stage-b", "import-guidance", old, "--output", tmp_path / "new")
    assert code == 0
    assert "G0 -> focus, G1 -> R1, G2 -> R1" in said
    found = read_guidance(tmp_path / "new" / "挡风板安装检查.json")
    assert (found.focus, [rule.text for rule in found.rules]) == ("挡风板方向正确", ["方向无法判断时 不通过"])
    assert read_guidance(tmp_path / "new" / "BBU接地线检查.json").rules == ()
    code, _, error = plumbline("stage-b", "import-guidance", old, "--output", tmp_path / "new")
    assert code == 1 and "is there already" in error
    assert plumbline("stage-b", "import-guidance", old, "--output", tmp_path / "new", "--overwrite")[0] == 0


def test_the_focus_may_come_from_the_missions_file(old: Path, tmp_path: Path, plumbline) -> None:
    missions = tmp_path / "missions.yaml"
    missions.write_text("挡风板安装检查: 挡风板符合要求\n", "utf-8")
    arguments = ("--mission", "挡风板安装检查", "--missions-file", missions)
    assert plumbline("stage-b", "import-guidance", old, "--output", tmp_path / "new", *arguments)[0] == 0
    (path,) = (tmp_path / "new").iterdir()
    found = read_guidance(path)
    assert (found.focus, len(found.rules)) == ("挡风板符合要求", 2)


def test_the_error_of_old_guidance_names_the_command(old: Path) -> None:
    with pytest.raises(DataError) as error:
        read_guidance(old)
    assert f"plumbline stage-b import-guidance {old} --output FOLDER" in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "cannot be read"),
        ("{}", "is no guidance of an earlier version"),
        ('{"a": {"experiences": {"G0": 3}}}', "a: G0"),
        ('{"a": {"experiences": {}}}', "has no focus"),
        ('{"a": {"experiences": {"G0": "' + "很" * 400 + '"}}}', "at most 300 characters"),
    ],
)
def test_what_is_no_old_guidance_is_refused(tmp_path: Path, content: str, said: str, plumbline) -> None:
    path = tmp_path / "old.json"
    path.write_text(content, "utf-8")
    code, _, error = plumbline("stage-b", "import-guidance", path, "--output", tmp_path / "new")
    assert code == 2 and said in error
    assert not (tmp_path / "new").exists()
