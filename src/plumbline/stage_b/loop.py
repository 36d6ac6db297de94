"""The loop of a mission: rollouts of every ticket, selection, reflection; epoch by epoch, and where it was stopped."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plumbline.errors import EXIT_BUDGET, EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK, DamagedFileError, Problem, UserError
from plumbline.infer.engine import Engine
from plumbline.infer.runner import RunReport, run_work
from plumbline.stage_b.certify import passes_by_itself, read_certificate
from plumbline.stage_b.edit_trial import Budget, try_edit
from plumbline.stage_b.guidance import Guidance, prompt_of
from plumbline.stage_b.mission import MissionRun
from plumbline.stage_b.mission_store import LOOKS, SELECTIONS, TRAJECTORIES
from plumbline.stage_b.mission_store import SPLITS as SPLITS_FILE
from plumbline.stage_b.reflection import propose
from plumbline.stage_b.results import write_selections
from plumbline.stage_b.risk import Certificate
from plumbline.stage_b.rollout import Items, Rollouts, candidates_of
from plumbline.stage_b.splits import SEALED, SPLITS
from plumbline.stage_b.verdict import PASS
from plumbline.storage.objects import JsonObject

Progress = Callable[[int], None]
log = logging.getLogger("plumbline.stage_b")


@dataclass
class MissionReport:
    """What a run did. calls: questions sent now; prompt_tokens: about how many they had, reply_tokens: of the replies;
    price: of both; decisions: of the edits that were tried now; splits: tickets in each; summary: figures per split,
    but the sealed one; errors: questions without a reply. unreadable: the most common reason, where no reply of the
    newest epoch could be read."""

    mission: str
    folder: str
    epochs: int = 0
    calls: int = 0
    cached: int = 0
    reply_tokens: int = 0
    prompt_tokens: int = 0
    price: float = 0.0
    splits: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    decisions: list[JsonObject] = field(default_factory=list)
    summary: JsonObject = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    errors: int = 0
    unreadable: str = ""
    interrupted: bool = False
    over_budget: bool = False

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.over_budget:
            return EXIT_BUDGET
        return EXIT_FINDINGS if self.errors or self.unreadable else EXIT_OK

    def add(self, report: RunReport) -> None:
        """Count a part of the run."""
        self.calls += report.written - report.cached
        self.cached += report.cached
        self.seconds += report.seconds
        self.errors += report.errors
        self.failures += report.failures
        self.warnings += report.warnings
        self.interrupted |= report.interrupted
        self.over_budget |= report.over_budget


def run_mission(
    run: MissionRun,
    engine: Callable[[], Engine],
    budget: Budget,
    *,
    resume: bool = True,
    progress: Progress = lambda count: None,
) -> MissionReport:
    """Bring the run folder to `runner.epochs` finished epochs.

    Raises UserError when another process writes to the folder, or its rows were made in another way.
    """
    report = MissionReport(run.data.mission, str(run.store.folder))
    if not resume:
        _start_anew(run)
    if run.store.guidance.read() is None:
        run.store.guidance.write(run.first_guidance())
    of = Counter(run.split_store.read().values())
    report.splits = {split: of[split] for split in SPLITS}
    report.warnings += run.split_store.notes()
    for epoch in range(1, run.config.runner.epochs + 1):
        if not run_epoch(run, epoch, engine, budget, report, progress):
            break
        report.epochs = epoch
        if run.config.reflection.enabled and not _reflect(run, epoch, engine, budget, report, progress):
            break
    report.summary = summarize(run)
    return report


def _start_anew(run: MissionRun) -> None:
    """Guidance, its snapshots and the edits that were tried stay: they are what was learned; and how often
    labels were looked at. UserError where tickets that it was learned from would fall into another split."""
    if run.store.edits() and run.split_store.is_drawn_otherwise():
        what = "its guidance was learned from the splits of another seed or other splits.shares"
        raise UserError(Problem(str(run.store.folder), what, "set them back, or name another output.run"))
    looks = _looks(run)
    for name in (TRAJECTORIES, SELECTIONS, SPLITS_FILE):
        (run.store.folder / name).unlink(missing_ok=True)
    for split in SPLITS:
        shutil.rmtree(run.store.folder / split, ignore_errors=True)
    run.store.write_state({"epochs": {}, "reflected": [], **looks})


def _looks(run: MissionRun) -> dict[str, int]:
    """How often labels were looked at; unknown where the state is damaged, which starting over mends."""
    try:
        state = run.store.read_state()
    except DamagedFileError:
        return dict.fromkeys(LOOKS, 0)
    return {name: int(state.get(name, 0)) for name in LOOKS}


def run_epoch(
    run: MissionRun,
    epoch: int,
    engine: Callable[[], Engine],
    budget: Budget,
    report: MissionReport,
    progress: Progress,
) -> bool:
    """Whether the epoch is whole. An epoch that was begun goes on with the guidance that it began with."""
    guidance = guidance_of_epoch(run, epoch)
    ways = candidates_of(run.config.sampler, run.config.seed, epoch)
    items = Items(run.data.shuffled(run.config.seed, epoch), ways, epoch)
    log.info("%s, epoch %d: %d candidates under guidance %s", run.data.mission, epoch, len(items), guidance.hash)
    log.debug("the guidance reads:\n%s", prompt_of(guidance))
    options = run.run_options(run.store.trajectories, resume=True, most=budget.most, ends=budget.ends)
    work = Rollouts(guidance, run.config.judge.weights, run.data.items)
    done = run_work(items, work, engine, options, run.identity, progress=progress)
    budget.spend(done.written - done.cached)
    report.add(done)
    report.unreadable = done.unreadable
    report.reply_tokens += work.reply_tokens
    report.statuses = {status: report.statuses.get(status, 0) + count for status, count in done.statuses.items()}
    if report.interrupted or report.over_budget:
        return False
    write_selections(run, epoch, is_changed=done.written > 0)
    return True


def guidance_of_epoch(run: MissionRun, epoch: int) -> Guidance:
    """The guidance that an epoch has, or begins with now."""
    state, current = run.store.read_state(), run.store.guidance.read()
    assert current is not None
    step = state["epochs"].get(str(epoch))
    if step is None:
        state["epochs"][str(epoch)] = current.step
        run.store.write_state(state)
        return current
    return current if step == current.step else run.store.guidance.snapshot(step)


def _reflect(
    run: MissionRun,
    epoch: int,
    engine: Callable[[], Engine],
    budget: Budget,
    report: MissionReport,
    progress: Progress,
) -> bool:
    """Let the model propose edits and the gate decide; False where the run was stopped."""
    state = run.store.read_state()
    if epoch in state["reflected"]:
        return True
    proposed, source = propose(run, engine, budget), f"reflection after epoch {epoch}"
    report.calls += proposed.calls
    report.reply_tokens += proposed.tokens
    if proposed.over_budget or proposed.failure:
        report.over_budget |= proposed.over_budget
        report.errors += bool(proposed.failure)
        report.failures += [f"{source}: {proposed.failure}"] if proposed.failure else []
        return False
    report.warnings += [f"{source}: {proposed.note}"] if proposed.note else []
    for edit in proposed.edits:
        outcome = try_edit(run, edit, engine, budget, source=source, progress=progress)
        for part in outcome.reports:
            report.add(part)
        if outcome.decision is None:
            return False
        log.info("edit %s: %s", edit.as_dict(), outcome.decision["outcome"])
        report.decisions.append(outcome.decision)
    state = run.store.read_state()
    run.store.write_state(state | {"reflected": [*state["reflected"], epoch]})
    return True


# ----------------------------------------------------------------------------------------------------------- figures
FIGURES = (
    "tickets",
    "right",
    "false_passes",
    "false_fails",
    "no_verdict",
    "needs_review",
    "automatic",
    "automatic_wrong",
)


def summarize(run: MissionRun) -> dict[str, dict[str, int]]:
    """How the newest verdicts agree with the labels, split by split; the sealed test is left out."""
    certificate, _ = read_certificate(run)
    figures = figures_of(run, certificate)
    return {split: figures[split] for split in SPLITS if split != SEALED}


def figures_of(run: MissionRun, certificate: Certificate | None) -> dict[str, dict[str, int]]:
    """Split -> counts over its tickets with a selection: right, false_passes, false_fails and no_verdict make them up.

    automatic: those that the certificate passes.
    """
    newest = {key: _flags(row, certificate) for key, row in run.store.selections()}
    split_of = run.split_store.read()
    figures = {split: dict.fromkeys(FIGURES, 0) for split in SPLITS}
    for head in run.data.tickets.heads():
        key, should = head.key, head.label == "pass"
        if key not in newest or key not in split_of:
            continue
        passes, needs_review, is_automatic = newest[key]
        flags = (
            True,
            passes is should,
            passes is True and not should,
            passes is False and should,
            passes is None,
            needs_review,
            is_automatic,
            is_automatic and not should,
        )
        mine = figures[split_of[key]]
        for name, counts in zip(FIGURES, flags, strict=True):
            mine[name] += counts
    return figures


def _flags(row: Mapping[str, Any], certificate: Certificate | None) -> tuple[bool | None, bool, bool]:
    """Whether a selection passes (None: it has no verdict), needs a review, passes by itself."""
    result = row["result"]
    passes = None if result["verdict"] is None else result["verdict"] == PASS
    return passes, result["summary_confidence"] != "ok", passes_by_itself(row, certificate)
