"""A simulation, for statistics and tests: made tickets with a known truth, and an engine that only pretends to read.

Nothing here says how well a real model judges. It gives what a statistical claim is tested on: tickets whose truth is
known, labels of which some are wrong, cases that are hard, and replies that err as votes of one model do, together on
the same tickets.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from plumbline.data.keyed import keyed_generator
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Reply, Request
from plumbline.stage_b.gate import Counts
from plumbline.stage_b.judge import Criteria, Judge
from plumbline.stage_b.rollout import SUMMARIES, question
from plumbline.stage_b.selection import WEIGHTED_VOTE, Candidate, Selection, select
from plumbline.stage_b.tickets import Ticket
from plumbline.stage_b.verdict import FAIL, PASS, read_verdict

MISSION = "BBU接地线检查"
FOCUS = "机柜处接地螺丝和地排处接地螺丝符合要求，电线捆扎整齐"
RULE = "旧标签的缺失不影响结论"
"""What a pass that is hard to see takes; the simulated model errs on it without the rule."""
_PARTS = ("机柜处接地螺丝", "地排处接地螺丝", "电线")
_GOOD = ("符合要求", "符合要求", "捆扎整齐")
_FAULTS = ("不符合要求,未拧紧", "不符合要求,露铜", "分布散乱")
_FAINT = "略偏"
_DISTRACTOR = "旧标签/缺失×1"


@dataclass(frozen=True)
class SimulatedTicket:
    """A ticket and what is so: its label may say otherwise. is_hard: the fault is faint, or a thing that plays no part
    is at fault."""

    ticket: Ticket
    truth: str
    is_hard: bool


def simulate_tickets(count: int, seed: int, label_noise: float = 0.0, hard: float = 0.2) -> list[SimulatedTicket]:
    """Tickets of three photos each, half of them fails. label_noise: share of labels that are flipped."""
    return [_ticket(number, seed, label_noise, hard) for number in range(count)]


def _ticket(number: int, seed: int, label_noise: float, hard: float) -> SimulatedTicket:
    rng = keyed_generator(seed, 0, number, "simulated ticket")
    is_fail, is_hard, is_flipped = rng.random() < 0.5, rng.random() < hard, rng.random() < label_noise
    texts = [f"{part}/{good}×{1 + rng.integers(3)}" for part, good in zip(_PARTS, _GOOD, strict=True)]
    if is_fail:
        place = int(rng.integers(len(_PARTS)))
        texts[place] = f"{_PARTS[place]}/{_FAINT if is_hard else _FAULTS[place]}×1"
    elif is_hard:
        texts[int(rng.integers(len(texts)))] += f"，{_DISTRACTOR}"
    summaries = {f"image_{place}": text for place, text in enumerate(texts, 1)}
    images = tuple(f"{number}/{place}.jpg" for place in range(len(texts)))
    label = "fail" if is_fail != is_flipped else "pass"
    group = f"SIM-{seed}-{number:06d}"
    ticket = Ticket(group, MISSION, label, images, MappingProxyType(summaries), MappingProxyType({}))
    return SimulatedTicket(ticket, "fail" if is_fail else "pass", is_hard)


def simulated_requests(ticket: Ticket, candidates: int, rules: Sequence[str] = ()) -> list[Request]:
    """A question per candidate: the guidance as the system's part, the summaries as JSON."""
    system = "\n".join((FOCUS, *rules))
    user = question(ticket)
    return [
        Request(f"{ticket.group_id}/{index}", (), system, user, Sampling(128, temperature=1.0, seed=index))
        for index in range(candidates)
    ]


@dataclass(frozen=True)
class SimulatedModel:
    """An engine that looks for words in the summaries and errs: a simulation, not a model.

    miss: chance that a reply misjudges an easy ticket. spread: standard deviation, in log-odds, of what all replies on
    a ticket share. malformed: share of replies that cannot be read.
    """

    seed: int = 0
    miss: float = 0.05
    spread: float = 1.0
    malformed: float = 0.02

    @property
    def identity(self) -> str:
        return f"simulation {self}"

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """In the order of the requests."""
        return (Reply(request.key, self._answer(request), 24) for request in requests)

    def _answer(self, request: Request) -> str:
        shared = keyed_generator(self.seed, 0, _number(request.user), "simulated reading")
        own = keyed_generator(self.seed, request.sampling.seed or 0, _number(request.key), "simulated reply")
        odds = self._log_odds(request) + self.spread * shared.standard_normal()
        says_fail = own.random() < 1 / (1 + math.exp(-odds))
        if own.random() < self.malformed:
            return f"我认为结论是{FAIL if says_fail else PASS}"
        return _reply(request.user, says_fail)

    def _log_odds(self, request: Request) -> float:
        """Of saying fail."""
        easy = math.log((1 - self.miss) / self.miss)
        if any(fault in request.user for fault in _FAULTS):
            return easy
        if _FAINT in request.user:
            return easy / 3
        if _DISTRACTOR in request.user and RULE not in request.system:
            return easy / 6
        return -easy


def _reply(user: str, says_fail: bool) -> str:
    if not says_fail:
        return f"{PASS}\n理由: {_PARTS[0]}和{_PARTS[1]}符合要求，电线捆扎整齐"
    seen = [text.rsplit("×", 1)[0] for text in json.loads(user)[SUMMARIES].values()]
    faulty = [text for text in seen if text.split("/")[1] not in _GOOD]
    return f"{FAIL}\n理由: {faulty[0] if faulty else f'{_PARTS[0]}未拧紧'}"


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


def simulate_votes(
    tickets: Sequence[SimulatedTicket], model: SimulatedModel, candidates: int, rules: Sequence[str] = ()
) -> list[Selection]:
    """The selection of each ticket, by weighted votes: requested, read, scored and selected as in a run."""
    judge = Judge(Criteria.of(FOCUS, rules))
    return [_selection(made.ticket, model, judge, candidates, rules) for made in tickets]


def _selection(ticket: Ticket, model: SimulatedModel, judge: Judge, candidates: int, rules: Sequence[str]) -> Selection:
    evidence = judge.evidence(ticket)
    read = [read_verdict(reply.text) for reply in model.stream(simulated_requests(ticket, candidates, rules))]
    scored = [
        Candidate(index, said.verdict, said.reason, judge.score(said, evidence)) for index, said in enumerate(read)
    ]
    return select(scored, WEIGHTED_VOTE)


@dataclass(frozen=True)
class EditEffect:
    """What an edit of the guidance does, as shares of all true passes and of all true fails."""

    fixes_passes: float
    breaks_passes: float
    fixes_fails: float
    breaks_fails: float


def simulate_edit(rng: np.random.Generator, is_fail: np.ndarray, was_right: np.ndarray, effect: EditEffect) -> Counts:
    """One edit on gate tickets: wrong ones are fixed and right ones broken with the odds that give those shares."""
    is_right = was_right.copy()
    for of_fails, fixes, breaks in (
        (False, effect.fixes_passes, effect.breaks_passes),
        (True, effect.fixes_fails, effect.breaks_fails),
    ):
        mine = is_fail == of_fails
        for flips, share in ((mine & ~was_right, fixes), (mine & was_right, breaks)):
            chance = min(1.0, share * mine.sum() / max(1, flips.sum()))
            is_right ^= flips & (rng.random(len(is_fail)) < chance)
    return Counts.of(is_fail, was_right, is_right)
