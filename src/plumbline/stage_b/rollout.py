"""Rollouts: each ticket's candidates from a sampler's grid, requested, read, scored and written as one row each."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

from plumbline.infer.captions import read_end
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Reply, Request
from plumbline.infer.runner import ERROR, INVALID, OK
from plumbline.stage_b.config import SamplerConfig, StageBConfig, sampling_of
from plumbline.stage_b.guidance import Guidance, Rule, now, prompt_of
from plumbline.stage_b.judge import NEEDS_REVIEW, BlindScores, Criteria, Evidence, Judge, JudgeWeights, label_scores
from plumbline.stage_b.selection import UNREADABLE, Candidate, select
from plumbline.stage_b.tickets import Ticket, Tickets
from plumbline.stage_b.verdict import Verdict, read_verdict
from plumbline.storage.objects import JsonObject

SUMMARIES = "照片摘要"
_OF_LABEL = ("label_match", "label_contradiction", "needs_recheck")
KEPT_EVIDENCE = 256
"""Tickets whose evidence is at hand: candidates of one ticket come close together."""


@dataclass(frozen=True, slots=True)
class VerdictItem:
    """One candidate to ask for."""

    ticket: Ticket
    epoch: int
    index: int
    sampling: Sampling

    @property
    def key(self) -> str:
        return f"{self.ticket.key}/e{self.epoch}/c{self.index}"


def candidates_of(sampler: SamplerConfig, seed: int, epoch: int) -> list[Sampling]:
    """How each candidate of a ticket is decoded; a sample's seed differs from sample to sample and epoch to epoch."""
    samples = sampler.samples_per_decode
    return [
        sampling_of(decode, (seed if decode.seed is None else decode.seed) + (epoch - 1) * samples + sample)
        for decode in sampler.grid
        for sample in range(samples)
    ]


@dataclass(frozen=True)
class Items(Sequence[VerdictItem]):
    """Every candidate of an epoch, those of a ticket next to each other; made on access."""

    tickets: Tickets
    ways: Sequence[Sampling]
    epoch: int

    def __len__(self) -> int:
        return len(self.tickets) * len(self.ways)

    def __iter__(self) -> Iterator[VerdictItem]:
        for ticket in self.tickets:
            for index, way in enumerate(self.ways):
                yield VerdictItem(ticket, self.epoch, index, way)

    @overload
    def __getitem__(self, place: int) -> VerdictItem: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[VerdictItem]: ...

    def __getitem__(self, place: int | slice) -> VerdictItem | Sequence[VerdictItem]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        ticket, index = divmod(range(len(self))[place], len(self.ways))
        return VerdictItem(self.tickets[ticket], self.epoch, index, self.ways[index])


class Rollouts:
    """The work of one guidance: question, row. reply_tokens: of the rows made so far."""

    def __init__(self, guidance: Guidance, weights: JudgeWeights, items: Sequence[str] = ()):
        self.guidance_hash = guidance.hash
        self.judge = judge_of(guidance, weights, items)
        self._system = prompt_of(guidance)
        self._evidence: OrderedDict[str, Evidence] = OrderedDict()
        self.reply_tokens = 0

    def ask(self, item: VerdictItem) -> Request:
        return Request(item.key, (), self._system, question(item.ticket), item.sampling)

    def row(self, item: VerdictItem, request: Request | None, reply: Reply) -> Mapping[str, Any]:
        said, status = read_reply(reply)
        self.reply_tokens += reply.tokens
        ticket, sampling = item.ticket, item.sampling
        result = {
            "candidate_index": item.index,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
            "seed": sampling.seed,
            "text": reply.text,
            "verdict": said.verdict,
            "reason": said.reason if said.format_ok else "; ".join(said.problems),
            "format_ok": said.format_ok,
            "created_at": now(),
            "scores": scores_of(said, ticket.label, self.judge, self._evidence_of(ticket)),
        }
        where = {"group_id": ticket.group_id, "mission": ticket.mission, "epoch": item.epoch}
        return {"key": item.key, "status": status, "guidance_hash": self.guidance_hash, **where, "result": result}

    def _evidence_of(self, ticket: Ticket) -> Evidence:
        found = self._evidence.get(ticket.key)
        if found is None:
            found = self._evidence[ticket.key] = self.judge.evidence(ticket)
            if len(self._evidence) > KEPT_EVIDENCE:
                self._evidence.popitem(last=False)
        return found


def judge_of(guidance: Guidance, weights: JudgeWeights, items: Sequence[str] = ()) -> Judge:
    """The judge under a guidance. items: kinds of things that the mission asks about, where its file names them."""
    return Judge(Criteria.of(guidance.focus, [rule.text for rule in guidance.rules], kinds=items), weights)


def question(ticket: Ticket) -> str:
    """The summaries as JSON: data, never instructions. Pictures without one are named."""
    content: JsonObject = {SUMMARIES: dict(ticket.summaries)}
    if ticket.failed:
        content["没有摘要的照片"] = sorted(ticket.failed)
    return json.dumps(content, ensure_ascii=False, indent=0)


def read_reply(reply: Reply) -> tuple[Verdict, str]:
    """(verdict, status): a reply that was stopped or cannot be read is no verdict."""
    if reply.error:
        return Verdict(None, problems=(reply.detail or reply.error,)), f"{ERROR}{reply.error}"
    if problems := read_end(reply):
        return Verdict(None, problems=problems), INVALID
    said = read_verdict(reply.text)
    return said, OK if said.format_ok else INVALID


def scores_of(said: Verdict, label: str, judge: Judge, evidence: Evidence) -> JsonObject | None:
    """All scores under the names of the trajectories; None where there is no verdict to score.

    Those that compare with the label are None for a ticket without one.
    """
    blind = judge.score(said, evidence)
    if blind is None:
        return None
    with_label = asdict(label_scores(said, label, blind)) if label else dict.fromkeys(_OF_LABEL)
    return {
        "label_match": with_label["label_match"],
        "focus_consistency": blind.focus_consistency,
        "heuristic_score": blind.heuristic_score,
        "summary_confidence": blind.summary_confidence,
        "semantic_advantage": blind.semantic_advantage,
        "label_contradiction": with_label["label_contradiction"],
        "needs_recheck": with_label["needs_recheck"],
        "rationale_quality": blind.rationale_quality,
    }


def candidate_of(row: Mapping[str, Any]) -> Candidate:
    """A trajectory as selection sees it: without anything that knows the label."""
    result = row["result"]
    scores = result["scores"]
    blind = (
        None
        if scores is None
        else BlindScores(
            scores["focus_consistency"],
            scores["heuristic_score"],
            scores["summary_confidence"],
            scores["semantic_advantage"],
            scores["rationale_quality"],
        )
    )
    return Candidate(result["candidate_index"], result["verdict"], result["reason"], blind)


def selections(rows: Iterator[Mapping[str, Any]], config: StageBConfig) -> Iterator[JsonObject]:
    """A row per ticket of which all candidates are there, in the order in which they became so."""
    count = len(candidates_of(config.sampler, config.seed, 1))
    waiting: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        ticket = row["key"].rpartition("/c")[0]
        have = waiting.setdefault(ticket, [])
        have.append(row)
        if len(have) == count:
            yield selection_row(ticket, waiting.pop(ticket), config)


def selection_row(key: str, rows: Sequence[Mapping[str, Any]], config: StageBConfig) -> JsonObject:
    """The verdict of a ticket in an epoch (`key`), from its trajectories."""
    candidates = sorted(map(candidate_of, rows), key=lambda candidate: candidate.index)
    chosen = select(candidates, config.selection.policy, config.selection.tie_break)
    confidence, doubts = chosen.summary_confidence, list(chosen.doubts)
    if chosen.votes[UNREADABLE] and not config.sampler.format_filter and confidence == OK:
        confidence = NEEDS_REVIEW
        doubts.append("a candidate cannot be read")
    return {
        "key": key,
        "status": INVALID if chosen.verdict is None else OK,
        "guidance_hash": rows[0]["guidance_hash"],
        "group_id": rows[0]["group_id"],
        "mission": rows[0]["mission"],
        "result": {
            "epoch": rows[0]["epoch"],
            "verdict": chosen.verdict,
            "reason": chosen.reason,
            "summary_confidence": confidence,
            "selected_candidate": chosen.selected_candidate,
            "votes": chosen.votes,
            "margin": round(chosen.margin, 6),
            "confidence": round(chosen.confidence, 6),
            "pass_share": None if chosen.pass_share is None else round(chosen.pass_share, 6),
            "doubts": doubts,
        },
    }


def prompts_hash() -> str:
    """Of what every question has in common: a bound that was measured with another one is void."""
    guidance = Guidance(1, "", 0, "", "", (Rule("R1", ""),), ("",))
    ticket = Ticket("", "", "", ("", ""), {"image_1": ""}, {"image_2": ""})
    return hashlib.sha256(f"{prompt_of(guidance)}\n{question(ticket)}".encode()).hexdigest()[:16]
