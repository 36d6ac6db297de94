"""Distillation on a CUDA device: the head at the shapes of real models, whole steps, and steps with a teacher cache.

    python benchmarks/gpu_kd.py --json --save

`head`: the comparison of `kd_head.py` (same peers, equal results asserted first) in bfloat16 at the hidden sizes of the
2B, 4B and 8B models, 4,096 tokens of which a tenth is supervised. `step` and `cache`: those of `kd_step.py` and
`kd_cache.py`, in float32, with their figures and their conditions. Memory is the growth of what torch allocated on the
device.

Without such a device it says so, prints `{"skipped": reason}` with `--json`, and ends with 0.
`--device cpu --hidden 64 --tokens 64 --sizes small --steps 2 --rounds 1` tries the script itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import kd_cache
import kd_head
import kd_step
import torch

HIDDEN = (2048, 2560, 4096)


def on_device(sides: kd_head.Sides, device: str, dtype: torch.dtype) -> kd_head.Sides:
    """The same numbers elsewhere; hidden rows and head in `dtype`."""
    student, teacher, head = (tensor.to(device, dtype) for tensor in (sides.student, sides.teacher, sides.head))
    return kd_head.Sides(student, teacher, head, sides.labels.to(device))


def timed(job: Callable[[], Any], device: str) -> tuple[float, float | None]:
    """(seconds, growth of allocated memory in MB; None on a CPU)."""
    if device == "cpu":
        return kd_head.timed(job), None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, began = torch.cuda.memory_allocated(), time.perf_counter()
    job()
    torch.cuda.synchronize()
    return time.perf_counter() - began, (torch.cuda.max_memory_allocated() - before) / 1e6


def close_enough(name: str, got: kd_head.Result, wanted: kd_head.Result) -> None:
    """Loss and norm of the gradient to a hundredth: bfloat16 has eight bits, and each way rounds elsewhere."""
    torch.testing.assert_close(got[0].float(), wanted[0].float(), rtol=1e-2, atol=0, msg=lambda text: f"{name}: {text}")
    norms = [result[1].float().norm() for result in (got, wanted)]
    torch.testing.assert_close(*norms, rtol=1e-2, atol=0, msg=lambda text: f"{name}, gradient: {text}")


def floor(sides: kd_head.Sides) -> None:
    """The three products alone."""
    rows, teacher, _ = kd_head.supervised(sides)
    _ = teacher @ sides.head.t()
    _ = (rows @ sides.head.t()) @ sides.head


def measure(sides: kd_head.Sides, beta: float, rounds: int, device: str) -> dict[str, Any]:
    """Medians of interleaved runs."""
    wanted = kd_head.ours(sides, beta)
    jobs: dict[str, Callable[[], Any]] = {"ours": partial(kd_head.ours, sides, beta), "floor": partial(floor, sides)}
    for name, run in kd_head.peers().items():
        if name.endswith("compiled") and device == "cpu":
            continue
        try:
            close_enough(name, run(sides, beta), wanted)
        except torch.OutOfMemoryError:
            print(f"{name}: out of memory", file=sys.stderr)
            continue
        jobs[name] = partial(run, sides, beta)
    runs: dict[str, list[tuple[float, float | None]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            runs[name].append(timed(job, device))
    seconds = {name: statistics.median(second for second, _ in found) for name, found in runs.items()}
    memory = {name: found[-1][1] for name, found in runs.items()}
    best = min((name for name in seconds if name not in ("ours", "floor")), key=lambda name: seconds[name])
    return {
        "ours_s": seconds["ours"],
        "floor_s": seconds["floor"],
        "over_floor": round(seconds["ours"] / seconds["floor"], 3),
        "best_peer": best,
        "best_peer_s": seconds[best],
        "ours_mb": memory["ours"],
        "best_peer_mb": memory[best],
        "all_s": seconds,
        "all_mb": memory,
    }


def head(options: argparse.Namespace) -> dict[str, Any]:
    """Figures by hidden size, then by divergence."""
    found = {}
    for hidden in options.hidden:
        sides = kd_head.make_sides(options.tokens, max(1, options.tokens // 10), hidden, options.vocab)
        sides = on_device(sides, options.device, torch.bfloat16 if options.device == "cuda" else torch.float32)
        found[f"hidden_{hidden}"] = {
            kind: measure(sides, beta, options.rounds, options.device) for kind, beta in kd_head.BETAS.items()
        }
    return {"tokens": options.tokens, **found}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "head": head,
    "step": lambda options: kd_step.measure(options.steps, options.sizes, options.device),
    "cache": lambda options: kd_cache.measure(options.steps, min(options.rounds, 3), options.device),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--parts", nargs="*", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--tokens", type=int, default=4096, help="of the head")
    parser.add_argument("--hidden", type=int, nargs="*", default=list(HIDDEN), help="of the head")
    parser.add_argument("--vocab", type=int, default=151_936, help="of the head")
    parser.add_argument("--rounds", type=int, default=7, help="runs of the head; at most 3 of the cache's processes")
    parser.add_argument("--sizes", nargs="*", choices=tuple(kd_step.LIMITS), default=list(kd_step.LIMITS))
    parser.add_argument("--steps", type=int, default=21, help="steps per process; the first is not counted")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        reason = "no CUDA device: nothing was measured"
        print(json.dumps({"skipped": reason}) if options.json else reason)
        return
    warnings.filterwarnings("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        result = {name: PARTS[name](options) for name in options.parts}
    harness.show(result, options)


if __name__ == "__main__":
    main()
