"""What is in an adapter: counts and norms per part of the model, read from the file without loading the model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plumbline.errors import DamagedFileError, Problem, UserError
from plumbline.model.checkpoints import CARD_FILE, Card, locate
from plumbline.model.parts import PARTS, Part, part_of, plain_name
from plumbline.storage.objects import read_json_object

if TYPE_CHECKING:
    import torch

Kind = Literal["adapter", "modules_to_save"]
ADAPTER_MARKS = ("lora_", "boft_", "fourierft_", "vera_", "hada_", "lokr_", "oft_", "ia3_")
# An adapter starts as a change of nothing: these tensors are zero until training has moved the module.
STARTS_AT_ZERO = ("lora_B", "lora_E", "lora_embedding_B", "boft_R")


@dataclass(frozen=True)
class Group:
    """All tensors of one kind in one part. norm: L2 over all their elements."""

    part: Part
    kind: Kind
    modules: int
    tensors: int
    parameters: int
    norm: float


@dataclass(frozen=True)
class Inspection:
    """An adapter described. unmoved: modules that still change nothing; not_finite: tensors with NaN or Inf."""

    folder: Path
    peft_type: str
    base_model: str
    rank: int | None
    alpha: float | None
    target_modules: str | tuple[str, ...]
    modules_to_save: tuple[str, ...]
    variants: tuple[str, ...]
    groups: tuple[Group, ...]
    unmoved: tuple[str, ...]
    not_finite: tuple[str, ...]
    card: Card | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder)}


def inspect(path: str | Path) -> Inspection:
    """Describe the adapter of a run, a checkpoint or an adapter folder.

    Raises UserError for a whole model or pickled weights, DamagedFileError for a file that cannot be read.
    """
    located = locate(path)
    if located.kind != "adapter":
        raise UserError(Problem(str(path), "is a whole model, not an adapter", "name a checkpoint of an adapter run"))
    folder = located.folder
    config = read_json_object(folder / "adapter_config.json")
    tensors = read_tensors(folder / "adapter_model.safetensors")
    targets = config.get("target_modules")
    return Inspection(
        folder=folder,
        peft_type=str(config.get("peft_type")),
        base_model=str(config.get("base_model_name_or_path")),
        rank=config.get("r", config.get("boft_block_size", config.get("n_frequency"))),
        alpha=config.get("lora_alpha", config.get("scaling")),
        target_modules=targets if isinstance(targets, str) else tuple(sorted(targets or ())),
        modules_to_save=tuple(config.get("modules_to_save") or ()),
        variants=tuple(name for name in ("use_dora", "use_rslora") if config.get(name)),
        groups=group(tensors),
        unmoved=tuple(sorted(module_of(name) for name, value in tensors.items() if is_unmoved(name, value))),
        not_finite=tuple(sorted(name for name, value in tensors.items() if not bool(value.isfinite().all()))),
        card=Card.read(folder) if (folder / CARD_FILE).exists() else None,
        notes=located.notes,
    )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(Problem(str(path), f"cannot be read: {error}", "use another checkpoint")) from error


def kind_of(name: str) -> Kind:
    """`adapter` for what a tuner added, `modules_to_save` for a trained copy of a whole module."""
    return "adapter" if any(mark in name for mark in ADAPTER_MARKS) else "modules_to_save"


def module_of(name: str) -> str:
    """The model's own module behind a tensor: `model.visual.merger.linear_fc1`."""
    steps = plain_name(name).split(".")
    cut = next((index for index, step in enumerate(steps) if step.startswith(ADAPTER_MARKS)), len(steps) - 1)
    return ".".join(steps[:cut])


def is_unmoved(name: str, value: torch.Tensor) -> bool:
    """Whether this tensor keeps its module where it began."""
    return any(mark in name for mark in STARTS_AT_ZERO) and not bool(value.any())


def group(tensors: dict[str, torch.Tensor]) -> tuple[Group, ...]:
    """Counts and norms per part and kind, in the order llm, vit, aligner."""
    members: dict[tuple[Part, Kind], list[str]] = defaultdict(list)
    for name in tensors:
        members[part_of(name), kind_of(name)].append(name)
    kinds: tuple[Kind, Kind] = ("adapter", "modules_to_save")
    order = [(part, kind) for part in PARTS for kind in kinds if (part, kind) in members]
    return tuple(summarise(part, kind, {name: tensors[name] for name in members[part, kind]}) for part, kind in order)


def summarise(part: Part, kind: Kind, tensors: dict[str, torch.Tensor]) -> Group:
    squares = sum(float(value.double().square().sum()) for value in tensors.values())
    return Group(
        part=part,
        kind=kind,
        modules=len({module_of(name) for name in tensors}),
        tensors=len(tensors),
        parameters=sum(value.numel() for value in tensors.values()),
        norm=squares**0.5,
    )
