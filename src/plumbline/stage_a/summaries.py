"""The Stage-A run: a plan, one row per picture, and the rows gathered per ticket."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from plumbline.config.shipped import or_shipped
from plumbline.data.images import load_image
from plumbline.errors import ConfigError, Problem, UserError
from plumbline.infer.captions import read_end, read_summary
from plumbline.infer.engine import Engine, Reply, Request
from plumbline.infer.plan import answering, choose_mode, find_card, find_weights, run_options
from plumbline.infer.runner import (
    ERROR,
    INVALID,
    OK,
    Runner,
    RunOptions,
    RunReport,
    check_identity,
    check_ours,
    run_work,
)
from plumbline.model.checkpoints import CARD_FILE, Card
from plumbline.stage_a.config import PROMPTS, StageASettings
from plumbline.stage_a.tickets import Input, Photo, PhotoTicket, of_mission, read_input, sample_tickets
from plumbline.storage.files import write_lines
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_heads, read_rows

SUFFIX = "_stage_a.jsonl"


@dataclass(frozen=True)
class SummaryPlan:
    """What the run of one mission will do, known before any weight is loaded.

    mission: empty where the input has no tickets and none was named; focus: the mission's part of the question;
    found: its photos and tickets; done: statuses of the rows that are there.
    """

    settings: StageASettings
    model: Path
    adapter: Path | None
    card: Card
    mission: str
    focus: str
    found: Input
    done: Counter[str] = field(default_factory=Counter)

    @property
    def gathered(self) -> Path:
        """The file of tickets, or of summaries."""
        output = self.settings.output
        if output.suffix == ".jsonl":
            return output
        return output / (f"{self.mission}{SUFFIX}" if self.found.tickets else "summaries.jsonl")

    @property
    def run_options(self) -> RunOptions:
        return run_options(self.settings, self.gathered.with_name(f"{self.gathered.stem}.rows.jsonl"))

    @property
    def identity(self) -> JsonObject:
        """What makes rows comparable."""
        return answering(self.settings, self.model, self.adapter, self.card) | {"prompt": self.focus}

    @property
    def todo(self) -> int:
        """Pictures of this shard without a row."""
        return len(self.run_options.own(self.found.photos)) - self.done.total()

    def as_dict(self) -> JsonObject:
        """Plain values for JSON."""
        return {
            "mission": self.mission,
            "model": str(self.model),
            "adapter": None if self.adapter is None else str(self.adapter),
            "images": len(self.found.photos),
            "todo": self.todo,
            "tickets": dict(Counter(ticket.label or "new" for ticket in self.found.tickets)),
            "output": str(self.gathered),
        }


def plan_summaries(settings: StageASettings) -> tuple[list[SummaryPlan], list[str]]:
    """(a plan per mission, what the user should know).

    Raises UserError; touches no file, loads no weights.
    """
    known = known_missions(settings.prompts)
    found = read_input(settings.input, settings.missions, settings.image_roots, settings.image_url_allow, known)
    missions = list(dict.fromkeys(photo.mission for photo in found.photos))
    _check_missions(settings, found, missions)
    focus = {mission: mission_prompt(settings.prompts, mission) if mission else "" for mission in missions}
    found = sample_tickets(found, settings.groups, settings.seed)
    model, adapter, weight_notes = find_weights(settings.model, settings.adapter)
    folder = adapter or model
    card, card_notes = find_card(folder, None if (folder / CARD_FILE).exists() else "norm1000")
    choose_mode(card, "summary")
    notes = [*found.notes, *weight_notes, *card_notes]
    plans = []
    for mission in missions:
        plan = SummaryPlan(settings, model, adapter, card, mission, focus[mission], of_mission(found, mission))
        plans.append(_with_earlier_rows(plan, notes))
    return plans, notes


def _with_earlier_rows(plan: SummaryPlan, notes: list[str]) -> SummaryPlan:
    rows = plan.run_options.rows_path
    check_ours(rows)
    if not (plan.settings.resume and rows.exists()):
        return plan
    check_identity(rows, plan.identity)
    mine = {photo.key for photo in plan.run_options.own(plan.found.photos)}
    done = Counter(status for key, status in read_heads(rows) if key in mine and not status.startswith(ERROR))
    notes.append(f"resuming {rows}: {done.total()} of {len(mine)} pictures are done")
    return replace(plan, done=done)


def mission_prompt(folder: Path, mission: str) -> str:
    """The text of a mission; ConfigError for one that has none, naming those that have."""
    known = known_missions(folder)
    folder = or_shipped(folder, PROMPTS)
    path = folder / f"{mission}.txt"
    if mission not in known:
        what = f"the mission {mission!r} has no prompt in {folder}"
        fix = (
            f"one of {', '.join(known)}, or write {path}" if known else f"write {path}, or name the folder (--prompts)"
        )
        raise ConfigError(Problem("--mission", what, fix))
    text = path.read_text(encoding="utf-8").strip()
    if not text:
        raise ConfigError(Problem(str(path), "is empty", "say what the summary must contain for this mission"))
    return text


def known_missions(folder: Path) -> list[str]:
    """The missions that have a prompt there."""
    folder = or_shipped(folder, PROMPTS)
    return sorted(file.stem for file in folder.glob("*.txt")) if folder.is_dir() else []


def _check_missions(settings: StageASettings, found: Input, missions: Sequence[str]) -> None:
    output = settings.output
    if settings.missions and found.tickets and (unseen := [m for m in settings.missions if m not in missions]):
        what = f"{settings.input} holds no ticket of {', '.join(unseen)}"
        raise ConfigError(Problem("--mission", what, f"it has {', '.join(missions) or 'none of those named'}"))
    if not found.photos:
        for mission in settings.missions:
            mission_prompt(settings.prompts, mission)
        what = "there is no ticket with a picture in it"
        raise UserError(
            Problem(
                str(settings.input), what, "expected mission/审核通过|审核不通过/group/*.jpg, or mission/group/*.jpg"
            )
        )
    if not found.tickets and len(settings.missions) > 1:
        raise ConfigError(Problem("--mission", "several missions for an input without tickets", "name one of them"))
    if output.suffix == ".jsonl" and len(missions) > 1:
        raise ConfigError(Problem("--output", f"{output} is one file, the input has several missions", "name a folder"))
    if output.suffix != ".jsonl" and output.is_file():
        raise ConfigError(
            Problem("--output", f"{output} is a file", "name a folder, or a new file that ends in .jsonl")
        )


class Summaries:
    """One row per picture: `{key, status, mission, label, group_id, summary, problems}`."""

    def __init__(self, plan: SummaryPlan):
        self.plan = plan
        self._system, self._user = plan.card.prompts.of_mode("summary")

    def ask(self, photo: Photo) -> Request:
        user = with_focus(self._user, self.plan.focus)
        return Request(photo.key, (load_image(photo.item.path()),), self._system, user, self.plan.settings.sampling)

    def row(self, photo: Photo, request: Request | None, reply: Reply) -> Mapping[str, Any]:
        summary, status, problems = read_reply(reply)
        ticket = photo.ticket
        where = (
            {} if ticket is None else {"mission": ticket.mission, "label": ticket.label, "group_id": ticket.group_id}
        )
        return {"key": photo.key, "status": status, **where, "summary": summary, "problems": problems}


def with_focus(user: str, focus: str) -> str:
    """The question with the mission's part behind it; not again where the model was trained with it."""
    return user if user.endswith(focus) else f"{user}\n{focus}"


def read_reply(reply: Reply) -> tuple[str, str, list[str]]:
    """(summary, status, problems) of a reply; the summary of one that is not whole is kept as it came."""
    if reply.error:
        return "", f"{ERROR}{reply.error}", [reply.detail or reply.error]
    problems = list(read_summary(reply) or read_end(reply))
    return reply.text.strip(), INVALID if problems else OK, problems


def run_summaries(
    plan: SummaryPlan,
    engine: Callable[[], Engine],
    progress: Callable[[int], None] = lambda count: None,
    runner: Runner | None = None,
) -> RunReport:
    """Summarise the pictures of the plan and gather what is there; a shard gathers nothing."""
    work, options = Summaries(plan), plan.run_options
    report = run_work(plan.found.photos, work, engine, options, plan.identity, progress=progress, runner=runner)
    report.needs_all = not plan.found.tickets  # a ticket names what failed, and Stage-B judges without it
    if plan.settings.shard is None:
        gather(plan)
    return report


def gather(plan: SummaryPlan) -> None:
    """Write the file of the plan from the rows: tickets of which every picture has a row, or a line per picture."""
    path = plan.run_options.rows_path
    rows = {row["key"]: row for row in read_rows(path)} if path.exists() else {}
    lines: Iterable[Mapping[str, Any]]
    if plan.found.tickets:
        lines = _whole(plan.found.tickets, rows)
    else:
        lines = (_flat(rows[photo.key]) for photo in plan.found.photos if photo.key in rows)
    write_lines(plan.gathered, (json.dumps(line, ensure_ascii=False) for line in lines))


def _flat(row: Mapping[str, Any]) -> dict[str, str]:
    """The line of a picture outside of tickets; `failed` says why one has no summary."""
    name = PurePosixPath(row["key"]).with_suffix("").as_posix()
    if row["status"] == OK:
        return {"image_id": name, "summary": row["summary"]}
    return {"image_id": name, "summary": "", "failed": "; ".join(row["problems"])}


def _whole(tickets: Iterable[PhotoTicket], rows: Mapping[str, Mapping[str, Any]]) -> Iterator[JsonObject]:
    for ticket in tickets:
        if all(image in rows for image in ticket.images):
            yield ticket_row(ticket, [rows[image] for image in ticket.images])


def ticket_row(ticket: PhotoTicket, rows: Sequence[Mapping[str, Any]]) -> JsonObject:
    """A ticket as Stage-B reads it. rows: of its pictures, in their order; `image_n` is the n-th of them."""
    named = {f"image_{number}": row for number, row in enumerate(rows, 1)}
    return {
        "group_id": ticket.group_id,
        "mission": ticket.mission,
        **({"label": ticket.label} if ticket.label else {}),
        "images": list(ticket.images),
        "per_image": {name: row["summary"] for name, row in named.items() if row["status"] == OK},
        "failed": {name: "; ".join(row["problems"]) for name, row in named.items() if row["status"] != OK},
    }
