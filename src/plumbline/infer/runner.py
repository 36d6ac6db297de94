"""The resumable caption run: pictures -> requests -> replies -> rows, appended as they come."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.data.images import load_image
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, DataError
from plumbline.infer.captions import ERROR, CaptionRow, caption_row, error_row
from plumbline.infer.engine import Engine, Request
from plumbline.infer.inputs import Item
from plumbline.infer.plan import Plan, identity_of, identity_path
from plumbline.infer.rows import RowFile, drop_rows, set_torn_line_aside
from plumbline.model.checkpoints import write_atomically

if TYPE_CHECKING:
    from PIL import Image

WINDOW_BATCHES = 4  # batches whose pictures are open at once and sorted by length among themselves
EXIT_INTERRUPTED = 130

OnCaption = Callable[[CaptionRow, "Image.Image"], None]


@dataclass
class CaptionReport:
    """What a run did. statuses: of every row of the output, earlier runs included; written: rows of this run."""

    images: int
    output: Path
    statuses: Counter[str]
    written: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Pictures without a reply."""
        return sum(count for status, count in self.statuses.items() if status.startswith(ERROR))

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_FINDINGS if self.errors else EXIT_OK

    def as_dict(self) -> dict[str, Any]:
        content = asdict(self) | {"output": str(self.output), "statuses": dict(self.statuses), "errors": self.errors}
        return content | {"seconds": round(self.seconds, 3)}


def run_captions(
    plan: Plan,
    engine: Engine,
    on_caption: OnCaption | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> CaptionReport:
    """Describe the pictures of the plan, one row each; a picture that fails costs itself alone.

    on_caption: called before a row is written, with it and its picture (not for pictures that could not be opened).
    progress: called with the number of rows written each time. An interrupt ends the run between rows, and says so
    in the report.
    """
    report = CaptionReport(plan.items, plan.settings.output, Counter(plan.done))
    begun = time.perf_counter()
    prepare_output(plan, report)
    try:
        with RowFile(plan.settings.output) as rows:
            for row, picture in captions(plan, engine):
                # Before the row: a run that is stopped in between describes and draws the picture again.
                if on_caption is not None and picture is not None:
                    on_caption(row, picture)
                rows.append(row.as_dict())
                report.written += 1
                report.statuses[row.status] += 1
                if row.status.startswith(ERROR):
                    report.failures.append(f"{row.key}: {row.problems[0]}")
                progress(1)
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds = time.perf_counter() - begun
    return report


def prepare_output(plan: Plan, report: CaptionReport) -> None:
    """Start anew, or mend what is there: a torn last line is set aside, rows that are errors leave."""
    output = plan.settings.output
    output.parent.mkdir(parents=True, exist_ok=True)
    if not plan.settings.resume:
        output.unlink(missing_ok=True)
    if output.exists():
        if torn := set_torn_line_aside(output):
            report.warnings.append(f"{output}: its last line was cut short; it is set aside in {torn.name}")
        drop_rows(output, lambda row: row["status"].startswith(ERROR))
    write_atomically(identity_path(output), json.dumps(identity_of(plan), ensure_ascii=False, indent=1) + "\n")


def captions(plan: Plan, engine: Engine) -> Iterator[tuple[CaptionRow, Image.Image | None]]:
    """Rows with their pictures, in windows of a few batches."""
    size = WINDOW_BATCHES * plan.settings.batch_size
    for start in range(0, len(plan.todo), size):
        yield from window_captions(plan, engine, plan.todo[start : start + size])


def window_captions(
    plan: Plan, engine: Engine, items: Sequence[Item]
) -> Iterator[tuple[CaptionRow, Image.Image | None]]:
    """The rows of some pictures: first those that cannot be opened, then the rest as their replies come."""
    system, user = plan.card.prompts.of_mode(plan.mode)
    opened: dict[str, tuple[Item, Image.Image]] = {}
    for item in items:
        try:
            opened[item.key] = item, load_image(item.path())
        except DataError as error:
            yield error_row(item.key, item.image, "image", str(error)), None
    requests = [Request(key, (picture,), system, user) for key, (_, picture) in opened.items()]
    for reply in engine.stream(requests):
        item, picture = opened[reply.key]
        yield caption_row(item.image, picture.size, reply, plan.mode, plan.card.emit_norm), picture
