"""Cells, leaks and verdicts of `plumbline drift`, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.errors import DataError
from plumbline.evaluate.drift import Margins, ProbeScore, cells_of, domain_words, leak_of, read_probes
from plumbline.infer.questions import NO_CARD

WORDS = frozenset({"BBU设备", "光纤"})


@pytest.mark.parametrize(
    ("text", "base", "question", "leak"),
    [
        ("天空是蓝色的。", "蓝色。", "天空是什么颜色?", ""),
        ('{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "天空"}}', "蓝色。", "?", "objects with coordinates"),
        (
            '{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "x"}}',
            '{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "x"}}',
            "?",
            "",
        ),
        ("图片里有光纤和猫。", "图片里有一只猫。", "有什么?", "光纤"),
        ("有光纤。", "没有光纤。", "有什么?", ""),
        ("是的,光纤很细。", "很细。", "光纤粗吗?", ""),
    ],
)
def test_what_leaks_is_of_the_domain_and_not_of_the_base_or_the_question(text, base, question, leak) -> None:
    assert leak_of(text, base, question, WORDS) == leak


def scores(cell: str, kl: list[float], leaks: int = 0) -> list[ProbeScore]:
    return [
        ProbeScore(
            f"{cell}{n}",
            cell,
            10,
            10 * value,
            kinds=((4, 10 * value), (0, 0.0), (6, 0.0)),
            noise=1e-6,
            gain=-10.0,
            vision=(0.1, 0.2) if cell == "photos" else (),
            leak="光纤" * (n < leaks),
        )
        for n, value in enumerate(kl)
    ]


def test_cells_are_measured_per_token_and_judged_by_their_intervals() -> None:
    found = {
        cell.name: cell
        for cell in cells_of(
            [
                *scores("text", [0.01] * 80),
                *scores("chats", [0.0] * 40),
                *scores("photos", [0.3] * 40, leaks=20),
                *scores("training", [0.0] * 5 + [0.2] * 5),
                *scores("domain", [2.0] * 10),
            ],
            Margins(),
        )
    }
    assert found["text"].kl.value == pytest.approx(0.01) and found["text"].kl_verdict == "within margin"
    assert found["text"].leak_verdict == "within margin" and not found["text"].has_drifted
    assert found["photos"].kl_verdict == found["photos"].leak_verdict == "drifted"
    assert found["training"].kl_verdict == "undecided", "half of ten probes: the interval holds the margin"
    assert found["domain"].leak is None and not found["domain"].has_drifted, "it is meant to move"
    assert found["chats"].kl_verdict == "not distinguishable", "less than the base from itself"
    assert found["chats"].leak_verdict == "undecided", "none of 40 may still be one in twelve"
    assert found["photos"].vision == pytest.approx((0.1, 0.2)) and found["text"].vision == ()
    assert found["text"].by_kind == {"structure": pytest.approx(0.025), "descriptions": 0.0}
    assert (found["text"].gain, found["text"].noise) == (pytest.approx(-1.0), pytest.approx(1e-7))
    assert list(found) == ["training", "photos", "text", "chats", "domain"]


def test_long_answers_weigh_by_their_tokens() -> None:
    mixed = [
        ProbeScore(key, "text", tokens, kl, ((0, 0.0), (0, 0.0), (tokens, kl)))
        for key, tokens, kl in (("a", 90, 0.0), ("b", 10, 10.0))
    ]
    (cell,) = cells_of(mixed, Margins())
    assert cell.kl.value == pytest.approx(0.1)


def test_probes_keep_the_marks_of_their_making(tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    rows = [{"messages": chat, "metadata": {"anchor": "text"}}, {"messages": chat}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(probe.cell, probe.answer) for probe in read_probes(path, None, NO_CARD)] == [("text", "!"), ("chats", "!")]
    path.write_text(json.dumps({"images": ["a.jpg"], "summary": "x"}) + "\n")
    with pytest.raises((DataError, ValueError)):
        read_probes(path, None, NO_CARD)


def test_words_of_the_domain_are_its_classes(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    objects = [{"bbox_2d": [0, 0, 5, 5], "desc": desc} for desc in ("光纤/颜色:黄色", "猫", "标签/文字:A")]
    path.write_text(json.dumps({"images": ["a.jpg"], "width": 9, "height": 9, "objects": objects}) + "\n")
    assert domain_words(path) == {"光纤", "标签"} and domain_words(None) == frozenset()
