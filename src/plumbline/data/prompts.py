"""The prompts of both modes: the files of `prompts/`, which a configuration replaces with plain strings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources

MODES = ("dense", "summary")


@dataclass(frozen=True, slots=True)
class Prompts:
    """System and user text for the dense mode (objects with geometry) and the summary mode (one line).

    An empty system prompt means that no system turn is sent. negative_summary: what summary mode answers for a record
    without objects that has no summary of its own; empty: such a record is refused.
    """

    system_dense: str
    user_dense: str
    system_summary: str
    user_summary: str
    negative_summary: str = ""

    def of_mode(self, mode: str) -> tuple[str, str]:
        """(system, user) text of "dense" or "summary"; ValueError for another mode."""
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}: one of {', '.join(MODES)}")
        return (self.system_dense, self.user_dense) if mode == "dense" else (self.system_summary, self.user_summary)

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def default_prompts(emit_norm: str = "norm1000") -> Prompts:
    """The prompts that ship, in Chinese; the dense system prompt names the coordinate scale of `emit_norm`."""
    coordinates = _text(f"coordinates_{emit_norm}")
    return Prompts(
        system_dense=_text("system_dense").replace("{coordinates}", coordinates),
        user_dense=_text("user_dense"),
        system_summary=_text("system_summary"),
        user_summary=_text("user_summary"),
    )


@cache
def irrelevant_answer() -> str:
    """What is answered about a picture that has nothing to do with the domain."""
    return _text("irrelevant")


def _text(name: str) -> str:
    folder = resources.files("plumbline.data") / "prompts"
    return (folder / f"{name}.txt").read_text(encoding="utf-8").strip()
