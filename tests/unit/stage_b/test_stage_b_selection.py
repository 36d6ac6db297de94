"""Candidates to one verdict: policies, ties, and no way in for a label."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.stage_b.judge import NEEDS_REVIEW, OK, BlindScores, Criteria, Judge, LabelScores, label_scores
from plumbline.stage_b.selection import POLICIES, TIE_BREAKS, Candidate, select
from plumbline.stage_b.tickets import Ticket
from plumbline.stage_b.verdict import FAIL, PASS, read_verdict


def said(index: int, verdict: str | None, advantage: float = 0.5, confidence: str = OK) -> Candidate:
    scores = None if verdict is None else BlindScores(1.0, 1.0, confidence, advantage, 1.0)
    return Candidate(index, verdict, f"理由{index}" if verdict else "", scores)


MIXED = [said(0, FAIL, 0.9), said(1, PASS, 0.4), said(2, PASS, 0.6), said(3, PASS, 0.6)]
"""The majority and the weights say pass, the best candidate says fail."""


@pytest.mark.parametrize(
    ("policy", "verdict", "chosen", "margin"),
    [("majority", PASS, 2, 0.5), ("weighted_vote", PASS, 2, 0.7 / 2.5), ("top_semantic", FAIL, 0, 0.3 / 1.5)],
)
def test_policies(policy: str, verdict: str, chosen: int, margin: float) -> None:
    selection = select(MIXED, policy)
    assert (selection.verdict, selection.selected_candidate) == (verdict, chosen)
    assert selection.reason == f"理由{chosen}"
    assert selection.margin == pytest.approx(margin)
    assert selection.votes == {PASS: 3, FAIL: 1, "unreadable": 0}
    assert selection.pass_share == selection.confidence == pytest.approx(1.6 / 2.5)
    assert (selection.summary_confidence, selection.doubts) == (OK, ())


def test_the_first_of_equals_or_the_first_of_all_speaks() -> None:
    assert select(MIXED, "majority", "semantic").selected_candidate == 2
    assert select(MIXED, "majority", "first").selected_candidate == 1


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tie_break", TIE_BREAKS)
def test_a_tie_is_a_fail_and_a_review(policy: str, tie_break: str) -> None:
    selection = select([said(0, PASS), said(1, FAIL)], policy, tie_break)
    assert (selection.verdict, selection.summary_confidence) == (FAIL, NEEDS_REVIEW)
    assert (selection.selected_candidate, selection.margin) == (1, 0.0)
    assert selection.doubts == ("the votes are tied",)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("candidates", [[], [said(0, None), said(1, None)]])
def test_without_a_readable_candidate_there_is_no_verdict_to_trust(policy: str, candidates: list[Candidate]) -> None:
    selection = select(candidates, policy)
    assert (selection.verdict, selection.summary_confidence, selection.selected_candidate) == (None, NEEDS_REVIEW, None)
    assert "candidate" in selection.reason
    assert (selection.pass_share, selection.confidence) == (None, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_votes_without_weight_pass_nothing(policy: str) -> None:
    selection = select([said(0, PASS, 0.0), said(1, PASS, 0.0)], policy)
    assert selection.confidence == 0
    assert selection.verdict == (PASS if policy == "majority" else FAIL)


def test_an_unreadable_reply_speaks_for_no_pass() -> None:
    selection = select([said(0, PASS), said(1, None)], "majority")
    assert (selection.verdict, selection.pass_share, selection.confidence) == (PASS, 1.0, 0.5)
    assert selection.doubts == ("1 of 2 candidates cannot be read",)


def test_doubtful_summaries_need_a_review() -> None:
    selection = select([said(0, PASS, confidence=NEEDS_REVIEW)], "majority")
    assert (selection.verdict, selection.summary_confidence) == (PASS, NEEDS_REVIEW)


def test_a_candidate_without_a_label_field_and_with_whole_scores() -> None:
    labelled = {each.name for each in fields(LabelScores)} | {"label"}
    assert not labelled & {each.name for each in (*fields(Candidate), *fields(BlindScores))}
    with pytest.raises(ValueError, match="not the other"):
        Candidate(0, PASS, "", None)
    with pytest.raises(ValueError, match="none of"):
        select([], "best")


CANDIDATES = st.lists(
    st.tuples(st.sampled_from([PASS, FAIL, None]), st.floats(0, 1), st.sampled_from([OK, NEEDS_REVIEW])), max_size=8
).map(lambda drawn: [said(number, *each) for number, each in enumerate(drawn)])


@given(CANDIDATES, st.sampled_from(POLICIES), st.sampled_from(TIE_BREAKS))
def test_the_verdict_is_that_of_its_speaker_and_shares_are_shares(candidates, policy, tie_break) -> None:
    selection = select(candidates, policy, tie_break)
    if selection.selected_candidate is not None:
        assert candidates[selection.selected_candidate].verdict == selection.verdict
    assert 0 <= selection.confidence <= 1 + 1e-9
    assert 0 <= selection.margin <= 1
    assert (selection.summary_confidence == OK) == (not selection.doubts)
    assert sum(selection.votes.values()) == len(candidates)
    if selection.verdict == PASS:
        assert selection.votes[PASS] > 0


@given(st.lists(st.sampled_from(["通过\n理由: 挡风板符合要求", "不通过\n理由: 挡风板缺失", "不知道"]), max_size=6))
def test_flipping_every_label_changes_no_selection(texts: list[str]) -> None:
    """From the replies on: verdicts, scores, selection. What knows the label does change."""
    ticket = Ticket("QC-1", "挡风板安装检查", "pass", ("a.jpg",), {"image_1": "挡风板/符合要求×1"}, {})
    judge = Judge(Criteria.of("挡风板是否符合要求"))

    def run(of: Ticket) -> tuple[object, list[LabelScores]]:
        read = [read_verdict(text) for text in texts]
        scores = [judge.score(each, judge.evidence(of)) for each in read]
        candidates = [
            Candidate(number, each.verdict, each.reason, score)
            for number, (each, score) in enumerate(zip(read, scores, strict=True))
        ]
        told = [
            label_scores(each, of.label, score) for each, score in zip(read, scores, strict=True) if score is not None
        ]
        return [select(candidates, policy) for policy in POLICIES], told

    (selections, told), (flipped_selections, flipped) = run(ticket), run(replace(ticket, label="fail"))
    assert selections == flipped_selections
    assert all(one.label_match != other.label_match for one, other in zip(told, flipped, strict=True))
