"""How the guidance of a run changed, snapshot by snapshot, with what the gate measured; and what it turned down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from plumbline.report.citations import visible
from plumbline.stage_b.gate import ACCEPT
from plumbline.stage_b.guidance import Guidance
from plumbline.stage_b.mission import MissionRun


@dataclass(frozen=True)
class Change:
    """One text of the guidance. name: `R7`, `focus`, `preference`. pieces: (`same` | `gone` | `new`, text)."""

    name: str
    pieces: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trial:
    """An edit that was tried, for people. figures: name and value; status as in the gate."""

    title: str
    text: str
    outcome: str
    why: str
    source: str
    at: str
    figures: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class GuidanceStep:
    """A snapshot against the one before that is kept. trial: the edit that made it; None for a start or a return."""

    step: int
    at: str
    hash: str
    since: int | None
    changes: tuple[Change, ...]
    trial: Trial | None


@dataclass(frozen=True)
class History:
    """steps: the newest first. turned_down: the newest first."""

    current: Guidance | None
    steps: tuple[GuidanceStep, ...]
    turned_down: tuple[Trial, ...]


def read_history(run: MissionRun) -> History:
    """The kept snapshots and every edit that was tried. Raises UserError for a file that is damaged."""
    store = run.store.guidance
    kept = [store.snapshot(step) for step in store.steps()]
    edits = run.store.edits()
    made = {(row["step"], row["after"]): row for row in edits if row["outcome"] == ACCEPT}
    steps = [_first(kept[0])] if kept else []
    steps += [_step(before, after, made.get((after.step, after.hash))) for before, after in pairwise(kept)]
    refused = tuple(trial_of(row) for row in reversed(edits) if row["outcome"] != ACCEPT)
    return History(store.read(), tuple(reversed(steps)), refused)


def _first(guidance: Guidance) -> GuidanceStep:
    pieces = tuple(Change(name, (("same", text),)) for name, text in _texts(guidance))
    return GuidanceStep(guidance.step, guidance.updated_at, guidance.hash, None, pieces, None)


def _step(before: Guidance, after: Guidance, row: Mapping[str, Any] | None) -> GuidanceStep:
    changes = tuple(diff(before, after))
    trial = None if row is None else trial_of(row)
    return GuidanceStep(after.step, after.updated_at, after.hash, before.step, changes, trial)


def diff(before: Guidance, after: Guidance) -> list[Change]:
    """What differs, in words; a rule that has another id is gone, and a new one is there."""
    old, new = _texts(before), _texts(after)
    gone = [Change(name, (("gone", text),)) for name, text in old if name not in dict(new)]
    found = []
    for name, text in new:
        if name not in dict(old):
            found.append(Change(name, (("new", text),)))
        elif dict(old)[name] != text:
            found.append(Change(name, _pieces(dict(old)[name], text)))
    return gone + found


def _texts(guidance: Guidance) -> list[tuple[str, str]]:
    preferences = [(f"preference {number}", text) for number, text in enumerate(guidance.preferences, 1)]
    parts = [("focus", guidance.focus), *((rule.id, rule.text) for rule in guidance.rules), *preferences]
    return [(name, visible(text)) for name, text in parts]


def _pieces(old: str, new: str) -> tuple[tuple[str, str], ...]:
    pieces = []
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(("same", old[a:b]))
            continue
        pieces += [(kind, text) for kind, text in (("gone", old[a:b]), ("new", new[c:d])) if text]
    return tuple(pieces)


def trial_of(row: Mapping[str, Any]) -> Trial:
    """A row of edits.jsonl. What was refused before it was tested has no figures."""
    edit = row["edit"]
    title = " ".join([edit["kind"], *edit["targets"]])
    parts = [edit["text"], row["why"], row["source"], row["tried_at"]]
    text, why, source, at = (visible(str(each)) for each in parts)
    outcome = str(row["outcome"]).replace("_", " ")
    evidence = tuple(visible(name) for name in edit["evidence"])
    return Trial(visible(title), text, outcome, why, source, at, tuple(_figures(row)), evidence)


def _figures(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = row["counts"]
    if counts is None:
        return []
    names = ("fixed", "broken", "new_false_passes", "cured_false_passes", "tickets", "fails")
    found = [(name.replace("_", " "), str(counts[name])) for name in names]
    if counts.get("without_verdict"):  # older rows have no such count
        found.append(("without a verdict", str(counts["without_verdict"])))
    found.append(("p-value", f"{row['p_value']:.3g} against {row['alpha']:.3g}"))
    found.append(("veto p-value", f"{row['veto_p_value']:.3g}"))
    if row["tickets_needed"] is not None:
        found.append(("more tickets needed", str(row["tickets_needed"])))
    return found
