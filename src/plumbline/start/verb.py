"""What `plumbline start` does and prints."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from plumbline.config.recipes import recipes
from plumbline.data.convert.recognise import Recognised, labels_among, recognise
from plumbline.data.convert.verbs import print_losses
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, ConfigError, DataError, Problem
from plumbline.start.prepare import Prepared, prepare
from plumbline.start.sizes import EVALUATIONS, Fit, Schedule, fit, schedule
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
        seed: Of the split.
        overwrite: A folder that is not empty is written into.
    """

    photos: Path
    labels: Path | None
    output: Path
    model: Path
    recipe: str | None = None
    group: str | None = None
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
    with _counting() as progress:
        prepared = prepare(options.photos, labels, options.output, options.group, options.seed, progress)
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
