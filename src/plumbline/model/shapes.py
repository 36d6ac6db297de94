"""Names and shapes of a checkpoint's weights, from the headers of its files: no weight is read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from plumbline.errors import DamagedFileError, Problem
from plumbline.model.parts import part_of

Shapes = Mapping[str, tuple[int, ...]]


@lru_cache(maxsize=4)
def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the safetensors files of a model folder, by name.

    Raises DamagedFileError for a file that is cut short or is no safetensors.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            fix = "it is cut short or damaged: download the checkpoint again"
            raise DamagedFileError(Problem(str(path), f"cannot be read: {error}", fix)) from error
    return shapes


def linear_layers(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every linear layer that can carry an adapter, by module name; the output head is none."""
    found = {}
    for name, shape in shapes.items():
        module, dot, kind = name.rpartition(".")
        if dot and kind == "weight" and len(shape) == 2 and "embed" not in module and module != "lm_head":
            found[module] = (shape[0], shape[1])
    return found


def modules(shapes: Shapes) -> set[str]:
    """Names of all modules that hold a weight, or hold a module that does."""
    found: set[str] = set()
    for name in shapes:
        pieces = name.split(".")[:-1]
        found |= {".".join(pieces[:count]) for count in range(1, len(pieces) + 1)}
    if "lm_head.weight" not in shapes:
        found.add("lm_head")  # tied to the embeddings
    return found


def matching(names: Iterable[str], wanted: str | Iterable[str]) -> set[str]:
    """Names that PEFT would adapt: a string is a regular expression, of a list each is a name or the end of one."""
    if isinstance(wanted, str):
        pattern = re.compile(wanted)
        return {name for name in names if pattern.fullmatch(name)}
    ends = tuple(wanted)
    return {name for name in names if any(name == end or name.endswith(f".{end}") for end in ends)}


def parameters_in(shapes: Shapes, parts: Iterable[str]) -> int:
    """Number of parameters in some parts of the model."""
    wanted = set(parts)
    return sum(math.prod(shape) for name, shape in shapes.items() if part_of(name) in wanted)
