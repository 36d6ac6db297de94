"""The output head of a distillation step, CE + JSD from hidden rows: ours against the usual ways and against the floor.

    python benchmarks/kd_head.py --json

Forward and gradient of the hidden rows for `ce + jsd` (and `ce + forward KL` under `kl`), one process, float32, frozen
head. The sequence holds `--tokens` tokens of which `--rows` are supervised. The peers:

- `full_logits`: both sides' logits of every token, as plain GKD trainers do (TRL's `generalized_jsd_loss`);
- `label_rows`: the same of supervised tokens only;
- `chunk_checkpoint`: label rows in chunks, each recomputed in the backward (the chunked cross-entropy of trainers);
- `liger_N`: Liger's chunked JSD with chunks of N rows, eager and compiled; its best is what counts.

Value and gradient of every peer must equal ours before anything is timed; the fastest setting of Liger goes on from
there. The floor is the three products with the head
that no exact method avoids (student, teacher, gradient: 6 * rows * hidden * vocab FLOP), in the faster of two shapes:
all rows at once, or chunks as ours. Rounds are interleaved and medians are taken. Memory is the largest
resident set during a call, less the one before it, in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from resident import resident_mb, restart_peak
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BETAS = {"jsd": 0.5, "kl": 0.0}
LIGER_CHUNKS = (32, 64, 128, 512)
Result = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sides:
    """Hidden rows of every token [T, H] of both sides, head [V, H], and labels [T] (-100 where nothing is learned)."""

    student: Tensor
    teacher: Tensor
    head: Tensor
    labels: Tensor


def make_sides(tokens: int, rows: int, hidden: int, vocab: int) -> Sides:
    """Logits as peaked as a language model's, the student a little off the teacher, which is its base: one head."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    head = draw(vocab, hidden) * (3.0 / hidden**0.5)
    teacher = draw(tokens, hidden)
    labels = torch.full((tokens,), -100)
    labels[-rows:] = torch.randint(0, vocab, (rows,), generator=generator)
    return Sides(teacher + 0.1 * draw(tokens, hidden), teacher, head, labels)


def supervised(sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    """(student rows [N, H], teacher rows [N, H], targets [N])."""
    keep = sides.labels != -100
    return sides.student[keep], sides.teacher[keep], sides.labels[keep]


def ours(sides: Sides, beta: float) -> Result:
    """The product's head."""
    from plumbline.train.kd.losses import LossWeights, head_terms

    rows, teacher, targets = supervised(sides)
    rows.requires_grad_()
    terms = head_terms(rows, sides.head, targets, LossWeights(1.0, 1.0, beta), teacher, sides.head)
    terms.objective.backward()
    return terms.objective.detach(), rows.grad  # type: ignore[return-value]


def full_logits(sides: Sides, beta: float) -> Result:
    """Logits of every token of both sides, masked afterwards."""
    student = sides.student.clone().requires_grad_()
    with torch.no_grad():
        teacher_logits = sides.teacher @ sides.head.t()
    loss = _plain(student @ sides.head.t(), teacher_logits, sides.labels, beta)
    loss.backward()
    return loss.detach(), student.grad[sides.labels != -100]  # type: ignore[index]


def label_rows(sides: Sides, beta: float) -> Result:
    """Logits of supervised tokens of both sides."""
    rows, teacher, targets = supervised(sides)
    rows.requires_grad_()
    with torch.no_grad():
        teacher_logits = teacher @ sides.head.t()
    loss = _plain(rows @ sides.head.t(), teacher_logits, targets, beta)
    loss.backward()
    return loss.detach(), rows.grad  # type: ignore[return-value]


def chunk_checkpoint(sides: Sides, beta: float, chunk: int = 64) -> Result:
    """Label rows in chunks whose logits are computed again in the backward."""
    rows, teacher, targets = supervised(sides)
    rows.requires_grad_()

    def part(mine: Tensor, theirs: Tensor, wanted: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = theirs @ sides.head.t()
        return _plain(mine @ sides.head.t(), teacher_logits, wanted, beta)

    pieces = zip(rows.split(chunk), teacher.split(chunk), targets.split(chunk), strict=True)
    loss = torch.stack([checkpoint(part, *piece, use_reentrant=False) for piece in pieces]).sum()
    loss.backward()
    return loss.detach(), rows.grad  # type: ignore[return-value]


def _plain(logits: Tensor, teacher_logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return ce + GKDTrainer.generalized_jsd_loss(logits[None], teacher_logits[None], labels[None], beta, reduction="sum")


def liger(sides: Sides, beta: float, chunk: int, compiled: bool) -> Result:
    """Liger's fused linear JSD; it averages over the rows, undone here."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    rows, teacher, targets = supervised(sides)
    rows.requires_grad_()
    loss_of = LigerFusedLinearJSDLoss(1.0, 1.0, beta=beta, compiled=compiled, chunk_size=chunk)
    loss = loss_of(rows, sides.head, teacher, sides.head, targets) * targets.numel()
    loss.backward()
    return loss.detach(), rows.grad  # type: ignore[return-value]


def floor(sides: Sides, chunk: int) -> None:
    """The three products alone, into memory that is there already."""
    rows, teacher, targets = supervised(sides)
    logits = torch.empty(min(chunk, targets.numel()), sides.head.shape[0])
    gradient = torch.empty_like(rows)
    for start in range(0, targets.numel(), chunk):
        mine, theirs = rows[start : start + chunk], teacher[start : start + chunk]
        out = logits[: mine.shape[0]]
        torch.mm(theirs, sides.head.t(), out=out)
        torch.mm(mine, sides.head.t(), out=out)
        torch.mm(out, sides.head, out=gradient[start : start + chunk])


def peers() -> dict[str, Callable[[Sides, float], Result]]:
    """Every other way, by name."""
    found: dict[str, Callable[[Sides, float], Result]] = {
        "full_logits": full_logits,
        "label_rows": label_rows,
        "chunk_checkpoint": chunk_checkpoint,
    }
    for chunk in LIGER_CHUNKS:
        found[f"liger_{chunk}"] = partial(liger, chunk=chunk, compiled=False)
        found[f"liger_{chunk}_compiled"] = partial(liger, chunk=chunk, compiled=True)
    return found


def assert_equal(name: str, got: Result, wanted: Result) -> None:
    """Loss and norm of the gradient to 1e-4, the gradient itself to 1e-4 of its largest entry."""
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-4, atol=0, msg=lambda text: f"{name}: loss: {text}")
    atol = 1e-4 * float(wanted[1].abs().max())
    torch.testing.assert_close(got[1], wanted[1], rtol=0, atol=atol, msg=lambda text: f"{name}: gradient: {text}")


def timed(job: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def memory_of(method: str, arguments: list[str]) -> float:
    """What one call of a method adds to the resident set at most, in a fresh process."""
    command = [sys.executable, __file__, "--memory", method, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def grown_mb(sides: Sides, method: str, beta: float) -> float:
    """What one call adds at most; a call on a few rows first, so that imports and kernels are there."""
    run = {"ours": ours, **peers()}[method]
    last = slice(-3, None)
    few = Sides(sides.student[last].clone(), sides.teacher[last].clone(), sides.head, sides.labels[last].clone())
    run(few, beta)
    before = restart_peak()
    run(sides, beta)
    return resident_mb("VmHWM") - before


def measure(sides: Sides, beta: float, rounds: int, arguments: list[str], only: list[str]) -> dict[str, Any]:
    """Figures of one divergence."""
    from plumbline.train.kd.losses import CHUNK_ROWS

    methods = {"ours": ours, **{name: run for name, run in peers().items() if not only or name in only}}
    wanted, first = ours(sides, beta), {}
    for name, run in methods.items():
        begun = time.perf_counter()
        assert_equal(name, run(sides, beta), wanted)
        first[name] = time.perf_counter() - begun
        if name.endswith("compiled"):
            first[name] = timed(partial(run, sides, beta))  # the first call compiled
    of_liger = [name for name in methods if name.startswith("liger")]
    for name in sorted(of_liger, key=lambda name: first[name])[1:]:
        del methods[name]
    rows = int((sides.labels != -100).sum())
    jobs: dict[str, Callable[[], Any]] = {name: partial(run, sides, beta) for name, run in methods.items()}
    jobs |= {"floor_whole": partial(floor, sides, rows), "floor_chunked": partial(floor, sides, CHUNK_ROWS)}
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(timed(job))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    floor_s = min(seconds.pop("floor_whole"), seconds.pop("floor_chunked"))
    ours_s = seconds.pop("ours")
    best = min(seconds, key=lambda name: seconds[name])
    flop = 6 * rows * sides.head.shape[1] * sides.head.shape[0]
    memory = {name: memory_of(name, [*arguments, "--beta", str(beta)]) for name in ("ours", best)}
    return {
        "ours_s": round(ours_s, 4),
        "floor_s": round(floor_s, 4),
        "floor_gflop": round(flop / 1e9, 1),
        "over_floor": round(ours_s / floor_s, 3),
        "best_peer": best,
        "best_peer_s": round(seconds[best], 4),
        "speedup": round(seconds[best] / ours_s, 2),
        "ours_mb": round(memory["ours"], 1),
        "best_peer_mb": round(memory[best], 1),
        "peers_s": {name: round(value, 4) for name, value in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300, help="supervised tokens")
    parser.add_argument("--tokens", type=int, default=900, help="tokens of the sequence")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs of every method")
    parser.add_argument("--only", nargs="*", default=[], help="peers to compare with; all when left out")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--beta", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    shape = {name: getattr(options, name) for name in ("tokens", "rows", "hidden", "vocab")}
    sides = make_sides(**shape)
    if options.memory:
        print(grown_mb(sides, options.memory, options.beta))
        return
    arguments = [text for name, value in shape.items() for text in (f"--{name}", str(value))]
    figures = {name: measure(sides, beta, options.rounds, arguments, options.only) for name, beta in BETAS.items()}
    result = {**figures.pop("jsd"), **figures, **shape, "threads": torch.get_num_threads(), "rounds": options.rounds}
    if options.json:
        print(json.dumps(result))
        return
    for name, part in (("JSD 0.5", result), ("forward KL", result["kl"])):
        print(
            f"{name}: {part['ours_s']:.3f} s, {part['over_floor']:.2f} of the floor ({part['floor_s']:.3f} s);"
            f" best peer {part['best_peer']} {part['best_peer_s']:.3f} s;"
            f" {part['ours_mb']:.0f} against {part['best_peer_mb']:.0f} MB"
        )


if __name__ == "__main__":
    main()
