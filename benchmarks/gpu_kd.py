"""The head of a distillation step on a CUDA device, at the shapes of real models.

    python benchmarks/gpu_kd.py --json --save

The comparison of `kd_head.py` (same peers, equal results asserted first) in bfloat16 at the hidden sizes of the 2B, 4B
and 8B models, 4,096 tokens of which a tenth is supervised, with the growth of the memory that torch allocated. `--save`
keeps the object under `benchmarks/results/` with date, device and commit. Without such a device it says so and ends
with 3; `--device cpu --hidden 64 --tokens 64` tries the script itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import kd_head
import torch

HIDDEN = (2048, 2560, 4096)
RESULTS = Path(__file__).with_name("results")


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, nargs="*", default=list(HIDDEN))
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--save", action="store_true", help="keep the object under benchmarks/results/")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured", file=sys.stderr)
        return 3
    warnings.filterwarnings("ignore")
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent
    ).stdout.strip()
    today = datetime.date.today().isoformat()
    result: dict[str, Any] = {"date": today, "device": name, "commit": commit, "tokens": options.tokens}
    for hidden in options.hidden:
        sides = kd_head.make_sides(options.tokens, max(1, options.tokens // 10), hidden, options.vocab)
        sides = on_device(sides, options.device, torch.bfloat16 if options.device == "cuda" else torch.float32)
        figures = {kind: measure(sides, beta, options.rounds, options.device) for kind, beta in kd_head.BETAS.items()}
        result[f"hidden_{hidden}"] = figures
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        (RESULTS / f"gpu_kd-{today}-{slug}-{commit}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
