"""What `plumbline stage-b ...` does on the command line. Every function returns the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from plumbline.errors import EXIT_GATE, EXIT_OK, ConfigError, Problem, UserError
from plumbline.infer.verbs import progress_bar
from plumbline.stage_b import earlier_guidance
from plumbline.stage_b.audit import AUTOMATIC, CHECK, PERSON
from plumbline.stage_b.certify import calibrate as calibrate_run
from plumbline.stage_b.certify import read_certificate
from plumbline.stage_b.config import LoadedStageB, load_stage_b, read_missions
from plumbline.stage_b.decisions import with_corrected_labels
from plumbline.stage_b.edit_trial import Budget, try_edit
from plumbline.stage_b.effects import rule_effects
from plumbline.stage_b.engine import open_verdict_engine
from plumbline.stage_b.estimate import estimate, spent
from plumbline.stage_b.gate import ACCEPT
from plumbline.stage_b.guidance import Edit
from plumbline.stage_b.judging import AUDIT_SHARE, JudgeReport, judge_new, plan_new
from plumbline.stage_b.loop import MissionReport, figures_of, run_mission
from plumbline.stage_b.mission import MissionRun, open_mission, plan_missions
from plumbline.stage_b.mission_store import CALIBRATIONS, RESOLVED, SELECTIONS, TEST_USES
from plumbline.stage_b.rejudge import rejudge as rejudge_run
from plumbline.stage_b.risk import Certificate
from plumbline.stage_b.splits import SEALED
from plumbline.storage.files import write_atomically
from plumbline.storage.locks import locked
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import duration, next_command, printable, shown

SHOWN = 5


def run(config: Path, missions: Sequence[str], *, resume: bool, as_json: bool, dry_run: bool) -> int:
    """Mission after mission; the exit code is that of the worst of them."""
    loaded = load_stage_b(config)
    runs = _planned(loaded, missions)
    if dry_run:
        return _print_plans(runs, as_json=as_json)
    engine = cache(lambda: open_verdict_engine(loaded.run.engine))  # opened where there is something to ask
    budget = Budget.of(loaded.run.runner)
    reports = []
    for mission in runs:
        reports.append(_run_one(mission, loaded, engine, budget.reading(mission), resume=resume))
        if not as_json:
            _print_report(reports[-1])
            if reports[-1].exit_code == EXIT_OK:
                print(next_command("stage-b", "calibrate", mission.store.folder))
        if reports[-1].interrupted or reports[-1].over_budget:
            break
    if as_json:
        rows = [asdict(report) | {"exit_code": report.exit_code} for report in reports]
        print(json.dumps({"runs": rows}, ensure_ascii=False))
    return max(report.exit_code for report in reports)


def _run_one(mission: MissionRun, loaded: LoadedStageB, engine: Any, budget: Budget, *, resume: bool) -> MissionReport:
    _print_notes(mission)
    mission.store.folder.mkdir(parents=True, exist_ok=True)
    ways = len(loaded.run.sampler.grid) * loaded.run.sampler.samples_per_decode
    total = len(mission.data.tickets) * ways * loaded.run.runner.epochs
    with (
        locked(mission.store.folder / "run"),
        redirect_stdout(sys.stderr),
        progress_bar(printable(mission.data.mission), total) as advance,
    ):
        write_atomically(mission.store.folder / RESOLVED, loaded.resolved_yaml)
        report = run_mission(mission, engine, budget, resume=resume, progress=advance)
        report.prompt_tokens, report.price = spent(mission, report.calls, report.reply_tokens)
        return report


def _print_plans(runs: Sequence[MissionRun], *, as_json: bool) -> int:
    rows = [estimate(mission).as_dict() | {"notes": mission.data.notes(mission.config.splits)} for mission in runs]
    for mission in runs:
        _print_notes(mission)
    if as_json:
        print(json.dumps({"runs": rows}, ensure_ascii=False))
        return EXIT_OK
    for row in rows:
        print(
            f"{printable(row['mission'])}: {row['tickets']} tickets ({row['labels']}), {row['candidates']} candidates"
        )
        print(f"  {row['calls']:,} questions: about {row['prompt_tokens']:,} tokens to read", end="")
        print(f", at most {row['reply_tokens']:,} to write{_price(row['price'])}")
        if row["seconds"] is not None:
            print(f"  at least {duration(row['seconds'])} on this processor, no GPU")
        print(f"  writes {row['folder']}")
    return EXIT_OK


def _print_notes(mission: MissionRun) -> None:
    for note in mission.data.notes(mission.config.splits):
        print(f"note: {printable(mission.data.mission)}: {note}", file=sys.stderr)


def _price(price: float) -> str:
    return f", {price:,.2f} in money" if price else ""


def _print_report(report: MissionReport) -> None:
    for warning in report.warnings:
        print(f"note: {printable(warning)}", file=sys.stderr)
    for failure in report.failures[:SHOWN]:
        print(f"failed: {printable(failure)}", file=sys.stderr)
    if report.unreadable:
        print(f"failed: none of the replies could be read: {printable(report.unreadable)}", file=sys.stderr)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(report.statuses.items())) or "no rows"
    known = f", {report.cached} known replies" if report.cached else ""
    epochs = f"{report.epochs} epoch{'' if report.epochs == 1 else 's'}"
    print(f"{printable(report.mission)}: {epochs}, {counts}; {report.calls} questions now{known}")
    print(f"  about {report.prompt_tokens:,} tokens read, {report.reply_tokens:,} written", end="")
    print(f"{_price(report.price)}; {duration(report.seconds)}")
    print(f"  splits: {', '.join(f'{size} {split}' for split, size in report.splits.items())} (sealed)")
    for split, figures in report.summary.items():
        print(f"  {split}: {', '.join(f'{count} {name}' for name, count in figures.items())}")
    for decision in report.decisions:
        print(f"  {_edit_line(decision)}")
    print(f"  {report.folder}")
    if report.interrupted:
        print("interrupted between two rows: the same command goes on from here", file=sys.stderr)
    if report.over_budget:
        print("stopped by a limit of `runner` (max_...): the same command goes on", file=sys.stderr)


def _edit_line(decision: JsonObject) -> str:
    edit = decision["edit"]
    what = " ".join(filter(None, (edit["kind"], ", ".join(edit["targets"]), edit["text"])))
    needed = decision.get("tickets_needed")
    more = f"; about {needed} more gate tickets would decide" if needed else ""
    return f"{decision['outcome']}: {printable(what)}: {decision['why']}{more}"


def edit(config: Path, mission: str | None, change: Edit, *, as_json: bool) -> int:
    """Bring an edit before the gate; exit 4 where it is not accepted."""
    chosen, loaded = _one(config, mission)
    if unknown := chosen.data.uncited(change.evidence):
        what = f"{', '.join(map(shown, unknown))} is no ticket of {chosen.data.mission}"
        raise UserError(
            Problem("--evidence", what, "a group id such as QC-20231218-0012345, with /image_2 for a photo")
        )
    with locked(chosen.store.folder / "run"), redirect_stdout(sys.stderr):
        if chosen.store.guidance.read() is None:
            chosen.store.guidance.write(chosen.first_guidance())
        engine = cache(lambda: open_verdict_engine(loaded.run.engine))
        with progress_bar("gate", 0) as advance:
            budget = Budget.of(loaded.run.runner).reading(chosen)
            tried = try_edit(chosen, change, engine, budget, source="by hand", progress=advance)
    if tried.decision is None:
        print("stopped before the gate could decide: the same command goes on", file=sys.stderr)
        return max(report.exit_code for report in tried.reports)
    print(json.dumps(tried.decision, ensure_ascii=False) if as_json else _edit_line(tried.decision))
    return EXIT_OK if tried.decision["outcome"] == ACCEPT else EXIT_GATE


def import_guidance(
    source: Path, output: Path, mission: str | None, missions_file: Path | None, *, overwrite: bool
) -> int:
    """Write guidance files of today from one of an earlier version, and say what became of each text."""
    described = {} if missions_file is None else read_missions(missions_file)
    for found in earlier_guidance.import_guidance(source, output, described, mission, overwrite=overwrite):
        guidance = found.guidance
        print(f"{printable(guidance.mission)}: {len(guidance.rules)} rules, focus {printable(guidance.focus)!r}")
        print(f"  {', '.join(f'{printable(old)} -> {new}' for old, new in found.names.items())}")
        print(f"  wrote {found.path}; name it in guidance.path")
    return EXIT_OK


def effects(config: Path, mission: str | None, *, as_json: bool) -> int:
    """Measure what each rule does, one left out at a time."""
    chosen, loaded = _one(config, mission)
    with locked(chosen.store.folder / "run"), redirect_stdout(sys.stderr):
        engine = cache(lambda: open_verdict_engine(loaded.run.engine))
        with progress_bar("effects", 0) as advance:
            budget = Budget.of(loaded.run.runner).reading(chosen)
            found, tried = rule_effects(chosen, engine, budget, progress=advance)
    if found is None:
        print("stopped before every rule was measured: the same command goes on", file=sys.stderr)
        return max(report.exit_code for report in tried.reports)
    if as_json:
        print(json.dumps({"effects": [effect.as_dict() for effect in found]}, ensure_ascii=False))
        return EXIT_OK
    for effect in found:
        interval = f"{effect.effect:+.1%} ({effect.low:+.1%} to {effect.high:+.1%})"
        print(f"{effect.rule} {printable(effect.text)}")
        print(f"  {interval} of {effect.tickets} tickets right; gains {effect.gains}, costs {effect.costs}", end="")
        print(f", false passes {effect.false_passes:+d}")
    return EXIT_OK


def rollback(config: Path, mission: str | None, step: int, *, as_json: bool) -> int:
    """Make a snapshot current again."""
    chosen, _ = _one(config, mission)
    with locked(chosen.store.folder / "run"):
        now = chosen.store.guidance.roll_back(step)
    row = {"mission": now.mission, "step": now.step, "of_step": step, "guidance_hash": now.hash}
    print(json.dumps(row, ensure_ascii=False) if as_json else f"step {now.step} is step {step} again ({now.hash})")
    return EXIT_OK


def rejudge(config: Path, missions: Sequence[str], *, as_json: bool) -> int:
    """Score and select what was recorded; no model is called."""
    rows = []
    for mission in _planned(load_stage_b(config), missions):
        found = rejudge_run(mission)
        rows.append({"mission": mission.data.mission, **asdict(found), "output": str(found.output)})
        if not as_json:
            print(f"{found.output}: {found.tickets} verdicts, {len(found.changed)} are others than before")
            for key in found.changed[:SHOWN]:
                print(f"  {printable(key)}")
    if as_json:
        print(json.dumps({"runs": rows}, ensure_ascii=False))
    return EXIT_OK


def calibrate(config: Path, mission: str | None, max_false_pass: float, confidence: float, *, as_json: bool) -> int:
    """Choose the threshold of automatic passes; exit 4 where none can be certified."""
    for name, value in (("--max-false-pass", max_false_pass), ("--confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(Problem(name, f"{value:g} does not lie between 0 and 1"))
    chosen, _ = _one(config, mission)
    with locked(chosen.store.folder / "run"):
        found = calibrate_run(chosen, max_false_pass, confidence)
        looked = chosen.store.count_look(CALIBRATIONS)
    is_certified = isinstance(found, Certificate)
    if as_json:
        print(json.dumps({"certified": is_certified, **asdict(found), "looked": looked}, ensure_ascii=False))
    elif isinstance(found, Certificate):
        print(f"certified: passes with a confidence of {found.threshold:.4g} or more need no person")
        print(f"  with {confidence:.0%} certainty at most {found.bound:.2%} of them are fails ({found.errors} seen)")
        print(f"  coverage {found.coverage:.1%}, review load {found.review_load:.1%} of {found.n} calibration tickets")
        print(next_command("review", chosen.store.folder, "--image-root", "FOLDER_THAT_STAGE_A_READ"))
    else:
        print(f"not certified: {found.why}")
        print(
            f"  at least {found.tickets_needed} automatic passes without an error are needed for {max_false_pass:.2%}"
        )
    if looked > 1 and not as_json:
        print(
            f"  calibrated {looked} times on these tickets: each bound holds by itself, the best of several less surely"
        )
    return EXIT_OK if is_certified else EXIT_GATE


@dataclass(frozen=True)
class JudgeOptions:
    """Options of `plumbline stage-b judge`. name: of the folder; None: after the first file."""

    name: str | None = None
    mission: str | None = None
    audit_share: float = AUDIT_SHARE
    seed: int = 0


def judge(files: Sequence[Path], run: Path, options: JudgeOptions, *, as_json: bool, dry_run: bool) -> int:
    """Judge new tickets; exit 4 where nothing may pass by itself."""
    origin, _ = _one(run, options.mission)
    name = options.name or f"{origin.config.output.run}-{files[0].stem}"
    new = plan_new(origin, files, name, options.audit_share, options.seed)
    if dry_run:
        return _print_plans([new], as_json=as_json)
    total = len(new.data.tickets) * len(new.config.sampler.grid) * new.config.sampler.samples_per_decode
    engine = cache(lambda: open_verdict_engine(new.config.engine))
    new.store.folder.mkdir(parents=True, exist_ok=True)
    with (
        locked(new.store.folder / "run"),
        redirect_stdout(sys.stderr),
        progress_bar(printable(new.data.mission), total) as advance,
    ):
        report = judge_new(new, origin, engine, Budget.of(new.config.runner).reading(new), advance)
        report.run.prompt_tokens, report.run.price = spent(new, report.run.calls, report.run.reply_tokens)
    print(json.dumps(asdict(report), ensure_ascii=False)) if as_json else _print_judged(report)
    return report.run.exit_code or (EXIT_GATE if report.bound is None else EXIT_OK)


def _print_judged(report: JudgeReport) -> None:
    for failure in report.run.failures[:SHOWN]:
        print(f"failed: {printable(failure)}", file=sys.stderr)
    if report.run.interrupted or report.run.over_budget:
        print("stopped before every ticket was judged: the same command goes on", file=sys.stderr)
        return
    counts = report.outcomes
    print(f"{printable(report.mission)}: {sum(counts.values()):,} new tickets")
    if report.bound is None:
        print(f"  none passes by itself: {printable(report.why)}")
    else:
        passed = counts[AUTOMATIC] + counts[CHECK]
        print(f"  {passed:,} pass by themselves, at most {report.bound:.2%} of them fails;", end="")
        print(f" {counts[CHECK]:,} of them are drawn for a check")
    print(f"  {counts[PERSON]:,} wait for a person")
    print(next_command("review", report.folder, "--image-root", "FOLDER_THAT_STAGE_A_READ"))


def sealed_test(config: Path, mission: str | None, *, as_json: bool) -> int:
    """Open the sealed test once more; every look is counted, since each makes it a little less sealed."""
    chosen, _ = _one(config, mission)
    if not (chosen.store.folder / SELECTIONS).exists():
        raise UserError(
            Problem(str(chosen.store.folder), "has no verdicts yet", "run it first (plumbline stage-b run)")
        )
    with locked(chosen.store.folder / "run"):
        looked = chosen.store.count_look(TEST_USES)
    certificate, why = read_certificate(chosen)
    row: JsonObject = {
        "mission": chosen.data.mission,
        "looked": looked,
        "figures": figures_of(chosen, certificate)[SEALED],
        "certificate": why or "holds",
    }
    if as_json:
        print(json.dumps(row, ensure_ascii=False))
    else:
        print(f"{printable(chosen.data.mission)}: {', '.join(f'{n} {name}' for name, n in row['figures'].items())}")
        print(f"  the sealed test has been looked at {row['looked']} time(s); certificate: {row['certificate']}")
    return EXIT_OK


def _planned(loaded: LoadedStageB, missions: Sequence[str]) -> list[MissionRun]:
    """The runs with the labels as people have corrected them."""
    return [with_corrected_labels(run) for run in plan_missions(loaded.run, missions)]


def _one(config: Path, mission: str | None) -> tuple[MissionRun, LoadedStageB]:
    run, loaded = open_mission(config, mission)
    return with_corrected_labels(run), loaded
