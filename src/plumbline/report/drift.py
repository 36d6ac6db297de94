"""The page of a drift measurement: every cell against its margin, what was learned, and the answers that changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from plumbline.errors import DataError
from plumbline.evaluate.drift import CELLS, Probe, ProbeScore
from plumbline.evaluate.tasks.scores import TaskAnswer
from plumbline.infer.config import Sampling
from plumbline.report.html import data_url, render_page, write_page
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import printable

SIDE = 260
"""Longest side of a picture on the page, in pixels."""
MOST_SHOWN = 24
_TEXT = 300
_PLANE = (640, 300)
_EDGE = 52


def write_drift(
    path: Path,
    models: tuple[Path, Path],
    probes: Sequence[Probe],
    scores: Sequence[ProbeScore],
    answers: Sequence[TaskAnswer],
    result: JsonObject,
) -> Path:
    """Write the page and return its path.

    Args:
        path: Of the page.
        models: Base and fine-tune.
        probes: What was asked, for the pictures.
        scores: What came of them.
        answers: To the questions with known answers.
        result: `evaluate.drift.result_of`.
    """
    cells = [_cell(name, cell, result["margins"]) for name, cell in result["cells"].items()]
    context = {
        "base": printable(str(models[0])),
        "tuned": printable(str(models[1])),
        "drifted": [CELLS.get(name, name) for name in result["drifted"]],
        "cells": cells,
        "margins": result["margins"],
        "tasks": list(result["tasks"].values()),
        "plane": _plane(result),
        "leaks": list(_leaks(probes, scores)),
        "leak_count": sum(bool(score.leak) for score in scores),
        "changed": [_changed(answer) for answer in _by_loss(answers)][:MOST_SHOWN],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_page(path, render_page("drift.html", context))


def _cell(name: str, cell: Mapping[str, Any], margins: Mapping[str, float]) -> JsonObject:
    """A row of the table; widths in per cent of twice the margin."""
    most = 2 * margins["kl"]
    share = lambda value: round(100 * min(max(value / most, 0.0), 1.0), 1) if most else 0.0  # noqa: E731
    low, high = share(cell["kl"]["low"]), share(cell["kl"]["high"])
    return {
        "title": CELLS[name],
        "is_domain": name == "domain",
        **cell,
        "left": low,
        "width": max(high - low, 1.0),
        "beyond": cell["kl"]["high"] > most,
        "kl_class": _colour(cell["kl_verdict"]),
        "leak_class": _colour(cell["leak_verdict"] or ""),
        "parts": [f"{kind} {value:.4f}" for kind, value in cell["by_kind"].items()],
    }


def _colour(verdict: str) -> str:
    return {"drifted": "bad", "undecided": "warn"}.get(verdict, "ok")


def _plane(result: JsonObject) -> JsonObject | None:
    """Points (what was learned, how far a cell has drifted) and the margin, in pixels; None without a domain."""
    domain = result["cells"].get("domain")
    others = {name: cell["kl"] for name, cell in result["cells"].items() if name != "domain"}
    if domain is None or not others:
        return None
    width, height = _PLANE
    margin = result["margins"]["kl"]
    highest = max([2 * margin, *(kl["high"] for kl in others.values())]) or 1.0
    widest = max(1.25 * domain["gain"], 1e-9)
    across = _EDGE + (width - 2 * _EDGE) * min(max(domain["gain"] / widest, 0.0), 1.0)
    up = lambda value: round(height - _EDGE - (height - 2 * _EDGE + 20) * value / highest, 1)  # noqa: E731
    points = [
        {
            "title": CELLS[name],
            "x": round(across + 14 * place, 1),
            "y": up(kl["value"]),
            "low": up(kl["low"]),
            "high": up(kl["high"]),
        }
        for place, (name, kl) in enumerate(others.items())
    ]
    return {
        "width": width,
        "height": height,
        "edge": _EDGE,
        "margin": up(margin),
        "points": points,
        "gain": domain["gain"],
        "highest": highest,
        "top": up(highest),
    }


def _leaks(probes: Sequence[Probe], scores: Sequence[ProbeScore]) -> Iterator[JsonObject]:
    known = {probe.question.key: probe for probe in probes}
    for score in [score for score in scores if score.leak][:MOST_SHOWN]:
        probe = known[score.key]
        yield {
            "picture": _picture(probe),
            "question": printable(probe.question.text, limit=_TEXT),
            "base": printable(probe.answer, limit=_TEXT),
            "tuned": printable(score.text, limit=_TEXT),
            "what": printable(score.leak),
        }


def _picture(probe: Probe) -> str:
    """The first picture of a question as a data URL; empty where there is none to show."""
    try:
        pictures = probe.question.request(Sampling()).images
    except DataError:
        return ""
    if not pictures:
        return ""
    small = pictures[0].convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return data_url(small)


def _by_loss(answers: Sequence[TaskAnswer]) -> list[TaskAnswer]:
    """Answers that turned from right to wrong, then from wrong to right."""
    changed = [answer for answer in answers if answer.base_right != answer.tuned_right]
    return sorted(changed, key=lambda answer: answer.tuned_right)


def _changed(answer: TaskAnswer) -> JsonObject:
    texts = {"question": answer.question, "base": answer.base, "tuned": answer.tuned}
    return {name: printable(text, limit=_TEXT) for name, text in texts.items()} | {"is_better": answer.tuned_right}
