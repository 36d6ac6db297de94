"""The threshold of automatic passes: chosen on the calibration split, invalidated when any of its inputs changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from plumbline.errors import DamagedFileError, Problem, UserError
from plumbline.stage_b.audit import read_audits
from plumbline.stage_b.decisions import with_corrected_labels
from plumbline.stage_b.engine import who_answers
from plumbline.stage_b.judge import OK
from plumbline.stage_b.mission import MissionRun, open_mission
from plumbline.stage_b.mission_store import CERTIFICATE
from plumbline.stage_b.new_tickets import NewTickets
from plumbline.stage_b.results import check_verdicts
from plumbline.stage_b.risk import Certificate, Infeasible, Setting, choose_threshold
from plumbline.stage_b.rollout import prompts_hash
from plumbline.stage_b.shift import read_shifts
from plumbline.stage_b.verdict import PASS
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import read_json_object


def calibrate(run: MissionRun, max_false_pass: float, confidence: float) -> Certificate | Infeasible:
    """Choose and keep the threshold. Raises UserError where the newest verdicts are not those of this guidance
    and configuration."""
    check_verdicts(run)
    tickets = run.of_split("calibration")
    rows = run.store.latest_selections(tickets)
    setting = setting_of(run)
    stale = sum(row["guidance_hash"] != setting.guidance_hash for row in rows.values())
    if len(rows) < len(tickets) or stale:
        what = f"{len(tickets) - len(rows)} calibration tickets have no verdict, {stale} one of another guidance"
        raise UserError(Problem(str(run.store.folder), what, "run one more epoch (runner.epochs) with this guidance"))
    scores = [auto_score(rows[head.key]) for head in tickets.heads()]
    is_fail = [head.label == "fail" for head in tickets.heads()]
    found = choose_threshold(scores, is_fail, max_false_pass, confidence, setting)
    path = run.store.folder / CERTIFICATE
    if isinstance(found, Certificate):
        write_atomically(path, json.dumps(asdict(found), ensure_ascii=False, indent=1) + "\n")
    else:
        path.unlink(missing_ok=True)  # an older one was measured on other verdicts
    return found


def auto_score(row: Mapping[str, Any]) -> float:
    """How much speaks for an automatic pass of a selection: its confidence; nothing where a person must look anyway."""
    result = row["result"]
    if result["verdict"] != PASS or result["summary_confidence"] != OK:
        return 0.0
    return float(result["confidence"])


def setting_of(run: MissionRun) -> Setting:
    """What the verdicts are made with now."""
    guidance = run.store.guidance.read()
    if guidance is None:
        raise UserError(Problem(str(run.store.folder), "has no guidance yet", "run it first (plumbline stage-b run)"))
    config = run.config
    facts = {**who_answers(config.engine), "sampler": asdict(config.sampler), "selection": asdict(config.selection)}
    facts |= {"weights": asdict(config.judge.weights), "items": run.data.items}
    facts["labels"] = run.of_split("calibration").digest()  # a corrected one speaks against a bound on the old one
    return Setting(guidance.hash, json.dumps(facts, ensure_ascii=False, sort_keys=True), prompts_hash())


def read_certificate(run: MissionRun) -> tuple[Certificate | None, str]:
    """(the certificate that holds now, why there is none).

    New tickets have that of their run, unless they are unlike its calibration tickets. People's checks of automatic
    passes may speak against a certificate; then it is void.
    """
    if run.new is not None:
        return _certificate_of_new(run, run.new)
    path = run.store.folder / CERTIFICATE
    if not path.exists():
        return None, "no threshold is certified (plumbline stage-b calibrate)"
    content = read_json_object(path)
    try:
        found = Certificate(**{**content, "setting": Setting(**content["setting"])})
    except (TypeError, KeyError) as error:
        raise DamagedFileError(Problem(str(path), f"is no certificate: {error}", "calibrate again")) from error
    if not found.holds_for(setting_of(run)):
        return None, "the certificate is void: the guidance, the model, the prompts or the labels have changed since"
    audits = read_audits(run.store.folder, found.digest, found.max_false_pass)
    if audits.e_value >= 1 / (1 - found.confidence):
        what = f"{audits.errors} of {audits.checked} checked automatic passes are fails"
        return None, f"the certificate is void: {what} (e-value {audits.e_value:.3g}); calibrate with these tickets too"
    return found, ""


def _certificate_of_new(run: MissionRun, new: NewTickets) -> tuple[Certificate | None, str]:
    origin = with_corrected_labels(open_mission(new.origin, None)[0])
    found, why = read_certificate(origin)
    if found is None:
        return None, why
    if new.certificate != found.digest:
        return None, "the tickets were judged under another certificate (plumbline stage-b judge again)"
    shifts = read_shifts(run.store.folder)
    if shifts:
        return None, f"the tickets are unlike those of the calibration: {'; '.join(map(str, shifts))}"
    return found, ""


def passes_by_itself(row: Mapping[str, Any], certificate: Certificate | None) -> bool:
    """Whether a selection needs no person: a pass whose score reaches the certified threshold."""
    score = auto_score(row)
    return certificate is not None and score > 0 and score >= certificate.threshold
