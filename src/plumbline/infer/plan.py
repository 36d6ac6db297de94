"""What a caption run will do, found out before any weight is loaded and without touching a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Generic

from plumbline.data.answer import EMIT_NORMS
from plumbline.data.answer_form import PLAIN_FORM
from plumbline.data.prompts import MODES, default_prompts
from plumbline.errors import ConfigError, Problem, UserError
from plumbline.infer.config import InferSettings, RunSettings
from plumbline.infer.inputs import CaptionItem, read_items
from plumbline.infer.runner import ERROR, ItemT, RunOptions, check_identity, check_ours
from plumbline.model.checkpoints import CARD_FILE, Card, locate
from plumbline.model.loading import base_of
from plumbline.storage.objects import JsonObject
from plumbline.storage.rows import read_heads

WINDOW_BATCHES = 2
"""Batches whose pictures are open at once and sorted by length among themselves; as many more are being opened."""
WINDOW_SERVED = 64
"""Pictures that are open at once for servers and vLLM, which batch by themselves."""


@dataclass(frozen=True)
class RunPlan(Generic[ItemT]):
    """What a run will do, known before any weight is loaded.

    Attributes:
        settings: Of the run.
        model: Folder of the weights.
        adapter: Folder of the adapter on them.
        card: Of the checkpoint, or made of the flags.
        items: Everything in the input.
        todo: Those of this shard without a row yet.
        done: Statuses of the rows that are there.
        notes: What the user should know.
    """

    settings: InferSettings
    model: Path
    adapter: Path | None
    card: Card
    items: tuple[ItemT, ...]
    todo: tuple[ItemT, ...]
    done: Counter[str]
    notes: tuple[str, ...]

    @property
    def run_options(self) -> RunOptions:
        """How the runner is to go about it."""
        return run_options(self.settings, self.settings.output)

    def as_dict(self) -> JsonObject:
        return {
            "model": str(self.model),
            "adapter": None if self.adapter is None else str(self.adapter),
            "done": sum(self.done.values()),
            "todo": len(self.todo),
            "output": str(self.settings.output),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class CaptionPlan(RunPlan[CaptionItem]):
    """A run over pictures. mode: `dense` or `summary`."""

    mode: str

    def as_dict(self) -> JsonObject:
        own = {"mode": self.mode, "emit_norm": self.card.emit_norm, "images": len(self.items)}
        return super().as_dict() | own


def run_options(settings: RunSettings, output: Path) -> RunOptions:
    """How the runner is to go about a run that writes `output`."""
    takes_many = bool(settings.servers) or settings.engine == "vllm"
    return RunOptions(
        output,
        settings.resume,
        window=max(WINDOW_BATCHES * settings.batch_size, WINDOW_SERVED if takes_many else 0),
        max_error_rate=settings.max_error_rate,
        shard=settings.shard,
        replies=settings.replies,
    )


def plan_captions(settings: InferSettings) -> CaptionPlan:
    """Find model, card, pictures and earlier rows. Raises UserError; touches no file and loads no weights."""
    model, adapter, notes = find_weights(settings.model, settings.adapter)
    card, card_notes = find_card(adapter or model, settings.emit_norm)
    mode = choose_mode(card, settings.mode)
    items = read_items(settings.input, settings.image_roots, settings.image_url_allow)[: settings.limit]
    plan = CaptionPlan(settings, model, adapter, card, tuple(items), (), Counter(), (*notes, *card_notes), mode)
    plan = replace(plan, todo=tuple(plan.run_options.own(plan.items)))
    output = plan.run_options.rows_path
    check_ours(output)
    return with_earlier_rows(plan) if settings.resume and output.exists() else plan


def find_weights(model: Path, adapter: Path | None) -> tuple[Path, Path | None, tuple[str, ...]]:
    """(model folder, adapter folder or None, notes): an adapter in the model's place brings its base along."""
    located = locate(model)
    if adapter is not None:
        if located.kind == "adapter":
            what = "is an adapter itself, and --adapter is given too"
            raise UserError(Problem(str(model), what, "give the base model as --model"))
        added = locate(adapter)
        return located.folder, added.folder, (*located.notes, *added.notes)
    if located.kind == "adapter":
        base = base_of(located.folder)
        return base, located.folder, (*located.notes, f"{located.folder} is an adapter: loaded on its base {base}")
    return located.folder, None, located.notes


def find_card(folder: Path, emit_norm: str | None) -> tuple[Card, tuple[str, ...]]:
    """The checkpoint's card; where it has none, one of the shipped prompts and the norm that the user names."""
    if (folder / CARD_FILE).exists():
        if emit_norm is not None:
            raise ConfigError(Problem("--emit-norm", f"{folder} has a card, which says it", "leave the flag out"))
        return Card.read(folder), ()
    if emit_norm is None:
        what = f"there is no {CARD_FILE}: how it writes coordinates is not known"
        raise UserError(Problem(str(folder), what, f"say it with --emit-norm {'|'.join(EMIT_NORMS)}"))
    if emit_norm not in EMIT_NORMS:
        raise ConfigError(Problem("--emit-norm", f"{emit_norm!r} is none of {', '.join(EMIT_NORMS)}"))
    card = Card(emit_norm, default_prompts(emit_norm), "mixed", "top_left", "qwen3_vl", None)
    return card, (f"no {CARD_FILE} in {folder}: the prompts that ship are used",)


def choose_mode(card: Card, mode: str | None) -> str:
    """The requested mode, or the one that was trained; `mixed` gives dense answers by default."""
    if mode is None:
        return "dense" if card.mode == "mixed" else card.mode
    if mode not in MODES:
        raise ConfigError(Problem("--mode", f"{mode!r} is none of {', '.join(MODES)}"))
    if card.mode not in (mode, "mixed"):
        raise ConfigError(Problem("--mode", f"the checkpoint was trained for {card.mode} answers, not {mode}"))
    return mode


def with_earlier_rows(plan: CaptionPlan) -> CaptionPlan:
    """The plan without the pictures that have a row."""
    todo, done, notes = earlier_rows(plan.run_options.rows_path, identity_of(plan), plan.todo)
    return replace(plan, todo=todo, done=done, notes=(*plan.notes, *notes))


def earlier_rows(
    output: Path, identity: JsonObject, items: Sequence[ItemT], things: str = "pictures"
) -> tuple[tuple[ItemT, ...], Counter[str], tuple[str, ...]]:
    """(items without a row, statuses of the others, notes); rows that are errors are tried again."""
    check_identity(output, identity)
    earlier = dict(read_heads(output))
    done = {key: status for key, status in earlier.items() if not status.startswith(ERROR)}
    todo = tuple(item for item in items if item.key not in done)
    statuses = Counter(done[item.key] for item in items if item.key in done)
    notes = [f"resuming {output}: {statuses.total()} of {len(items)} {things} are done"]
    if failed := len(earlier) - len(done):
        notes.append(f"{failed} that failed are tried again")
    return todo, statuses, tuple(notes)


def identity_of(plan: CaptionPlan) -> JsonObject:
    """What makes rows comparable: two runs that differ in it must not share an output."""
    own = {"mode": plan.mode, "guided": plan.settings.guided}
    return answering(plan.settings, plan.model, plan.adapter, plan.card) | own


def _known(card: Card) -> JsonObject:
    """A card as an identity keeps it: what earlier versions did not know is in it only where it is not the default."""
    content = asdict(card)
    if card.answer == PLAIN_FORM:
        del content["answer"]
    if not card.prompts.negative_summary:
        del content["prompts"]["negative_summary"]
    return content


def answering(settings: RunSettings, model: Path, adapter: Path | None, card: Card) -> JsonObject:
    """The part of an identity that names the engine and its settings."""
    return {
        "model": settings.served_model or "" if settings.servers else str(model.resolve()),
        "adapter": None if adapter is None else str(adapter.resolve()),
        "card": _known(card),
        "sampling": asdict(settings.sampling),
        "dtype": None if settings.dtype == "auto" else settings.dtype,
        "attn_impl": settings.attn_impl,
    }
