"""`plumbline demo`: the whole road once, on data that ships, in minutes on two cores and without a network.

let the base answer -> fine-tune, plainly and held to these answers -> merge -> describe held-out pictures -> measure ->
see what was forgotten -> summarise tickets -> judge them -> report. Training runs as the real command in its own
process; every number of the report is read back from what the stages left.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from plumbline.data.check import Check, CheckOptions
from plumbline.data.images import ImagePolicy
from plumbline.data.read import read_records
from plumbline.demo.data import ASKED, EVERYDAY, write_demo_data
from plumbline.demo.recipes import Places, Recipe, write_anchored, write_sft
from plumbline.demo.show import Advance, Show
from plumbline.demo.stages import TITLES, Ledger
from plumbline.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, Problem, UserError, writing
from plumbline.model.checkpoints import is_complete, latest_complete
from plumbline.report.log import RunLog, read_log
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import JsonObject

SCENES, HELD_OUT, DATA_SEED = 400, 24, 0
ANSWER_TOKENS, TASK_LIMIT = 64, 40
PHOTO_TICKETS, SUMMARY_TOKENS, TICKET_SEED = 30, 64, 7
SIMULATED_TICKETS = 800
CAPTION_TOKENS = 256
EXIT_TERMINATED = 143
_LOG_TAIL = 15  # lines of a failed command that are shown


class StageFailedError(UserError):
    """A stage of the demonstration did not end well."""

    exit_code = EXIT_FAILURE


@dataclass(frozen=True)
class DemoOptions:
    """Options of `plumbline demo`. steps: of the anchored run."""

    output: Path = Path("output/demo")
    prepare_only: bool = False
    steps: int | None = None

    def recipe(self) -> Recipe:
        """The training settings. Raises UserError for less than one step."""
        if self.steps is None:
            return Recipe()
        if self.steps < 1:
            raise UserError(Problem("--steps", f"{self.steps} is not at least 1"))
        return replace(Recipe(), steps=self.steps)


def run_demo(options: DemoOptions) -> int:
    """Run the demonstration, or what is left of it, and return the exit code.

    Raises UserError for options that make no sense, StageFailedError with the end of its log for a stage that failed.
    """
    # deepspeed, imported by the training stack, asks for an accelerator as it loads; nothing here trains with it
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    demo = Demo(Places(options.output), options.recipe())
    try:
        with _terminate_like_interrupt():
            demo.prepare()
            if not options.prepare_only:
                demo.perform()
    except KeyboardInterrupt:
        demo.show.say("interrupted: the same command goes on with the stages that are not done")
        return EXIT_INTERRUPTED
    except _Terminated:
        return EXIT_TERMINATED
    return EXIT_OK


@dataclass
class Demo:
    """One run of the demonstration: its places, its recipe, and what its stages found."""

    places: Places
    recipe: Recipe
    show: Show = field(default_factory=Show)
    begun: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        with writing(self.places.output):
            self.ledger = Ledger(self.places.output)

    def prepare(self) -> None:
        """Make the model and the data, and let the model answer what it must not forget."""
        places = self.places
        self._stage("model", {"dtype": self.recipe.dtype}, self._build_model, lambda: is_complete(places.model))
        inputs = {"scenes": SCENES, "held_out": HELD_OUT, "seed": DATA_SEED}
        self._stage("data", inputs, self._write_data, lambda: is_complete(places.data))
        tokens = {"tokens": ANSWER_TOKENS}
        self._stage("anchors", tokens, self._ask_base, lambda: places.anchors.is_file() and places.probes.is_file())

    def perform(self) -> None:
        """Everything that follows, to the report."""
        places, recipe = self.places, self.recipe.as_dict()
        self._stage("check", {}, self._check, lambda: True)
        self._stage("sft", recipe, lambda advance: self._train("sft", write_sft, advance), lambda: _ran(places.sft))
        self._stage(
            "anchored",
            recipe,
            lambda advance: self._train("anchored", write_anchored, advance),
            lambda: _ran(places.anchored),
        )
        self._stage("merge", {}, self._merge, lambda: is_complete(places.merged))
        tokens = {"tokens": CAPTION_TOKENS}
        self._stage("captions", tokens, self._describe, lambda: (places.captions / "after.jsonl").is_file())
        self._stage("evaluate", tokens, self._measure, lambda: places.evaluation.is_file())
        self._stage("drift", {"tasks": TASK_LIMIT}, self._drift, lambda: places.drift.is_file())
        photos = {"tickets": PHOTO_TICKETS, "tokens": SUMMARY_TOKENS, "seed": TICKET_SEED}
        self._stage("stage_a", photos, self._summarise, lambda: places.stage_a.is_dir())
        self._stage("stage_b", {"tickets": SIMULATED_TICKETS}, self._judge, lambda: places.stage_b.is_dir())
        self._report()

    def _stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[Advance], Mapping[str, Any]],
        is_whole: Callable[[], bool],
    ) -> None:
        if self.ledger.recall(name, inputs, is_whole):
            self.show.reused(TITLES[name])
            return
        with self.show.stage(TITLES[name]) as advance:
            begun = time.perf_counter()
            facts = work(advance)
            self.ledger.record(name, time.perf_counter() - begun, facts)

    # -- stages ------------------------------------------------------------------------------------------------------

    def _build_model(self, advance: Advance) -> JsonObject:
        from plumbline.model.learned import build_learned

        _quiet()
        shutil.rmtree(self.places.model, ignore_errors=True)
        build_learned(self.places.model, self.recipe.dtype)
        weights = sum(path.stat().st_size for path in self.places.model.glob("*.safetensors"))
        return {"megabytes": round(weights / 1e6, 1)}

    def _write_data(self, advance: Advance) -> JsonObject:
        written = write_demo_data(self.places.data, SCENES, HELD_OUT, DATA_SEED)
        records = [*read_records(written.train), *read_records(written.val)]
        objects = [item for record in records for item in record.objects]
        return {
            "train_records": written.train_records,
            "val_records": written.val_records,
            "photographs": sum(record.images[0].startswith("photos/") for record in records),
            "objects": len(objects),
            "geometries": dict(Counter(item.shape.kind for item in objects)),
            "descriptions": len({item.desc for item in objects}),
        }

    def _ask_base(self, advance: Advance) -> JsonObject:
        """The base's answers about everyday scenes, about some training pictures, and without a picture."""
        from plumbline.infer.anchors import AnchorSettings, build_anchors, plan_anchors
        from plumbline.infer.config import InferSettings, Sampling
        from plumbline.infer.local import TransformersEngine

        _quiet()
        places = self.places
        sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
        run = InferSettings(
            model=places.model, input=Path(), output=places.anchors, sampling=sampling, batch_size=12, resume=False
        )
        photos, asked = (places.data / EVERYDAY,), (places.data / ASKED,)
        settings = AnchorSettings(run, photos, asked, val=places.probes, val_share=0.25, seed=DATA_SEED)
        plan, count = plan_anchors(settings), 0

        def progress(rows: int) -> None:
            nonlocal count
            count += rows
            advance(count, len(plan.items), "questions")

        report, made = build_anchors(settings, plan, lambda: TransformersEngine(places.model, batch_size=12), progress)
        if made is None:
            raise KeyboardInterrupt
        return {"questions": len(plan.items), "statuses": dict(report.statuses), **made.as_dict()}

    def _check(self, advance: Advance) -> JsonObject:
        check = Check([self.places.data / "train.jsonl", self.places.data / "val.jsonl"], CheckOptions(images=True))
        findings = [str(finding) for finding in check.findings()]
        if findings:
            raise StageFailedError([Problem(str(self.places.data), text) for text in findings])
        return {"records": check.records, "findings": 0}

    def _train(self, name: str, write: Callable[[Places, Recipe], Path], advance: Advance) -> JsonObject:
        config, run = write(self.places, self.recipe), self.places.output / name
        shutil.rmtree(run, ignore_errors=True)
        command = [sys.executable, "-m", "plumbline", "train", str(config)]
        for log in _follow(command, self.places.log(name), run / "logging.jsonl"):
            loss = log.values("train/loss")
            advance(log.steps, log.planned_steps, f"loss {loss[-1]:.3f}" if loss else "")
        return training_facts(read_log(run / "logging.jsonl"))

    def _merge(self, advance: Advance) -> JsonObject:
        from plumbline.model.merge import TOLERANCE, merge

        _quiet()
        report = merge(self.places.anchored, self.places.merged, overwrite=True)
        return {
            "max_abs_logit_diff": report.max_abs_logit_diff,
            "tolerance": TOLERANCE,
            "adapter": str(report.adapter),
            "megabytes": round(report.size / 1e6, 1),
        }

    def _describe(self, advance: Advance) -> JsonObject:
        _quiet()
        places = self.places
        self._caption(places.model, "before", "dense", advance)
        statuses = self._caption(places.merged, "after", "dense", advance)
        self._caption(places.merged, "summaries", "summary", advance)
        return caption_facts(places.captions / "after.jsonl", statuses)

    def _caption(self, model: Path, name: str, mode: str, advance: Advance) -> Mapping[str, int]:
        """Answers of a model to the trained prompts about the held-out pictures."""
        from plumbline.infer.caption_run import run_captions
        from plumbline.infer.config import InferSettings, Sampling
        from plumbline.infer.local import TransformersEngine
        from plumbline.infer.plan import plan_captions
        from plumbline.model.checkpoints import Card

        settings = InferSettings(
            model=model,
            input=self.places.data / "val.jsonl",
            output=self.places.captions / f"{name}.jsonl",
            mode=mode,
            emit_norm=None if model == self.places.merged else "norm1000",
            sampling=Sampling(max_new_tokens=CAPTION_TOKENS),
            batch_size=12,
            resume=False,
        )
        # The base has no card of its own: it is asked in the words of the fine-tune.
        plan = replace(plan_captions(settings), card=Card.read(self.places.merged))
        count = 0

        def progress(rows: int) -> None:
            nonlocal count
            count += rows
            advance(count, len(plan.items), name)

        report = run_captions(plan, lambda: TransformersEngine(plan.model, batch_size=12), progress=progress)
        if report.interrupted:
            raise KeyboardInterrupt
        return report.statuses

    def _measure(self, advance: Advance) -> JsonObject:
        """The trained model's descriptions against the annotations, and against those of the base."""
        from plumbline.evaluate.run import compare_evaluations, evaluate_file
        from plumbline.report.evaluation import write_evaluation

        truth, captions = self.places.data / "val.jsonl", self.places.captions
        after, before = (evaluate_file(truth, captions / f"{name}.jsonl", mode="dense") for name in ("after", "before"))
        differences = compare_evaluations(after, before)
        write_evaluation(self.places.evaluation, after, differences, policy=ImagePolicy(), other=before)
        values = {name: after.figures[name].value for name in ("f1_50", "f1_50_any_class", "hallucinated_pictures")}
        summaries = evaluate_file(truth, captions / "summaries.jsonl", mode="summary", bootstraps=0)
        values["summary_item_f1"] = summaries.figures["summary_item_f1"].value
        return {**values, "before": {"f1_50": before.figures["f1_50"].value}, "page": self.places.evaluation.name}

    def _drift(self, advance: Advance) -> JsonObject:
        """How far both fine-tunes are from the base, on questions that neither has seen."""
        from plumbline.demo.drift import measure_drift

        _quiet()
        return measure_drift(self.places, TASK_LIMIT, advance)

    def _summarise(self, advance: Advance) -> JsonObject:
        from plumbline.demo.tickets import write_photo_tickets, write_prompts
        from plumbline.infer.config import Sampling
        from plumbline.infer.local import TransformersEngine
        from plumbline.stage_a.config import StageASettings
        from plumbline.stage_a.summaries import plan_summaries, run_summaries
        from plumbline.storage.rows import read_rows

        _quiet()
        shutil.rmtree(self.places.stage_a, ignore_errors=True)
        write_photo_tickets(self.places.tickets, PHOTO_TICKETS, TICKET_SEED)
        settings = StageASettings(
            model=self.places.merged,
            input=self.places.tickets,
            output=self.places.stage_a,
            prompts=write_prompts(self.places.configs / "prompts"),
            sampling=Sampling(max_new_tokens=SUMMARY_TOKENS),
        )
        ((plan,), _) = plan_summaries(settings)
        count = 0

        def progress(rows: int) -> None:
            nonlocal count
            count += rows
            advance(count, len(plan.found.photos), "photos")

        report = run_summaries(plan, lambda: TransformersEngine(plan.model, batch_size=settings.batch_size), progress)
        if report.interrupted:
            raise KeyboardInterrupt
        tickets = [json.loads(line) for line in plan.gathered.read_text(encoding="utf-8").splitlines()]
        shown = [{"key": row["key"], "summary": row["summary"]} for row in read_rows(plan.run_options.rows_path)]
        return {
            "tickets": len(tickets),
            "images": len(plan.found.photos),
            "statuses": dict(report.statuses),
            "examples": shown[:4],
        }

    def _judge(self, advance: Advance) -> JsonObject:
        from plumbline.demo.tickets import CANDIDATES, judge_photo_tickets, judge_simulated_tickets

        shutil.rmtree(self.places.stage_b, ignore_errors=True)
        count, planned = 0, 3 * SIMULATED_TICKETS * CANDIDATES  # two epochs, and the gate's tickets three times

        def progress(rows: int) -> None:
            nonlocal count
            count += rows
            advance(count, planned, "candidates")

        places = self.places
        simulated = judge_simulated_tickets(places.stage_b / "simulated", SIMULATED_TICKETS, 1, progress)
        return {**simulated, "accuracy_on_stage_a": judge_photo_tickets(places)}

    # -- results -----------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        from plumbline.demo.page import write_demo_page

        facts = {stage.name: dict(stage.facts) for stage in self.ledger.done}
        summary = {
            **{name: facts[name] for name in TITLES if name != "model"},
            "stages": {stage.name: {"seconds": stage.seconds, "reused": stage.reused} for stage in self.ledger.done},
            "wall_s": round(time.perf_counter() - self.begun, 1),
        }
        page = write_demo_page(self.places, self.recipe, summary)
        summary["wall_s"] = round(time.perf_counter() - self.begun, 1)
        path = self.places.output / "summary.json"
        write_atomically(path, json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
        self.show.say(f"report   {page}\nsummary  {path}")
        config = self.places.stage_b / "photos" / "stage_b.yaml"
        self.show.say(f"Next: plumbline review {config} --image-root {self.places.tickets}")


def _ran(run: Path) -> bool:
    """Whether a training run left its log and a whole checkpoint."""
    return (run / "logging.jsonl").is_file() and latest_complete(run).folder is not None


def training_facts(log: RunLog) -> JsonObject:
    """The numbers of a training run, all read from its log.

    loss_first, loss_last: of the first and last logged window of training; metrics: every logged name with a prefix.
    """
    loss = log.values("train/loss")
    if not loss:
        raise StageFailedError(Problem("logging.jsonl", "no train/loss was logged"))
    evaluated = {name: log.values(name)[-1] for name in log.metric_names() if name.startswith("eval/")}
    return {
        "steps": log.steps,
        "loss_first": loss[0],
        "loss_last": loss[-1],
        "metrics": log.metric_names(),
        "eval_last": evaluated,
    }


def caption_facts(rows_file: Path, statuses: Mapping[str, int]) -> JsonObject:
    """parse_rate: share of the pictures whose whole reply was read without a problem and named at least one object."""
    from plumbline.storage.rows import read_rows

    rows = list(read_rows(rows_file))
    parsed = [row for row in rows if row["status"] == "ok" and row["objects"]]
    return {
        "images": len(rows),
        "parse_rate": len(parsed) / len(rows),
        "objects": sum(len(row["objects"]) for row in rows),
        "statuses": dict(statuses),
    }


def _follow(command: list[str], log_file: Path, metrics: Path) -> Iterator[RunLog]:
    """Run a command with its output in a file; yield what it logged so far, until it has ended well.

    Raises StageFailedError with the end of its output. When the caller stops, so does the command.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                time.sleep(1.0)
                if metrics.is_file():
                    yield read_log(metrics)
        finally:
            _stop(process)
    if process.returncode:
        tail = log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:]
        what = f"{' '.join(command[1:])} ended with exit code {process.returncode}:\n" + "\n".join(tail)
        raise StageFailedError(Problem(str(log_file), what))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs: it may finish its step, then it must go."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt it is no error that anything should handle on the way."""


@contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C, so that the training process ends with this one."""

    def on_signal(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _quiet() -> None:
    """Keep the libraries' own bars and notices out of the demonstration's lines."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
