"""What the configuration says should train, in the words of the freezing flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plumbline.errors import Problem
from plumbline.model.parts import plain_name

NOTHING_TRAINS = Problem("tuner", "nothing would train: every parameter is frozen", "unfreeze a part or name targets")
HEAD_CARRIES_NO_ADAPTER = Problem(
    "tuner.target_modules",
    "the output head cannot carry an adapter: the objective reads its weight directly",
    "leave lm_head out of tuner.target_modules, or name it in tuner.modules_to_save",
)
VISUAL_SIDE_STAYS = Problem(
    "custom.visual_kd",
    "nothing on the visual side trains: its features are the teacher's, and the term stays 0",
    "train the aligner (freeze_aligner: false, or modules_to_save), or leave visual_kd out",
)


@dataclass(frozen=True)
class TrainingTargets:
    """What the configuration says should train.

    tuner_type: "full" or an adapter kind; frozen: parts frozen by their flag; saved: `modules_to_save` names; every
    linear layer of the other parts is targeted when `all_linear`.
    """

    tuner_type: str
    frozen: frozenset[str]
    saved: tuple[str, ...] = ()
    all_linear: bool = True

    @classmethod
    def of(cls, upstream: Mapping[str, Any]) -> TrainingTargets:
        """From a run's arguments under upstream's names, with upstream's defaults."""
        flags = {"llm": False, "vit": True, "aligner": True}
        frozen = {part for part, default in flags.items() if upstream.get(f"freeze_{part}", default)}
        targets = upstream.get("target_modules", ["all-linear"])
        return cls(
            tuner_type=str(upstream.get("tuner_type", "lora")),
            frozen=frozenset(frozen),
            saved=tuple(upstream.get("modules_to_save", ())),
            all_linear=upstream.get("target_regex") is None and "all-linear" in targets,
        )

    def names_saved(self, name: str) -> bool:
        """True when a parameter belongs to a module that `modules_to_save` names."""
        return any(f"{saved}." in f"{plain_name(name)}." for saved in self.saved)
