"""The output head of a distillation step, CE + JSD from hidden rows: ours against the usual ways and against the floor.

    python benchmarks/kd_head.py --json

Forward and gradient of the hidden rows for `ce + jsd` (and `ce + forward KL` under `kl`), float32, frozen head. The
sequence holds `--tokens` tokens of which `--rows` are supervised. The peers:

- `full_logits`: both sides' logits of every token, as plain GKD trainers do (TRL's `generalized_jsd_loss`);
- `label_rows`: the same of supervised tokens only;
- `chunk_checkpoint`: label rows in chunks, each recomputed in the backward (the chunked cross-entropy of trainers);
- `liger_N`: Liger's chunked JSD with chunks of N rows, eager and compiled; its best is what counts.

Value and gradient of every peer must equal ours before anything is timed; the fastest setting of Liger goes on from
there. The floor is the three products with the head that no exact method avoids (student, teacher, gradient:
6 * rows * hidden * vocab FLOP), in the faster of two shapes: all rows at once, or chunks as ours. It takes the memory
of its logits as every peer does, in the call; `floor_kept` has it already: each page that the system hands out is
zeroed first, which a method that keeps its memory from call to call, as ours does, pays but once.

Every method has a process of its own, so that none works in memory which another left behind; they take turns, in
another order each round, and medians of the rounds are told. Memory is the largest resident set during a call, less the
one before the first.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import harness
import torch
from harness.memory import resident_mb, restart_peak
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BETAS = {"jsd": 0.5, "kl": 0.0}
FLOORS = ("floor_whole", "floor_chunked", "floor_kept_whole", "floor_kept_chunked")
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
    from plumbline.train.objective.terms import head_terms
    from plumbline.train.objective.weights import LossWeights

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


def floors(sides: Sides) -> dict[str, Callable[[Sides, float], None]]:
    """The three products alone: all rows at once or chunks as ours; memory of the logits taken by the call, or kept."""
    from plumbline.train.objective.terms import CHUNK_ROWS

    rows, vocab = int((sides.labels != -100).sum()), sides.head.shape[0]
    found: dict[str, Callable[[Sides, float], None]] = {}
    for shape, chunk in (("whole", rows), ("chunked", min(CHUNK_ROWS, rows))):
        kept = torch.empty(chunk, vocab)
        found[f"floor_{shape}"] = lambda sides, beta, chunk=chunk: _products(sides, torch.empty(chunk, vocab))
        found[f"floor_kept_{shape}"] = lambda sides, beta, kept=kept: _products(sides, kept)
    return found


def _products(sides: Sides, memory: Tensor) -> None:
    """Teacher's logits, student's logits, gradient of the rows: as many rows at a time as there is memory for."""
    rows, teacher, targets = supervised(sides)
    chunk = memory.shape[0]
    gradient = torch.empty_like(rows)
    for start in range(0, targets.numel(), chunk):
        mine, theirs = rows[start : start + chunk], teacher[start : start + chunk]
        out = memory[: mine.shape[0]]
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


class Contender:
    """A method at work in a process of its own, which answers one line for each line it is sent."""

    def __init__(self, method: str, arguments: list[str]):
        command = [sys.executable, __file__, "--contender", method, *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.method = method

    def ask(self, wish: str) -> float:
        """A figure of the method; stops where its process did."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{wish}\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        assert told, f"{self.method} ended with {self._process.wait()} when it was asked to {wish}"
        return float(told)

    def close(self) -> None:
        """End its process."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


def contend(sides: Sides, method: str, beta: float, result: Path) -> None:
    """Answer the lines that come in: `run` with the seconds of a call, `memory` with MB.

    A call on a few rows comes first, so that imports and kernels are there; then one on all rows, whose value and
    gradient go to `result`. Memory is the largest resident set of a later call less what there was before that one.
    """
    run: Callable[[Sides, float], Any] = {"ours": ours, **floors(sides), **peers()}[method]
    last = slice(-3, None)
    few = Sides(sides.student[last].clone(), sides.teacher[last].clone(), sides.head, sides.labels[last].clone())
    run(few, beta)
    before = restart_peak()
    torch.save(run(sides, beta), result)
    for line in sys.stdin:
        restart_peak()
        seconds = timed(partial(run, sides, beta))
        print(seconds if line.strip() == "run" else resident_mb("VmHWM") - before, flush=True)


def measure(shape: dict[str, int], beta: float, rounds: int, only: list[str], folder: Path) -> dict[str, Any]:
    """Figures of one divergence."""
    names = ["ours", *FLOORS, *(name for name in peers() if not only or name in only)]
    contenders: dict[str, Contender] = {}
    first: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            result = folder / f"{name}.pt"
            text = [f"--{key}={value}" for key, value in {**shape, "beta": beta, "result": result}.items()]
            contenders[name] = Contender(name, text)
            stack.callback(contenders[name].close)
            first[name] = contenders[name].ask("run")
            if name not in FLOORS:
                assert_equal(name, torch.load(result), torch.load(folder / "ours.pt"))
        of_liger = [name for name in names if name.startswith("liger")]
        for name in sorted(of_liger, key=lambda name: first[name])[1:]:
            contenders.pop(name).close()
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds):
            # Whoever follows a method that gave back gigabytes pays for it: not the same one in every round.
            for name in random.Random(number).sample(list(contenders), len(contenders)):
                times[name].append(contenders[name].ask("run"))
        seconds = {name: statistics.median(values) for name, values in times.items()}
        kept_s = min(seconds.pop(name) for name in FLOORS if "kept" in name)
        floor_s = min(seconds.pop(name) for name in FLOORS if name in seconds)
        ours_s = seconds.pop("ours")
        best = min(seconds, key=lambda name: seconds[name])
        memory = {name: contenders[name].ask("memory") for name in ("ours", *seconds)}
    flop = 6 * shape["rows"] * shape["hidden"] * shape["vocab"]
    return {
        "ours_s": round(ours_s, 4),
        "floor_s": round(floor_s, 4),
        "floor_gflop": round(flop / 1e9, 1),
        "over_floor": round(ours_s / floor_s, 3),
        "floor_kept_s": round(kept_s, 4),
        "over_floor_kept": round(ours_s / kept_s, 3),
        "best_peer": best,
        "best_peer_s": round(seconds[best], 4),
        "speedup": round(seconds[best] / ours_s, 2),
        "ours_mb": round(memory.pop("ours"), 1),
        "best_peer_mb": round(memory[best], 1),
        "peers_s": {name: round(value, 4) for name, value in seconds.items()},
        "peers_mb": {name: round(value, 1) for name, value in memory.items()},
    }


def line(name: str, part: dict[str, Any]) -> str:
    """One divergence, its floor and its best peer."""
    return (
        f"{name}: {part['ours_s']:.3f} s, {part['over_floor']:.2f} of the floor ({part['floor_s']:.3f} s,"
        f" {part['over_floor_kept']:.2f} of the one with memory kept);"
        f" best peer {part['best_peer']} {part['best_peer_s']:.3f} s;"
        f" {part['ours_mb']:.0f} against {part['best_peer_mb']:.0f} MB"
    )


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=300, help="supervised tokens")
    parser.add_argument("--tokens", type=int, default=900, help="tokens of the sequence")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs of every method")
    parser.add_argument("--only", nargs="*", default=[], help="peers to compare with; all when left out")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--beta", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    shape = {name: getattr(options, name) for name in ("tokens", "rows", "hidden", "vocab")}
    if options.contender:
        contend(make_sides(**shape), options.contender, options.beta, options.result)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            name: measure(shape, beta, options.rounds, options.only, Path(folder)) for name, beta in BETAS.items()
        }
    result = {**figures.pop("jsd"), **figures, **shape, "threads": torch.get_num_threads(), "rounds": options.rounds}
    harness.show(result, options, "\n".join(starmap(line, (("JSD 0.5", result), ("forward KL", result["kl"])))))


if __name__ == "__main__":
    main()
