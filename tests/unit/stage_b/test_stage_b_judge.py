"""Scores of candidates: each formula on texts whose score is known."""

from __future__ import annotations

from dataclasses import fields
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import ConfigError
from plumbline.stage_b.judge import (
    NEEDS_REVIEW,
    OK,
    BlindScores,
    Criteria,
    Judge,
    JudgeWeights,
    LabelScores,
    evidence_support,
    focus_consistency,
    heuristic_score,
    label_scores,
    rationale_quality,
)
from plumbline.stage_b.tickets import Ticket
from plumbline.stage_b.verdict import FAIL, PASS, Verdict
from plumbline.stage_b.wording import Wording

FOCUS = "检查机柜处接地螺丝与地排处接地螺丝是否符合要求，电线捆扎整齐"
WORDS = Wording()
JUDGE = Judge(Criteria.of(FOCUS))


def ticket(*texts: str, failed: int = 0, flags: tuple[str, ...] = ()) -> Ticket:
    count = len(texts) + failed
    said = {f"image_{number}": text for number, text in enumerate(texts, 1)}
    lost = {f"image_{number}": "cut off" for number in range(len(texts) + 1, count + 1)}
    images = tuple(f"{number}.jpg" for number in range(count))
    return Ticket("QC-1", "BBU接地线检查", "pass", images, MappingProxyType(said), MappingProxyType(lost), flags)


GOOD = ticket("机柜处接地螺丝/符合要求×1", "地排处接地螺丝/符合要求×1，电线/捆扎整齐×1")
BAD = ticket("机柜处接地螺丝/不符合要求,未拧紧×1", "地排处接地螺丝/符合要求×1")


def evidence(of: Ticket):
    return JUDGE.evidence(of)


def test_phrases_stand_between_marks_and_fillers() -> None:
    assert JUDGE.criteria.terms == ("机柜处接地螺丝", "地排处接地螺丝", "符合要求", "电线捆扎整齐")


@pytest.mark.parametrize(
    ("verdict", "reason", "score"),
    [
        (PASS, "机柜处接地螺丝、地排处接地螺丝均符合要求，电线捆扎整齐", 1.0),
        (PASS, "电线捆扎整齐", 0.25),
        (PASS, "一切正常", 0.0),
        (FAIL, "机柜处接地螺丝未拧紧", 1.0),
        (FAIL, "照片太暗", 0.0),
    ],
)
def test_a_pass_treats_every_term_a_fail_one(verdict: str, reason: str, score: float) -> None:
    assert focus_consistency(Verdict(verdict, reason), JUDGE.criteria) == score


@pytest.mark.parametrize(
    ("reason", "score"),
    [
        ("机柜处接地螺丝未拧紧", 1.0),
        ("机柜处接地螺丝未拧紧，挡风板生锈", 0.5),
        ("挡风板缺失", 1.0),
        ("机柜处接地螺丝缺失", 1.0),
        ("挡风板生锈", 0.0),
        ("……", 0.0),
    ],
)
def test_evidence_is_what_the_summaries_say_or_do_not_show(reason: str, score: float) -> None:
    assert evidence_support(Verdict(FAIL, reason), evidence(BAD), WORDS) == score


@pytest.mark.parametrize(
    ("of", "passed", "failed"),
    [
        (GOOD, 1.0, 0.0),
        (BAD, 0.0, 1.0),
        (ticket("螺丝/符合要求×1", "标签/无法识别×1"), 0.75, 0.25),
        (ticket("机柜处接地螺丝/未拧紧×1", failed=1), 0.25, 0.75),
        (ticket("BBU安装螺丝/未拧紧×1"), 1.0, 0.0),
        (ticket("无关图片"), 0.5, 0.5),
        (ticket("未发现异常"), 1.0, 0.0),
    ],
)
def test_words_of_the_summaries_against_the_verdict(of: Ticket, passed: float, failed: float) -> None:
    assert heuristic_score(Verdict(PASS, "好"), evidence(of)) == passed
    assert heuristic_score(Verdict(FAIL, "坏"), evidence(of)) == failed


@pytest.mark.parametrize(
    ("reason", "score"),
    [
        ("机柜处接地螺丝未拧紧", 1.0),
        ("image_1 里的部件有异样", 1.0),
        ("挡风板方向朝上", 2 / 3),
        ("坏", 1 / 3),
        (FOCUS, 2 / 3),
        ("螺丝未拧紧" * 50, 2 / 3),
    ],
)
def test_a_rationale_is_bounded_cites_and_is_no_copy(reason: str, score: float) -> None:
    said = Verdict(FAIL, reason)
    assert rationale_quality(said, evidence(BAD), JUDGE.criteria, WORDS) == pytest.approx(score)


@pytest.mark.parametrize(
    ("of", "confidence"),
    [
        (GOOD, OK),
        (ticket("螺丝×1", "标签×1", failed=1), NEEDS_REVIEW),
        (ticket("螺丝×1", "无关图片"), NEEDS_REVIEW),
        (ticket("螺丝×1", "标签×1", "标签/无法识别×1"), OK),
        (ticket("螺丝×1", flags=("image_1: verdict",)), NEEDS_REVIEW),
    ],
)
def test_summaries_that_need_a_review(of: Ticket, confidence: str) -> None:
    scores = JUDGE.score(Verdict(FAIL, "螺丝未拧紧"), evidence(of))
    assert scores is not None and scores.summary_confidence == confidence


def test_the_advantage_is_the_weighted_sum() -> None:
    said = Verdict(PASS, "机柜处接地螺丝符合要求")
    scores = JUDGE.score(said, evidence(GOOD))
    assert scores == BlindScores(0.75, 1.0, OK, pytest.approx(0.3 * 0.75 + 0.25 + 0.15 + 0.3), 1.0)
    wrong = JUDGE.score(Verdict(FAIL, said.reason), evidence(GOOD))
    assert wrong is not None and wrong.semantic_advantage < scores.semantic_advantage


def test_an_unreadable_candidate_is_not_scored() -> None:
    assert JUDGE.score(Verdict(None), evidence(GOOD)) is None


@pytest.mark.parametrize("weights", [(1, 1, 0, 0), (-0.5, 0.5, 0.5, 0.5), (float("nan"), 0.5, 0.25, 0.25)])
def test_weights_that_are_no_weights(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"judge\.weights"):
        JudgeWeights(*weights)


@pytest.mark.parametrize(
    ("verdict", "label", "of", "scores"),
    [
        (PASS, "pass", GOOD, LabelScores(True, False, False)),
        (PASS, "fail", GOOD, LabelScores(False, True, True)),
        (FAIL, "pass", GOOD, LabelScores(False, False, False)),
        (PASS, "pass", ticket("标签×1", failed=1), LabelScores(True, False, True)),
    ],
)
def test_what_a_label_says_of_a_candidate(verdict: str, label: str, of: Ticket, scores: LabelScores) -> None:
    said = Verdict(verdict, "机柜处接地螺丝符合要求")
    blind = JUDGE.score(said, evidence(of))
    assert blind is not None and label_scores(said, label, blind) == scores


def test_the_two_structures_share_no_field() -> None:
    assert not {each.name for each in fields(BlindScores)} & {each.name for each in fields(LabelScores)}


@given(st.sampled_from([PASS, FAIL]), st.text(max_size=40), st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_scores_stay_between_0_and_1(verdict: str, reason: str, texts: list[str]) -> None:
    scores = JUDGE.score(Verdict(verdict, reason), evidence(ticket(*texts)))
    assert scores is not None
    numbers = (scores.focus_consistency, scores.heuristic_score, scores.semantic_advantage, scores.rationale_quality)
    assert all(0 <= number <= 1 for number in numbers)
