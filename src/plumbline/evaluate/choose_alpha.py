"""How much of a fine-tune to merge: the likeliest answers of the domain among what drifts within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import DataError, Problem, UserError
from plumbline.evaluate.divergence import kl_terms
from plumbline.evaluate.drift import Probe, read_probes
from plumbline.infer.config import Sampling
from plumbline.infer.plan import find_weights
from plumbline.infer.questions import card_of

if TYPE_CHECKING:
    from plumbline.infer.local import TransformersEngine

ALPHAS = tuple(number / 10 for number in range(1, 11))
_LINEAR = ("LORA", "ADALORA")


@dataclass(frozen=True)
class AlphaPoint:
    """One share of the way from the base to the fine-tune.

    Attributes:
        alpha: 0 is the base, 1 the fine-tune.
        drift: Forward KL from the base on the probes, nats per token.
        loss: Cross-entropy of the domain's answers, nats per token.
    """

    alpha: float
    drift: float
    loss: float


@dataclass
class _Sums:
    kl: float = 0.0
    tokens: int = 0
    ce: float = 0.0
    answers: int = 0


def alpha_points(
    engine: TransformersEngine,
    probes: Sequence[Probe],
    alphas: Sequence[float] = ALPHAS,
    progress: Callable[[int], None] = lambda count: None,
) -> list[AlphaPoint]:
    """Drift and loss at each alpha; probes of the cell `domain` give the loss, all others the drift.

    The base reads each probe once. Raises UserError for an adapter whose weights do not grow linearly with a factor.
    """
    _check_linear(engine)
    sums = {alpha: _Sums() for alpha in alphas}
    for probe in probes:
        _measure(engine, probe, sums)
        progress(1)
    if any(not each.tokens or not each.answers for each in sums.values()):
        raise DataError(Problem("--probe, --domain", "one of them holds nothing to measure", "give both files"))
    return [AlphaPoint(alpha, each.kl / each.tokens, each.ce / each.answers) for alpha, each in sums.items()]


def choose_alpha(points: Sequence[AlphaPoint], budget: float) -> AlphaPoint | None:
    """The point with the smallest loss among those within the budget; None when even the smallest alpha is beyond."""
    within = [point for point in points if point.drift <= budget]
    return min(within, key=lambda point: point.loss) if within else None


def points_of(
    adapter: Path, base: Path | None, probe: Path, domain: Path, progress: Callable[[int], None]
) -> list[AlphaPoint]:
    """The same from files; loads the model."""
    from plumbline.infer.local import TransformersEngine

    folder, found, _ = find_weights(adapter if base is None else base, None if base is None else adapter)
    if found is None:
        raise UserError(Problem(str(adapter), "is no adapter", "give the adapter or the checkpoint that holds one"))
    card = card_of(found)
    probes = read_probes(probe, domain, card)
    return alpha_points(TransformersEngine(folder, found, max_pixels=card.max_pixels), probes, progress=progress)


def _measure(engine: TransformersEngine, probe: Probe, sums: dict[float, _Sums]) -> None:
    import torch

    from plumbline.train.objective.terms import head_terms
    from plumbline.train.objective.weights import LossWeights

    request = probe.question.request(Sampling())
    is_domain = probe.cell == "domain"
    with torch.no_grad():
        theirs = None
        if not is_domain:
            with engine.adapters_off():
                theirs = engine.answer_rows(request, probe.answer)
        for alpha, own in sums.items():
            with _scaled(engine, alpha):
                rows, targets, head = engine.answer_rows(request, probe.answer)
            if theirs is None:
                own.ce += float(head_terms(rows, head, targets, LossWeights()).ce)
                own.answers += len(targets)
            else:
                own.kl += float(kl_terms(rows, head, targets, theirs[0], theirs[2]).kd)
                own.tokens += len(targets)


@contextmanager
def _scaled(engine: TransformersEngine, alpha: float) -> Iterator[None]:
    """The adapter at a share of its effect."""
    layers = [module.scaling for module in engine.model.modules() if isinstance(getattr(module, "scaling", None), dict)]
    before = [dict(scaling) for scaling in layers]
    for scaling in layers:
        for name in scaling:
            scaling[name] *= alpha
    engine.forget_pictures()
    try:
        yield
    finally:
        for scaling, values in zip(layers, before, strict=True):
            scaling.update(values)
        engine.forget_pictures()


def _check_linear(engine: TransformersEngine) -> None:
    for config in engine.model.peft_config.values():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind not in _LINEAR or getattr(config, "use_dora", False) or config.modules_to_save:
            what = "this adapter is more than a low-rank sum: its effect does not grow with one factor"
            raise UserError(
                Problem("--alpha", what, "merge with several --alpha, and measure each with plumbline drift")
            )
