"""Candidates to one verdict. No label is here, nor can one be passed: what decides could not know it.

Every doubt ends in 不通过 and a review: a wrong fail costs a look, a wrong pass may cost a site. Where no reply can be
read there is no verdict, and a person must look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plumbline.stage_b.judge import NEEDS_REVIEW, OK, BlindScores
from plumbline.stage_b.verdict import FAIL, PASS

MAJORITY, WEIGHTED_VOTE, TOP_SEMANTIC = POLICIES = ("majority", "weighted_vote", "top_semantic")
TIE_BREAKS = ("semantic", "first")
"""Which of several candidates with the winning verdict speaks for it; never which verdict wins."""
UNREADABLE = "unreadable"
_NEAR = 1e-9


@dataclass(frozen=True)
class Candidate:
    """One reply, read and scored. verdict and scores: both there, or both None for a reply that cannot be read."""

    index: int
    verdict: str | None
    reason: str
    scores: BlindScores | None

    def __post_init__(self) -> None:
        if (self.verdict is None) != (self.scores is None):
            raise ValueError(f"candidate {self.index} has a verdict or scores, and not the other")


@dataclass(frozen=True)
class Selection:
    """The verdict of a ticket. verdict: None where no candidate can be read: no verdict is neither a pass nor a fail.

    selected_candidate: index of the one that speaks for it; None when none does. votes: candidates by verdict, those
    that cannot be read as `unreadable`. margin: weight of the winner over the other's, as a share of all weight.
    pass_share: of the readable votes, weighed by semantic_advantage, what says 通过; None where none weighs anything.
    doubts: why a person should look, empty when `summary_confidence` is ok.
    """

    verdict: str | None
    reason: str
    summary_confidence: str
    selected_candidate: int | None
    votes: dict[str, int]
    margin: float
    pass_share: float | None
    doubts: tuple[str, ...] = ()

    @property
    def confidence(self) -> float:
        """How sure a pass is: pass_share times the share of readable replies; an automatic pass needs it high."""
        readable = self.votes[PASS] + self.votes[FAIL]
        return (self.pass_share or 0.0) * readable / max(1, readable + self.votes[UNREADABLE])


def select(candidates: Sequence[Candidate], policy: str, tie_break: str = "semantic") -> Selection:
    """The verdict of a ticket by `policy`.

    majority: every readable candidate has one vote. weighted_vote: its vote weighs its semantic_advantage.
    top_semantic: the candidate with the highest semantic_advantage decides. A tie between the verdicts is a fail.
    """
    if policy not in POLICIES or tie_break not in TIE_BREAKS:
        raise ValueError(f"{policy!r} is none of {POLICIES}, or {tie_break!r} none of {TIE_BREAKS}")
    readable = [candidate for candidate in candidates if candidate.scores is not None]
    votes = _count(candidates)
    if not readable:
        why = "no candidate could be read" if candidates else "there is no candidate"
        return Selection(None, why, NEEDS_REVIEW, None, votes, 0.0, None, (why,))
    weight = {verdict: _weight(readable, verdict, policy) for verdict in (PASS, FAIL)}
    total = sum(weight.values())
    margin = abs(weight[PASS] - weight[FAIL]) / total if total else 0.0
    verdict = PASS if weight[PASS] > weight[FAIL] + _NEAR else FAIL
    speaker = _speaker([candidate for candidate in readable if candidate.verdict == verdict], tie_break)
    doubts = _doubts(speaker, votes, is_tie=abs(weight[PASS] - weight[FAIL]) <= _NEAR)
    return Selection(
        verdict,
        "the votes are tied" if speaker is None else speaker.reason,
        NEEDS_REVIEW if doubts else OK,
        None if speaker is None else speaker.index,
        votes,
        margin,
        _pass_share(readable),
        doubts,
    )


def _count(candidates: Sequence[Candidate]) -> dict[str, int]:
    said = [candidate.verdict for candidate in candidates]
    return {PASS: said.count(PASS), FAIL: said.count(FAIL), UNREADABLE: said.count(None)}


def _weight(readable: Sequence[Candidate], verdict: str, policy: str) -> float:
    """What a verdict weighs: its votes, or its best candidate where the top one decides."""
    mine = [candidate for candidate in readable if candidate.verdict == verdict]
    if policy == MAJORITY:
        return float(len(mine))
    return sum(map(_advantage, mine)) if policy == WEIGHTED_VOTE else max(map(_advantage, mine), default=0.0)


def _advantage(candidate: Candidate) -> float:
    assert candidate.scores is not None
    return candidate.scores.semantic_advantage


def _pass_share(readable: Sequence[Candidate]) -> float | None:
    weights = [_weight(readable, verdict, WEIGHTED_VOTE) for verdict in (PASS, FAIL)]
    return weights[0] / sum(weights) if sum(weights) else None


def _speaker(winners: Sequence[Candidate], tie_break: str) -> Candidate | None:
    if tie_break == "first":
        return min(winners, key=lambda candidate: candidate.index, default=None)
    return min(winners, key=lambda candidate: (-_advantage(candidate), candidate.index), default=None)


def _doubts(speaker: Candidate | None, votes: dict[str, int], is_tie: bool) -> tuple[str, ...]:
    doubts = ["the votes are tied"] if is_tie else []
    if speaker is not None and speaker.scores is not None and speaker.scores.summary_confidence == NEEDS_REVIEW:
        doubts.append("the summaries need a review")
    if votes[UNREADABLE] * 2 >= sum(votes.values()):
        doubts.append(f"{votes['unreadable']} of {sum(votes.values())} candidates cannot be read")
    return tuple(doubts)
