"""`plumbline data preview`: samples of a run before and after augmentation, as a page, a picture and a number.

The number is the test that matters: dots are painted on a black picture, rendered by the same plan, and found where the
mapped points say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from plumbline.augment.plan import AugmentationPlan
from plumbline.augment.render import FILL, render
from plumbline.data.dataset import Sample
from plumbline.data.epoch import EpochDataset
from plumbline.data.images import load_image
from plumbline.data.record import DataObject, Record
from plumbline.errors import EXIT_FINDINGS, EXIT_OK, ConfigError, DataError, Problem
from plumbline.geometry.maps import map_points
from plumbline.report.html import data_url, render_page, write_page
from plumbline.report.overlay import draw_objects
from plumbline.storage.objects import JsonObject
from plumbline.train.config import load_run
from plumbline.train.datasets import augmented, open_datasets

SIDE = 640
"""Longest side of a picture on the page."""
MOST_ERROR_PX = 0.5
_DOT = 3
_REACH = 9


@dataclass(frozen=True)
class Shown:
    """One picture of a sample, drawn before and after. error: largest distance of a dot in pixels, None without one."""

    sample: Sample
    record: Record
    plan: AugmentationPlan
    before: Image.Image
    after: Image.Image
    error: float | None


def preview(config: Path, base_config: Path | None, output: Path, count: int, epoch: int, *, as_json: bool) -> int:
    """Write `preview.html` and `preview.png` into `output`; 0, or 3 when a sample fails or a dot is misplaced."""
    run = load_run(config, base_config).run
    if not run.custom.augmentation.enabled:
        fix = "set custom.augmentation.enabled: true and list ops"
        raise ConfigError(Problem("custom.augmentation", "is not enabled: there is nothing to see", fix))
    samples = augmented(run, open_datasets(run)[0], total_steps=100)
    shown, failed = _shown(samples, count, epoch)
    errors = [item.error for item in shown if item.error is not None]
    worst = max(errors, default=0.0)
    output.mkdir(parents=True, exist_ok=True)
    context = {"config": str(config), "epoch": epoch, "samples": [_row(item) for item in shown], "worst": worst}
    total = sum(len(item.record.objects) for item in shown)
    kept = sum(len(item.plan.record.objects) for item in shown)
    page = render_page("preview.html", context | {"failed": list(map(str, failed)), "total": total, "kept": kept})
    write_page(output / "preview.html", page)
    if shown:
        _sheet(shown).save(output / "preview.png")
    facts = {
        "samples": len(shown),
        "failed": len(failed),
        "objects_told": total,
        "objects_kept": kept,
        "max_point_error_px": round(worst, 4),
        "page": str(output / "preview.html"),
        "picture": str(output / "preview.png"),
    }
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        print("\n".join(f"{key}: {value}" for key, value in facts.items()))
        print("\n".join(map(str, failed)))
    return EXIT_FINDINGS if failed or worst > MOST_ERROR_PX else EXIT_OK


def _shown(samples: EpochDataset, count: int, epoch: int) -> tuple[list[Shown], list[Problem]]:
    """The first augmented pictures of an epoch, and what could not be shown on the way."""
    shown: list[Shown] = []
    failed: list[Problem] = []
    for position in range(len(samples)):
        if len(shown) >= count or len(failed) >= count:
            break
        try:
            shown += _pictures(samples, position, epoch)
        except DataError as error:
            failed += error.problems[:1]
    return shown[:count], failed


def _pictures(samples: EpochDataset, position: int, epoch: int) -> Iterator[Shown]:
    sample = samples.item(position, epoch)
    turn = samples.mixture.turns(epoch)[position]
    for picture, index in zip(sample.pictures, turn.records, strict=False):
        plan = picture.plan
        if not isinstance(plan, AugmentationPlan):
            continue
        source = load_image(picture.reference)
        if source.size != plan.source:
            what = f"the picture is {source.width} x {source.height}, the record says {plan.source}"
            raise DataError(Problem(picture.place, what, "correct width and height"))
        record = samples.sources[turn.source].records[index]
        after = Image.fromarray(render(np.asarray(source), plan))
        before = _drawn(source, record.objects)
        yield Shown(sample, record, plan, before, _drawn(after, plan.record.objects), dot_error(plan))


def _drawn(picture: Image.Image, objects: Sequence[DataObject]) -> Image.Image:
    return draw_objects(picture, objects, scale=min(1.0, SIDE / max(picture.size)))


def dot_error(plan: AugmentationPlan) -> float | None:
    """Largest distance in pixels of the canvas between a painted dot and where the plan's map takes it."""
    width, height = plan.source
    counts = [max(2, min(7, side // (4 * _REACH))) for side in (width, height)]
    steps = [
        np.linspace(2 * _DOT, side - 2 * _DOT, count).astype(int) + 0.5
        for side, count in zip((width, height), counts, strict=True)
    ]
    dots = np.array([[x, y] for x in steps[0] for y in steps[1]])
    black = np.zeros((height, width, 3), np.uint8)
    for x, y in dots:
        cv2.circle(black, (int(x), int(y)), _DOT, (255, 255, 255), -1)
    # Pasted pieces would show dots of their own.
    picture = render(black, replace(plan, patches=(), colour=()))[..., 0]
    # Only what is lighter than the fill: its border with the black picture is a blend of the two.
    light = np.maximum(picture.astype(float) - FILL[0] - 1, 0)
    moved = map_points(dots, plan.matrix)
    errors = [error for point in moved if (error := _distance(light, point, moved)) is not None]
    return max(errors, default=None)


def _distance(light: np.ndarray, point: np.ndarray, dots: np.ndarray) -> float | None:
    """How far the light around `point` lies from it; None at the edge, and where another dot is near."""
    x, y = point.tolist()
    height, width = light.shape
    near = np.abs(dots - point).max(axis=1) < 3 * _REACH
    if not (_REACH < x < width - _REACH and _REACH < y < height - _REACH) or near.sum() > 1:
        return None
    top, left = int(y) - _REACH, int(x) - _REACH
    window = light[top : top + 2 * _REACH + 1, left : left + 2 * _REACH + 1]
    total = window.sum()
    if total < 127:  # shrunk to less than a pixel
        return None
    ys, xs = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]] + 0.5
    return float(np.hypot((xs * window).sum() / total - x, (ys * window).sum() / total - y))


def _row(item: Shown) -> JsonObject:
    """One sample as the template shows it."""
    plan = item.plan
    lost = [(item.record.objects[index].desc, f"dropped: {reason}") for index, reason in plan.dropped]
    cut = [
        (after.desc, f"{share:.0%}")
        for after, share in zip(plan.record.objects, plan.coverages, strict=True)
        if share < 1
    ]
    return {
        "place": item.record.place,
        "mode": item.sample.mode,
        "before_size": "{} x {}".format(*plan.source),
        "after_size": f"{plan.width} x {plan.height}",
        "applied": plan.applied,
        "skipped": [f"{name} ({reason})" for name, reason in plan.skipped],
        "total": len(item.record.objects),
        "kept": len(plan.record.objects),
        "before": data_url(item.before),
        "after": data_url(item.after),
        "error": item.error,
        "changes": [*cut, *lost],
    }


def _sheet(shown: Sequence[Shown]) -> Image.Image:
    """Before and after side by side, one sample below the other."""
    cell, gap = SIDE // 2, 8
    sheet = Image.new("RGB", (2 * cell + 3 * gap, len(shown) * (cell + gap) + gap), "white")
    for row, item in enumerate(shown):
        for column, picture in enumerate((item.before, item.after)):
            small = picture.copy()
            small.thumbnail((cell, cell))
            sheet.paste(small, (gap + column * (cell + gap), gap + row * (cell + gap)))
    return sheet
