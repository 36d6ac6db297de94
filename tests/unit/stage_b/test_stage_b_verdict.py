"""Replies to verdicts: two exact lines, or no verdict at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.stage_b.verdict import FAIL, MAX_REASON, PASS, Verdict, read_verdict


@pytest.mark.parametrize(
    ("text", "verdict", "reason"),
    [
        ("通过\n理由: 挡风板安装正确", PASS, "挡风板安装正确"),
        ("不通过\n理由: 挡风板缺失", FAIL, "挡风板缺失"),
        ("不通过。\n理由：挡风板缺失。", FAIL, "挡风板缺失。"),
        (" 通过 . \r\n 理由 : 螺丝符合要求 \r\n\n", PASS, "螺丝符合要求"),
        ("不通过\n理由: 未安装，因此不通过", FAIL, "未安装，因此不通过"),
    ],
)
def test_the_form_and_what_is_forgiven(text: str, verdict: str, reason: str) -> None:
    read = read_verdict(text)
    assert read == Verdict(verdict, reason)
    assert read.format_ok


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "first line"),
        ("通过", "second line"),
        ("\n通过\n理由: 好", "first line"),
        ("结论: 通过\n理由: 好", "first line"),
        ("通过/不通过\n理由: 好", "first line"),
        ("合格\n理由: 好", "first line"),
        ('{"verdict": "通过", "reason": "好"}', "first line"),
        ("**通过**\n理由: 好", "first line"),
        ("通过\n通过\n理由: 好", "second line"),
        ("通过\n\n理由: 好", "second line"),
        ("通过\n理由 好", "second line"),
        ("通过\n理由:", "empty"),
        ("通过\n理由: 好\n不通过\n理由: 坏", "after the reason"),
        ("通过\n理由: 好\n\n以上", "after the reason"),
        ("通过\n理由: 好\n以上", "after the reason"),
        ("通过\n理由: 好 理由: 坏", "several reasons"),
        ("通过\n理由: 挡风板缺失，不通过", "says 不通过"),
        ("通过\n理由: " + "螺丝符合，" * 40, "repeats"),
        ("通过\n理由: " + "".join(chr(0x4E00 + number) for number in range(MAX_REASON + 1)), "longer"),
    ],
)
def test_anything_else_is_no_verdict(text: str, problem: str) -> None:
    read = read_verdict(text)
    assert (read.verdict, read.reason, read.format_ok) == (None, "", False)
    assert any(problem in told for told in read.problems)


LINES = st.sampled_from(["通过", "不通过", "通过。", "理由: 好", "理由：螺丝不通过", "", " ", "\u2028通过", "通过吗"])


@given(st.text() | st.lists(LINES | st.text(max_size=5), max_size=4).map("\n".join))
def test_never_raises_and_never_passes_without_the_word_alone_on_the_first_line(text: str) -> None:
    read = read_verdict(text)
    assert (read.verdict is None) == bool(read.problems)
    if read.verdict == PASS:
        assert text.split("\n")[0].strip(" \t\u3000\r").rstrip(".。． \t\u3000") == PASS
        assert text.split("\n")[1].strip().startswith("理由")
