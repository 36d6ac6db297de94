"""What both fine-tunes of the demonstration have forgotten, measured as `plumbline drift` does."""

from __future__ import annotations

from pathlib import Path

from plumbline.demo.recipes import Places
from plumbline.demo.show import Advance
from plumbline.evaluate.drift import (
    Margins,
    Probe,
    ProbeScore,
    cells_of,
    domain_words,
    read_probes,
    result_of,
    score_probes,
)
from plumbline.evaluate.tasks.questions import Task, bundled_tasks
from plumbline.evaluate.tasks.scores import TaskAnswer, answer_tasks, score_tasks
from plumbline.infer.questions import card_of
from plumbline.model.checkpoints import latest_complete
from plumbline.report.drift import write_drift
from plumbline.storage.objects import JsonObject

ANSWER_TOKENS = 64
DOMAIN_PROBES = 8


def measure_drift(places: Places, task_limit: int, advance: Advance) -> JsonObject:
    """KL and leaks of each kind of probe and the known answers, of either run; writes the page of the anchored one."""
    tasks = [task for task in bundled_tasks()[0] if task.group == "text"][:task_limit]
    found: JsonObject = {}
    for name, run in (("sft", places.sft), ("anchored", places.anchored)):
        probes, scores, answers = _measure(places, run, tasks, name, advance)
        result = result_of(cells_of(scores, Margins()), scores, score_tasks(answers), Margins())
        found[name] = {
            "kl": {cell: values["kl"]["value"] for cell, values in result["cells"].items()},
            "leak": {cell: values["leak"]["value"] for cell, values in result["cells"].items() if values["leak"]},
            "known_answers": {group: score["tuned"] for group, score in result["tasks"].items()},
            "known_answers_of_base": {group: score["base"] for group, score in result["tasks"].items()},
        }
        write_drift(places.output / f"drift_{name}.html", (places.model, run), probes, scores, answers, result)
    (places.output / "drift_anchored.html").replace(places.drift)
    return {**found, "page": places.drift.name, "page_sft": "drift_sft.html"}


def _measure(
    places: Places, run: Path, tasks: list[Task], name: str, advance: Advance
) -> tuple[list[Probe], list[ProbeScore], list[TaskAnswer]]:
    from plumbline.infer.local import TransformersEngine

    adapter = latest_complete(run).folder
    assert adapter is not None
    val = places.data / "val.jsonl"
    probes = read_probes(places.probes, val, card_of(adapter))
    kept = [probe for probe in probes if probe.cell != "domain"]
    kept += [probe for probe in probes if probe.cell == "domain"][:DOMAIN_PROBES]
    engine, count = TransformersEngine(places.model, adapter, batch_size=8), 0

    def progress(done: int) -> None:
        nonlocal count
        count += done
        advance(count, len(kept) + 2 * len(tasks), name)

    scores = list(score_probes(kept, engine, engine, domain_words(val), ANSWER_TOKENS, progress))
    return kept, scores, answer_tasks(tasks, engine, engine, progress)
