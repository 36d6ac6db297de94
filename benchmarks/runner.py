"""What the resumable runner costs besides the engine, on recorded replies.

    python benchmarks/runner.py --json

Rows are Stage-A's, the engine answers at once. "overhead" is the whole run of 100,000 rows divided by their number:
requests, threads, replies read into rows, appending. What reading a dense caption of two objects costs besides is told
apart. Memory is the peak of fresh processes (items are
made one by one, so that only what the runner keeps is counted); "resume" opens a finished output of 100,000 rows and
finds nothing to do.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from harness.memory import resident_mb

from plumbline.infer.captions import caption_row
from plumbline.infer.engine import Reply, Request
from plumbline.infer.runner import RunOptions, run_work
from plumbline.stage_a.summaries import read_reply

TEXT = (
    '{"object_1": {"bbox_2d": [100, 200, 300, 400], "desc": "BBU设备/品牌:华为/型号:5900"}, '
    '"object_2": {"line_points": 3, "line": [50, 60, 80, 120, 130, 180], "desc": "光纤/颜色:黄色/保护:有保护"}}'
)


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture by its number."""

    key: str


class Photos(Sequence[Photo]):
    """Made one by one."""

    def __init__(self, count: int):
        self._numbers = range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: Any) -> Any:
        return Photo(f"mission/审核通过/QC-{self._numbers[place] // 8}/p{self._numbers[place] % 8}.jpg")

    def __iter__(self) -> Iterator[Photo]:
        return (self[number] for number in self._numbers)


class Recorded:
    """Answers at once."""

    identity = "recorded"

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """The same reply for all."""
        return (Reply(request.key, "BBU设备×1，光模块×3，线缆×2", 12) for request in requests)


class Summaries:
    """Stage-A rows of pictures that are never opened."""

    def ask(self, item: Photo) -> Request:
        """Text alone."""
        return Request(item.key, (), "system", "user")

    def row(self, item: Photo, request: Request | None, reply: Reply) -> Mapping[str, Any]:
        """As `plumbline stage-a` writes it."""
        summary, status, problems = read_reply(reply)
        where = {"mission": "m", "label": "pass", "group_id": "QC-1"}
        return {"key": item.key, "status": status, **where, "summary": summary, "problems": problems}


def one_run(output: Path, count: int) -> dict[str, Any]:
    """Run in this process; seconds, rows written, peak memory in MB."""
    began = time.perf_counter()
    report = run_work(Photos(count), Summaries(), Recorded, RunOptions(output, window=256), {})
    seconds = time.perf_counter() - began
    assert report.statuses == {"ok": count}, report.statuses
    return {"seconds": seconds, "written": report.written, "peak_mb": resident_mb("VmHWM")}


def per_call_ms(call: Callable[[], Any], count: int = 5000) -> float:
    """Milliseconds of a call."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count * 1e3


def measure(rows: int) -> dict[str, Any]:
    """Everything that is printed."""
    with tempfile.TemporaryDirectory() as folder:
        small = harness.fresh_process(__file__, "--run", Path(folder) / "small.jsonl", rows // 10)
        large = harness.fresh_process(__file__, "--run", Path(folder) / "large.jsonl", rows)
        again = harness.fresh_process(__file__, "--run", Path(folder) / "large.jsonl", rows)
    row, caption = Summaries().row(Photo("x"), None, Reply("x", "标签×1")), Reply("x", TEXT, 60)
    assert (small["written"], large["written"], again["written"]) == (rows // 10, rows, 0)
    return {
        "overhead_ms_per_row": round(large["seconds"] / rows * 1e3, 4),
        "floor_ms_per_row": round(per_call_ms(lambda: json.dumps(row, ensure_ascii=False)), 4),
        "floor": "one row written as JSON",
        "dense_caption_ms": round(per_call_ms(lambda: caption_row("x", (3000, 4000), caption, "dense", "norm1000")), 4),
        f"peak_mb_{rows // 10_000}k": round(small["peak_mb"], 1),
        f"peak_mb_{rows // 1000}k": round(large["peak_mb"], 1),
        "resume_s": round(again["seconds"], 2),
        "rows": rows,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--run", nargs=2, metavar=("OUTPUT", "ROWS"), help="one run in this process")
    options = parser.parse_args()
    if options.run:
        print(json.dumps(one_run(Path(options.run[0]), int(options.run[1]))))
        return
    figures = measure(options.rows)
    harness.show(figures, options)


if __name__ == "__main__":
    main()
