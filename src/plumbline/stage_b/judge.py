"""Scores of a candidate, computed from texts alone: the same candidate always gets the same scores.

Two structures, so that selection is blind to labels by its types: `BlindScores` are what it may see, `LabelScores` are
reported with them and never select. A candidate without a readable verdict has no scores: not scored is not zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Annotated

from plumbline.config.limits import Range
from plumbline.data.summary_items import items_of
from plumbline.errors import ConfigError, Problem
from plumbline.stage_b.tickets import Ticket
from plumbline.stage_b.verdict import FAIL, VERDICT_OF_LABEL, Verdict
from plumbline.stage_b.wording import Wording, bigrams, holds, treats

OK = "ok"
NEEDS_REVIEW = "needs_review"
SHORTEST, LONGEST = 4, 200
"""Characters of a rationale that says something and can be read at a glance."""
COPIED = 0.8
_IMAGE = re.compile(r"(?:image_|图片?|第)\s*\d+")
_SQUEEZE = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class JudgeWeights:
    """What `semantic_advantage` is made of; each at least 0, together 1."""

    focus_consistency: Annotated[float, Range(ge=0)] = 0.3
    """The reason treats the terms of the focus and the rules."""
    evidence_support: Annotated[float, Range(ge=0)] = 0.25
    """What the reason names is in the summaries."""
    rationale_quality: Annotated[float, Range(ge=0)] = 0.15
    """The reason says something of its own and cites a photo or a summary."""
    heuristic_score: Annotated[float, Range(ge=0)] = 0.3
    """The verdict agrees with the words of the summaries."""

    def __post_init__(self) -> None:
        weights = astuple(self)
        if not all(weight >= 0 for weight in weights) or abs(sum(weights) - 1) > 1e-6:
            what = f"the weights are {', '.join(f'{weight:g}' for weight in weights)}"
            raise ConfigError(Problem("judge.weights", what, "each at least 0, together 1"))


@dataclass(frozen=True)
class BlindScores:
    """Scores that know no label; all in [0, 1]. semantic_advantage: the weighted sum that votes are weighed by."""

    focus_consistency: float
    heuristic_score: float
    summary_confidence: str
    semantic_advantage: float
    rationale_quality: float


@dataclass(frozen=True)
class LabelScores:
    """What the label says of a candidate: to be reported, never to select."""

    label_match: bool
    label_contradiction: bool
    needs_recheck: bool


@dataclass(frozen=True)
class Criteria:
    """What a reason should speak of, and what a fault must belong to.

    terms: phrases of the focus and the rules; fourgrams: of the same texts. kinds: of the things that the mission asks
    about, e.g. BBU安装螺丝; none: any thing.
    """

    terms: tuple[str, ...]
    fourgrams: frozenset[str]
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, focus: str, rules: Sequence[str] = (), wording: Wording | None = None, kinds: Sequence[str] = ()
    ) -> Criteria:
        """From the guidance's texts. kinds: given by the mission; without them those that the focus names."""
        texts, wording = (focus, *rules), wording or Wording()
        phrases = (phrase for text in texts for phrase in wording.phrases(text))
        fourgrams = frozenset().union(*map(_fourgrams, texts))
        return cls(tuple(dict.fromkeys(phrases)), fourgrams, tuple(kinds) or wording.kinds(focus))


@dataclass(frozen=True)
class Evidence:
    """What the summaries of a ticket say, read once for all its candidates.

    pairs: bigrams of all of them. silent: share of the images that say nothing, because they failed or every item of
    them is unsure. tells_fault: an item of the mission's kinds says that something does not comply. is_suspicious: a
    summary was flagged.
    """

    pairs: frozenset[str]
    silent: float
    names_fault: bool
    has_failed: bool
    is_suspicious: bool

    @classmethod
    def of(cls, ticket: Ticket, wording: Wording, kinds: Sequence[str] = ()) -> Evidence:
        """Read the summaries item by item. kinds: what a fault must belong to; none: anything."""
        photos = [items_of(text) for text in ticket.summaries.values()]
        sure = [[item for item in items if not holds(item.text, wording.unsure)] for items in photos]
        silent = sum(not items for items in sure)
        faults = (item for items in sure for item in items if wording.names_fault(item.text))
        has_fault = any(not kinds or item.is_about(kinds) for item in faults)
        return cls(
            frozenset().union(*(bigrams(item.text) for items in photos for item in items)),
            (silent + len(ticket.failed)) / len(ticket.images),
            has_fault,
            bool(ticket.failed),
            bool(ticket.flags),
        )


@dataclass(frozen=True)
class Judge:
    """Scores candidates under one guidance."""

    criteria: Criteria
    weights: JudgeWeights = field(default_factory=JudgeWeights)
    wording: Wording = field(default_factory=Wording)

    def evidence(self, ticket: Ticket) -> Evidence:
        return Evidence.of(ticket, self.wording, self.criteria.kinds)

    def score(self, said: Verdict, evidence: Evidence) -> BlindScores | None:
        """The scores of a readable candidate; None for another.

        semantic_advantage = w_f focus_consistency + w_e evidence_support + w_r rationale_quality + w_h heuristic_score
        """
        if said.verdict is None:
            return None
        focus = focus_consistency(said, self.criteria)
        support = evidence_support(said, evidence, self.wording)
        quality = rationale_quality(said, evidence, self.criteria, self.wording)
        heuristic = heuristic_score(said, evidence)
        weights = self.weights
        advantage = (
            weights.focus_consistency * focus
            + weights.evidence_support * support
            + weights.rationale_quality * quality
            + weights.heuristic_score * heuristic
        )
        return BlindScores(focus, heuristic, summary_confidence(evidence), min(1.0, advantage), quality)


def focus_consistency(said: Verdict, criteria: Criteria) -> float:
    """Share of the terms that the reason must treat and does.

    A pass claims that everything complies: treated / all. A fail is shown by one fault: 1 if a term is treated, else 0.
    Without terms there is nothing to miss: 1.
    """
    if not criteria.terms:
        return 1.0
    pairs = bigrams(said.reason)
    treated = sum(treats(term, pairs) for term in criteria.terms)
    return float(treated > 0) if said.verdict == FAIL else treated / len(criteria.terms)


def evidence_support(said: Verdict, evidence: Evidence, wording: Wording) -> float:
    """Share of the reason's phrases that the summaries support; 0 for a reason without a phrase.

    A phrase is supported when the summaries treat it. One that says that something is absent is supported as well when
    the summaries do not treat that thing.
    """
    phrases = wording.phrases(said.reason)
    supported = sum(_is_supported(phrase, evidence, wording) for phrase in phrases)
    return supported / len(phrases) if phrases else 0.0


def _is_supported(phrase: str, evidence: Evidence, wording: Wording) -> bool:
    if treats(phrase, evidence.pairs):
        return True
    thing = phrase
    for word in wording.absent:
        thing = thing.replace(word, "")
    return thing != phrase and not treats(thing, evidence.pairs)


def heuristic_score(said: Verdict, evidence: Evidence) -> float:
    """Whether the verdict agrees with the words of the summaries.

    (1 - silent) * agreement + silent / 2, where agreement is 1 for a fail with a reported fault or a pass without, else
    0: the more images are silent, the nearer to one half, which is no opinion.
    """
    agrees = evidence.names_fault == (said.verdict == FAIL)
    return (1 - evidence.silent) * agrees + evidence.silent / 2


def rationale_quality(said: Verdict, evidence: Evidence, criteria: Criteria, wording: Wording) -> float:
    """Mean of three checks: 4 to 200 characters; it cites an image or what a summary says; it is not a copy of the
    guidance (less than 80 % of its four-character pieces are there)."""
    is_bounded = SHORTEST <= len(said.reason) <= LONGEST
    phrases = wording.phrases(said.reason)
    cites = bool(_IMAGE.search(said.reason)) or any(treats(phrase, evidence.pairs) for phrase in phrases)
    pieces = _fourgrams(said.reason)
    is_own = not pieces or len(pieces & criteria.fourgrams) < COPIED * len(pieces)
    return (is_bounded + cites + is_own) / 3


def summary_confidence(evidence: Evidence) -> str:
    """`needs_review` when an image failed, half of them are silent, or a summary looks suspicious; else `ok`."""
    return NEEDS_REVIEW if evidence.has_failed or evidence.silent >= 0.5 or evidence.is_suspicious else OK


def label_scores(said: Verdict, label: str, scores: BlindScores) -> LabelScores:
    """What the label says of a scored candidate.

    label_contradiction: the verdict is another one and the evidence speaks for it (heuristic_score >= 0.5).
    needs_recheck: that, or the summaries need a review.
    """
    matches = said.verdict == VERDICT_OF_LABEL[label]
    contradicts = not matches and scores.heuristic_score >= 0.5
    return LabelScores(matches, contradicts, contradicts or scores.summary_confidence == NEEDS_REVIEW)


def _fourgrams(text: str) -> frozenset[str]:
    bare = _SQUEEZE.sub("", text)
    return frozenset(bare[place : place + 4] for place in range(len(bare) - 3))
