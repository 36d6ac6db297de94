"""What `plumbline start` does and prints."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from plumbline.config.recipes import recipes
from plumbline.data.convert.recognise import Recognised, labels_among, recognise
from plumbline.data.convert.verbs import print_losses
from plumbline.data.verbs import counting
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, ConfigError, DataError, Problem
from plumbline.start.prepare import Prepared, PrepareSettings, prepare
from plumbline.start.sizes import EVALUATIONS, Fit, TrainingLength, fit, schedule
from plumbline.storage.files import write_atomically
from plumbline.storage.objects import JsonObject
from plumbline.storage.text import next_command, printable, shown_path

_PICTURES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))


@dataclass(frozen=True)
class StartOptions:
    """What to start from.

    Attributes:
        photos: Folder of the pictures.
        labels: Annotations in any known format; None: those that lie with the pictures, if any.
        output: Folder for everything that is written.
        model: Folder of the base's checkpoint.
        recipe: One that ships; None: `summary` for summaries alone, else `base`.
        group: As `data split --group`; None: the folders of the photos decide.
        keep_empty: Photos without objects become records that say so; else they are left out.
        seed: Of the split.
        overwrite: A folder that is not empty is written into.
    """

    photos: Path
    labels: Path | None
    output: Path
    model: Path
    recipe: str | None = None
    group: str | None = None
    keep_empty: bool = False
    seed: int = 0
    overwrite: bool = False

    def check(self) -> None:
        """Raises ConfigError with all that cannot be right."""
        found = []
        if not self.photos.is_dir():
            found.append(Problem(shown_path(self.photos), "is no folder", "give the folder of the photos"))
        if not (self.model / "config.json").is_file():
            fix = "hf download Qwen/Qwen3-VL-4B-Instruct --local-dir models/Qwen3-VL-4B-Instruct"
            found.append(Problem(shown_path(self.model), "is no folder of a model", fix))
        if self.recipe is not None and self.recipe not in recipes():
            found.append(Problem("--recipe", f"{self.recipe} is no recipe", "`plumbline config new` lists them"))
        if self.output.exists() and not self.output.is_dir():
            found.append(Problem(shown_path(self.output), "is a file", "give another --output"))
        elif self.output.is_dir() and any(self.output.iterdir()) and not self.overwrite:
            found.append(Problem(shown_path(self.output), "is not empty", "give another --output, or --overwrite"))
        if found:
            raise ConfigError(found)


def chosen_model(given: Path | None, among: Path = Path("models")) -> Path:
    """The base to train: as given, else the only one in `models/`, else as typed at a terminal.

    Raises ConfigError where nobody can be asked.
    """
    if given is not None:
        return given
    found = sorted(file.parent for file in among.glob("*/config.json"))
    if len(found) == 1:
        return found[0]
    if sys.stdin.isatty() and sys.stderr.isatty():
        from rich.console import Console
        from rich.prompt import Prompt

        names = [str(folder) for folder in found]
        typed = Prompt.ask("Folder of the base model", console=Console(stderr=True), choices=names or None)
        return Path(typed)
    named = f"models/ holds {len(found)}" if found else "models/ holds none"
    raise ConfigError(Problem("--model", f"is not given, and {named}", "give the folder of the base"))


def start(options: StartOptions, *, as_json: bool = False) -> int:
    """Prepare data and configuration; 0, or 3 where something was lost, is wrong, or is still to be labelled."""
    options.check()
    labels = recognise(options.labels) if options.labels is not None else labels_among(options.photos)
    if labels is None:
        return _label_first(options, as_json=as_json)
    if not as_json:
        form = labels.format or "records of the contract"
        print(f"annotations  {shown_path(labels.source)}: {form} ({printable(labels.why, limit=80)})")
    options.output.mkdir(parents=True, exist_ok=True)
    with counting("pictures read") as progress:
        how = PrepareSettings(options.photos, options.output, options.group, options.keep_empty, options.seed)
        prepared = prepare(labels, how, progress)
    recipe = options.recipe or ("base" if prepared.has_objects else "summary")
    fitted = fit(partial(_tokens, prepared, options))
    planned = schedule(prepared.split.records[prepared.train.name])
    config = options.output / "run.yaml"
    write_atomically(config, config_text(options, prepared, recipe, fitted, planned))
    result = Started(options, labels, prepared, recipe, fitted, planned, config)
    if as_json:
        print(json.dumps(result.as_dict(), ensure_ascii=True))
    else:
        result.print()
    return EXIT_FINDINGS if result.has_findings else EXIT_OK


def _label_first(options: StartOptions, *, as_json: bool) -> int:
    """Photos alone: the base's own descriptions are drafts to correct."""
    photos = [file for file in options.photos.rglob("*") if file.suffix.lower() in _PICTURES]
    if not photos:
        raise DataError(Problem(shown_path(options.photos), "holds no picture", f"one of {', '.join(_PICTURES)}"))
    drafts, records = options.output / "drafts.jsonl", options.output / "drafts_records.jsonl"
    ask = ("infer", "--model", options.model, "--input", options.photos, "--output", drafts)
    convert = ("data", "convert", drafts, "--from", "captions", "--images", options.photos, "--output", records)
    to_coco = ("data", "convert", records, "--to", "coco", "--output", options.output / "drafts.json")
    again = ("start", options.photos, "CORRECTED.json", "--model", options.model, "--output", options.output / "run")
    steps = [next_command(*words).removeprefix("Next: ") for words in (ask, convert, to_coco, again)]
    if as_json:
        print(json.dumps({"photos": len(photos), "annotations": None, "next": steps}, ensure_ascii=True))
        return EXIT_FINDINGS
    print(f"{len(photos):,} photos, and no annotations among them. Annotate them with any tool whose export is read")
    print("(COCO, LabelMe, Label Studio, CVAT, YOLO), or correct what the model says by itself:")
    for number, (step, what) in enumerate(zip(steps, _DRAFT_STEPS, strict=True), start=1):
        print(f"  {number}. {what}\n     {step}")
    print(f"Next: {steps[0]}")
    return EXIT_FINDINGS


_DRAFT_STEPS = (
    "let the model describe the photos",
    "make records of what it wrote",
    "write them as COCO, import that into your tool with the photos, correct, export",
    "start again with the corrected file",
)


def _tokens(prepared: Prepared, options: StartOptions, max_pixels: int | None) -> np.ndarray:
    """Tokens of every training sample. Raises DataError when none can be measured."""
    from plumbline.batch.measure import measure
    from plumbline.data.dataset import DatasetSettings, RecordDataset, RecordFile
    from plumbline.data.images import ImagePolicy
    from plumbline.data.prompts import default_prompts

    mode = "dense" if prepared.has_objects else "summary"
    policy = ImagePolicy(roots=(str(options.photos),))
    settings = DatasetSettings(mode, default_prompts("norm1000"), "norm1000", policy=policy)
    found = measure(RecordDataset(RecordFile(prepared.train), settings), options.model, max_pixels)
    if not len(found.tokens):
        raise DataError(found.problems[0] if found.problems else Problem(str(prepared.train), "holds no sample"))
    return found.tokens


def config_text(options: StartOptions, prepared: Prepared, recipe: str, fitted: Fit, planned: TrainingLength) -> str:
    """The run's YAML: what differs from the recipe, and why."""
    records = prepared.split.records[prepared.train.name]
    area = f"\ntemplate:\n  max_pixels: {fitted.max_pixels}   # larger photos are scaled down, so that samples fit\n"
    return f"""\
# Written by `plumbline start`. Every other value is the recipe's: plumbline config show {options.output / "run.yaml"}
extends: {recipe}

global_max_length: {fitted.max_length}   # the longest sample has {fitted.longest:,} tokens

model:
  model: {_quoted(options.model)}
{area if fitted.max_pixels is not None else ""}
training:
  output_dir: {_quoted(options.output / "model")}
  num_train_epochs: {planned.epochs}
  gradient_accumulation_steps: {planned.batch}   # {records:,} records: {planned.steps:,} steps in all
  eval_steps: {planned.every}   # {EVALUATIONS} times in the run
  save_steps: {planned.every}

custom:
  train_jsonl: {_quoted(prepared.train)}
  val_jsonl: {_quoted(prepared.val)}
  image_roots: [{_quoted(options.photos)}]
"""


def _quoted(path: Path) -> str:
    """A path as a YAML string; JSON's quoting is valid YAML."""
    return json.dumps(str(path), ensure_ascii=False)


@dataclass(frozen=True)
class Started:
    """What `plumbline start` made."""

    options: StartOptions
    labels: Recognised
    prepared: Prepared
    recipe: str
    fit: Fit
    schedule: TrainingLength
    config: Path

    @property
    def has_findings(self) -> bool:
        lost = self.prepared.lost
        return bool(self.prepared.findings or self.fit.too_long or (lost is not None and lost.lost))

    def as_dict(self) -> JsonObject:
        prepared = self.prepared
        return {
            "annotations": str(self.labels.source),
            "format": self.labels.format or "records",
            "conversion": None if prepared.lost is None else prepared.lost.as_dict(),
            "group": prepared.group,
            "split": prepared.split.as_dict(),
            "findings": dict(prepared.findings),
            "recipe": self.recipe,
            **{name: getattr(self.fit, name) for name in ("max_length", "max_pixels", "longest", "too_long")},
            **{name: getattr(self.schedule, name) for name in ("batch", "epochs", "steps", "every")},
            "config": str(self.config),
        }

    def print(self) -> None:
        """What was made, what is wrong with it, and the next command."""
        prepared, split = self.prepared, self.prepared.split
        if prepared.lost is not None:
            print_losses(prepared.lost)
        kept = f"{split.linked:,} of them near-duplicates or of one folder with another, kept on one side"
        counts = ", ".join(f"{count:,} in {printable(name)}" for name, count in split.records.items())
        print(f"records      {counts}; {kept}")
        planned, fitted = self.schedule, self.fit
        times = f"{planned.epochs} epochs, {planned.steps:,} steps of {planned.batch} records"
        print(f"recipe       {self.recipe}: {times}, evaluated every {planned.every} steps")
        limit = "" if fitted.max_pixels is None else f", photos scaled down to {fitted.max_pixels:,} pixels"
        print(f"samples      up to {fitted.longest:,} tokens{limit}")
        self._print_findings()
        print(f"written      {shown_path(self.config)}")
        print(next_command("train", self.config))

    def _print_findings(self) -> None:
        prepared = self.prepared
        for code, count in sorted(prepared.findings.items()):
            print(f"finding      {count:,} x {printable(code)}", file=sys.stderr)
        if prepared.findings:
            words = ("data", "check", prepared.train, prepared.val, "--images", "--image-root", self.options.photos)
            page = self.options.output / "findings.html"
            print(next_command(*words, "--html", page).replace("Next:", "look at them:"), file=sys.stderr)
        if self.fit.too_long:
            what = f"{self.fit.too_long:,} samples are longer than {self.fit.max_length:,} tokens"
            print(f"finding      {what}: raise global_max_length, or leave them out", file=sys.stderr)
