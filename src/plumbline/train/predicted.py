"""What will train and what a checkpoint will hold, predicted from the names and shapes in the checkpoint's headers.

`train/health.py` checks the same of the model itself once it is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbline.errors import Problem
from plumbline.model.parts import PARTS, part_of
from plumbline.model.shapes import Shapes, linear_layers, matching, modules, weight_shapes
from plumbline.train.config import TrainRun
from plumbline.train.targets import HEAD_CARRIES_NO_ADAPTER, NOTHING_TRAINS, VISUAL_SIDE_STAYS, TrainingTargets

_GROUPS = {"all-linear", "all-embedding", "all-norm"}
"""Words of the upstream for kinds of modules."""
_NO_TARGETS = "^$"
_BYTES = {"float32": 4, "float64": 8}


def _wanted(upstream: Mapping[str, Any]) -> str | list[str]:
    """What `target_regex` or `target_modules` says, the regular expression first as in the upstream."""
    regex = upstream.get("target_regex")
    if regex is not None:
        return str(regex)
    named = upstream.get("target_modules", ["all-linear"])
    return named if isinstance(named, str) else list(named)


def adapted_layers(run: TrainRun, shapes: Shapes) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the layers that will carry an adapter."""
    layers, wanted = linear_layers(shapes), _wanted(run.upstream)
    if isinstance(wanted, str):
        chosen = matching(layers, wanted)
    else:
        chosen = matching(layers, [name for name in wanted if name not in _GROUPS])
        if "all-linear" in wanted:
            frozen = TrainingTargets.of(run.upstream).frozen
            chosen |= {name for name in layers if part_of(name) not in frozen}
    return {name: layers[name] for name in chosen}


def target_problems(run: TrainRun) -> Iterator[Problem]:
    """Targets that match nothing, a head with an adapter, and runs in which nothing would train."""
    targets = TrainingTargets.of(run.upstream)
    shapes = weight_shapes(Path(run.upstream["model"]))
    if targets.tuner_type == "full":
        if targets.frozen.issuperset(PARTS):
            yield NOTHING_TRAINS
        elif run.custom.visual_kd.enabled and targets.frozen.issuperset({"vit", "aligner"}):
            yield VISUAL_SIDE_STAYS
        return
    unmatched = list(_unmatched(run, shapes))
    yield from unmatched
    if unmatched:
        return
    trained = {*adapted_layers(run, shapes), *targets.saved}
    if not trained:
        yield NOTHING_TRAINS
    elif run.custom.visual_kd.enabled and not any(name.startswith("model.visual") for name in trained):
        yield VISUAL_SIDE_STAYS


def _unmatched(run: TrainRun, shapes: Shapes) -> Iterator[Problem]:
    """Each target and each module to save that is no module of the model."""
    wanted, names = _wanted(run.upstream), modules(shapes)
    key = "tuner.target_regex" if run.upstream.get("target_regex") is not None else "tuner.target_modules"
    fix = f"names look like {next(iter(sorted(linear_layers(shapes))), '')}"
    try:
        if isinstance(wanted, str) and wanted != _NO_TARGETS and not matching(names, wanted):
            yield Problem(key, f"{wanted!r} matches no module of {run.upstream['model']}", fix)
    except re.error as error:
        yield Problem(key, f"{wanted!r} is no regular expression: {error}")
        return
    for name in wanted if not isinstance(wanted, str) else ():
        if name not in _GROUPS and not matching(names, [name]):
            yield Problem(key, f"no module of {run.upstream['model']} is called {name!r}", fix)
    if wanted != _NO_TARGETS and "lm_head" in matching(names, wanted):
        yield HEAD_CARRIES_NO_ADAPTER
    for saved in run.upstream.get("modules_to_save", ()):
        if saved not in _GROUPS and not matching(names, [saved]):
            yield Problem("tuner.modules_to_save", f"no module of the model is called {saved}", "name it in full")


def trained_parameters(run: TrainRun) -> int:
    """About how many parameters train; adapters are counted as LoRA of their rank."""
    shapes, targets = weight_shapes(Path(run.upstream["model"])), TrainingTargets.of(run.upstream)
    if targets.tuner_type == "full":
        return sum(math.prod(shape) for name, shape in shapes.items() if part_of(name) not in targets.frozen)
    rank = int(run.upstream.get("lora_rank", 8))
    low = sum(rank * (outputs + inputs) for outputs, inputs in adapted_layers(run, shapes).values())
    return low + sum(math.prod(shape) for name, shape in shapes.items() if targets.names_saved(name))


def weights_saved(run: TrainRun) -> int:
    """About the bytes of a checkpoint's weights: the whole model, or what the adapter holds, in single precision."""
    if TrainingTargets.of(run.upstream).tuner_type != "full":
        return 4 * trained_parameters(run)
    each = _BYTES.get(str(run.upstream.get("torch_dtype", "bfloat16")), 2)
    return each * sum(map(math.prod, weight_shapes(Path(run.upstream["model"])).values()))
