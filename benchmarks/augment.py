"""One planned warp against a chain of warps: albumentations 2.0.8 with the same operations and the same numbers.

    uv pip install --group bench --constraint constraints.txt
    python benchmarks/augment.py --json

A site photo of 12 megapixels with 240 points is flipped, turned, zoomed, slanted, tilted, cropped, brought onto the
model's grid of at most one megapixel, and recoloured. The numbers are those that our plan draws; the peer gets them as
literals, and both must put every point in the same place and show the same picture before anything is timed. Both run
with one thread, as a dataloader worker does. Times are medians; "ours" includes the plan.

Fidelity is measured without colour against the exact picture: a band-limited function whose value at every mapped
pixel is known. Only pixels whose way never leaves a canvas of the chain count, for both. Places are measured by
painting the 240 points as dots and finding their centroids.

Plan only: records of ten objects, once with the probability 0.3 for each operation, as recipes have it, and once with
all of them acting. "resize_first" is the chain as one would write it for speed, on the small picture from the start.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import cv2
import harness
import numpy as np
from harness.pictures import DOT_PX, Waves, dots, mean_square, photo_like, pixel_centres, point_errors, psnr

from plumbline.augment.config import AugmentationConfig
from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import Augmentation, ScheduledAugmentation
from plumbline.augment.plan import AugmentationPlan, AugmentationStep, View
from plumbline.augment.render import FILL, render
from plumbline.batch.lengths import PixelLimits, grid_size
from plumbline.data.keyed import KeyedStream, keyed_generator
from plumbline.data.record import DataObject, Record
from plumbline.geometry import Box, Polygon, Polyline, Quad
from plumbline.geometry.maps import Map, inverse, local_scale, map_points, scaling, translation

PEER = "2.0.8"
LIMITS = PixelLimits(patch=16, merge=2, min_pixels=1 << 16, max_pixels=1 << 20)
GEOMETRY: dict[str, dict[str, Any]] = {
    "hflip": {},
    "rotate": {"max_deg": 10.0},
    "scale": {"factor": (0.9, 1.1)},
    "shear": {"max_x_deg": 5.0, "max_y_deg": 3.0},
    "perspective": {"max_shift": 0.05},
    "random_crop": {"area": (0.6, 0.95), "min_objects": 0},
}
USUAL_PROB = 0.3
RINGS, RING_POINTS = 10, 24
SAME_PLACE_PX, SAME_PICTURE_DB = 0.01, 25.0


class DifferentError(Exception):
    """Both pipelines were given the same numbers and did not do the same."""


@dataclass(frozen=True)
class Case:
    """One draw. steps: (operation, its step) in order; matrix: source to grid, of grid[0] x grid[1] pixels."""

    record: Record
    plan: AugmentationPlan
    steps: tuple[tuple[str, AugmentationStep], ...]
    grid: tuple[int, int]
    matrix: Map

    @property
    def points(self) -> np.ndarray:
        """All points of the record, [240, 2] in pixels of the source."""
        return np.concatenate([item.shape.points for item in self.record.objects])

    def passes(self, points: np.ndarray, margin: float) -> np.ndarray:
        """Which points of the grid [N, 2] come from `margin` inside every canvas on their way."""
        ok = np.ones(len(points), bool)
        width, height = self.plan.width, self.plan.height
        here = map_points(points, scaling(width / self.grid[0], height / self.grid[1]))
        sizes = [self.plan.source, *((step.width, step.height) for _, step in self.steps)]
        for (_, step), size in zip(reversed(self.steps), reversed(sizes[:-1]), strict=True):
            here = map_points(here, inverse(step.matrix))
            ok &= inside(here, size, margin)
        return ok


def inside(points: np.ndarray, size: tuple[int, int], margin: float) -> np.ndarray:
    """Which points [N, 2] lie at least `margin` inside a picture of this size."""
    return ((points > margin) & (points < np.subtract(size, margin))).all(axis=1)


def ring_record(size: tuple[int, int]) -> Record:
    """Ten polygons of 24 points, two beside each other in five rows."""
    width, height = size
    turns = np.arange(RING_POINTS) * 2 * np.pi / RING_POINTS
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1) * 0.4 * min(width / 2, height / 5)
    middles = [(width * (0.25 + 0.5 * (i % 2)), height * (0.1 + 0.2 * (i // 2))) for i in range(RINGS)]
    objects = tuple(DataObject(f"ring {i}", Polygon(ring + middle)) for i, middle in enumerate(middles))
    return Record(images=("photo.jpg",), width=width, height=height, objects=objects)


def chain(prob: float = 1.0) -> Augmentation:
    """The operations, each of which acts with this probability."""
    geometry = (OPERATIONS[name](**params, prob=prob) for name, params in GEOMETRY.items())
    return Augmentation((*geometry, OPERATIONS["color_jitter"](prob=prob)))


def draw_case(record: Record, number: int) -> Case:
    """The plan with this key, and once more step by step, so that each operation's own numbers are known."""
    size = (record.width or 0, record.height or 0)
    plan = chain().plan(record, size, keyed_generator(0, 0, number, "bench"))
    view, rng, steps = View(record, size), keyed_generator(0, 0, number, "bench"), []
    for name, params in GEOMETRY.items():
        step = OPERATIONS[name](**params).draw(view, rng)
        assert isinstance(step, AugmentationStep), "nothing here can be skipped"
        view.advance(step)
        steps.append((name, step))
    assert np.array_equal(view.matrix, plan.matrix), "the same key gives the same numbers"
    grid = grid_size(plan.width, plan.height, LIMITS)
    to_grid = scaling(grid[0] / plan.width, grid[1] / plan.height)
    return Case(record, plan, tuple(steps), grid, to_grid @ plan.matrix)


def load_peer() -> Any:
    """albumentations, or None when it is not installed in the right version."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for its newest version
    try:
        import albumentations
    except ImportError:
        return None
    return albumentations if albumentations.__version__ == PEER else None


def peer_chain(peer: Any, case: Case, colour: bool = True, resize_first: bool = False) -> Callable[..., dict[str, Any]]:
    """The same operations with the case's numbers as literals; its own classes, defaults and interpolation."""

    class LiteralPerspective(peer.Perspective):  # type: ignore[misc]
        """Draws our corners."""

        def get_params_dependent_on_data(self, params: Any, data: Any) -> dict[str, Any]:
            height, width = params["shape"][:2]
            return {"matrix": tilt, "matrix_bbox": tilt, "max_width": width, "max_height": height}

    class OrderedJitter(peer.ColorJitter):  # type: ignore[misc]
        """Brightness, contrast, saturation in this order, not in a drawn one."""

        def get_params(self) -> dict[str, Any]:
            return {**super().get_params(), "order": [0, 1, 2]}

    steps = dict(case.steps)
    (cos, sin, _), _, _ = steps["rotate"].matrix.tolist()
    zoom = float(steps["scale"].matrix[0, 0])
    # Its slants have the other sign.
    slant = [-math.degrees(math.atan(steps["shear"].matrix[i, 1 - i])) for i in (0, 1)]
    # Its pixel centres lie on whole numbers, ours on halves.
    tilt = translation(-0.5, -0.5) @ steps["perspective"].matrix @ translation(0.5, 0.5)
    crop = steps["random_crop"]
    left, top = (round(-value) for value in crop.matrix[:2, 2])
    angle = math.degrees(math.atan2(sin, cos))
    brightness, contrast, saturation = ((value, value) for value in case.plan.colour[0][1])
    resize = [peer.Resize(height=case.grid[1], width=case.grid[0], p=1)]
    window = peer.Crop(x_min=left, y_min=top, x_max=left + crop.width, y_max=top + crop.height, p=1)
    if resize_first:  # the same share of the picture, on the small one
        window = peer.RandomCrop(height=case.grid[1] * 4 // 5, width=case.grid[0] * 4 // 5, p=1)
    operations = [
        peer.HorizontalFlip(p=1),
        peer.Rotate(limit=(angle, angle), fill=FILL, p=1),
        peer.Affine(scale=(zoom, zoom), fill=FILL, p=1),
        peer.Affine(shear={"x": (slant[0],) * 2, "y": (slant[1],) * 2}, fill=FILL, p=1),
        LiteralPerspective(fill=FILL, p=1),
        window,
    ]
    operations = [*resize, *operations] if resize_first else [*operations, *resize]
    if colour:
        operations.append(
            OrderedJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=(0, 0), p=1)
        )
    composed = peer.Compose(operations, keypoint_params=peer.KeypointParams(format="xy", remove_invisible=False))
    return lambda image, points: composed(image=image, keypoints=points - 0.5)


def compare(peer: Any, case: Case, photo: np.ndarray) -> float:
    """Largest distance in pixels between our points and the peer's. DifferentError when they do not do the same.

    The peer's resize scales points by the plain ratio of the sides, but pixels about their centres; that difference of
    up to half a pixel is taken out.
    """
    theirs = peer_chain(peer, case)(photo, case.points)
    corner = 0.5 * np.divide(case.grid, (case.plan.width, case.plan.height))
    apart = float(np.hypot(*(theirs["keypoints"] + corner - map_points(case.points, case.matrix)).T).max())
    if apart > SAME_PLACE_PX:
        raise DifferentError(f"points lie {apart:.2f} px apart")
    seen = case.passes(pixel_centres(case.grid), margin=4).reshape(case.grid[::-1])
    likeness = psnr(mean_square(render(photo, case.plan, case.grid)[seen], theirs["image"][seen]))
    if likeness < SAME_PICTURE_DB:
        raise DifferentError(f"the pictures differ: {likeness:.1f} dB")
    return apart


def fidelity(peer: Any, cases: list[Case], shortest_px: float) -> dict[str, float]:
    """Point errors and PSNR of both. shortest_px: shortest wave in pixels of the grid."""
    errors: tuple[list[float], list[float]] = ([], [])
    squares: tuple[list[float], list[float]] = ([], [])
    for case in cases:
        scale = local_scale(case.matrix, *case.plan.source)
        moved = map_points(case.points, case.matrix)
        edge = 8 * DOT_PX
        measured = case.passes(moved, edge / scale) & inside(moved, case.grid, edge)
        painted = dots(case.plan.source, case.points, DOT_PX / scale)
        waves = Waves(shortest_px / scale)
        centres = pixel_centres(case.grid)
        seen = case.passes(centres, 4 / scale)
        exact = waves.at(map_points(centres[seen], inverse(case.matrix)))
        source = waves.picture(case.plan.source)
        for side, show in enumerate((partial(render, plan=uncoloured(case), size=case.grid), peer_shows(peer, case))):
            errors[side].extend(point_errors(show(painted), moved[measured]))
            squares[side].append(mean_square(show(source)[..., 0].ravel()[seen], exact))
    return {
        "max_point_error_px": round(max(errors[0]), 3),
        "psnr_ours": round(psnr(statistics.mean(squares[0])), 2),
        "psnr_chain": round(psnr(statistics.mean(squares[1])), 2),
        "points_measured": len(errors[0]),
        "albumentations_point_error_px": round(max(errors[1]), 3),
    }


def uncoloured(case: Case) -> AugmentationPlan:
    return replace(case.plan, colour=())


def peer_shows(peer: Any, case: Case) -> Callable[[np.ndarray], np.ndarray]:
    run = peer_chain(peer, case, colour=False)
    return lambda image: run(image, case.points)["image"]


def timings(peer: Any, cases: list[Case], photo: np.ndarray, rounds: int) -> dict[str, float]:
    """Medians over all cases and rounds, taken in turn so that a busy machine slows all alike."""
    operations = chain()
    times: dict[str, list[float]] = {"ours": [], "chain": [], "resize_first": [], "floor": []}
    for number, case in list(enumerate(cases)) * rounds:
        run, run_small = (peer_chain(peer, case, resize_first=first) for first in (False, True))
        output = np.empty((case.grid[1], case.grid[0], 3), np.uint8)
        rng = keyed_generator(0, 0, number, "bench")
        began = time.perf_counter()
        render(photo, operations.plan(case.record, case.plan.source, rng), case.grid)
        ours = time.perf_counter()
        run(photo, case.points)
        theirs = time.perf_counter()
        run_small(photo, case.points)
        small = time.perf_counter()
        photo.max(axis=None, initial=0)
        output.fill(1)
        marks = (began, ours, theirs, small, time.perf_counter())
        for name, (start, end) in zip(times, pairwise(marks), strict=True):
            times[name].append((end - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ours_ms": round(medians["ours"], 2),
        "albumentations_ms": round(medians["chain"], 2),
        "ratio": round(medians["chain"] / medians["ours"], 2),
        "albumentations_resize_first_ms": round(medians["resize_first"], 2),
        "floor_ms": round(medians["floor"], 2),
    }


def planning_rate(operations: Augmentation, count: int) -> float:
    """Plans per second of one core: records of ten objects of all kinds in memory; the median of rounds of 200.

    A round is planned together, as the lengths of a run's samples are.
    """
    records, stream, size = [mixed_record(number) for number in range(200)], KeyedStream(0, "bench"), (3000, 4000)
    scheduled = ScheduledAugmentation(AugmentationConfig(enabled=True, ops=operations.operations), 1)
    times = []
    for epoch in range(max(1, count // len(records))):
        began = time.perf_counter()
        plans = scheduled.plans((record, size, stream.at(epoch, number), 0) for number, record in enumerate(records))
        times.append(time.perf_counter() - began)
        assert len(plans) == len(records)
    return len(records) / statistics.median(times)


def mixed_record(number: int) -> Record:
    """Four boxes, two quads, two polygons, two lines in random places of a picture of 3000 x 4000."""
    rng = np.random.default_rng(number)
    objects = []
    for kind in (Box, Box, Box, Box, Quad, Quad, Polygon, Polygon, Polyline, Polyline):
        x, y, w, h = rng.integers((0, 0, 40, 40), (2000, 3000, 900, 900)).tolist()
        corners = {
            Box: [(x, y), (x + w, y + h)],
            Quad: [(x, y), (x + w, y + 20), (x + w - 10, y + h), (x + 5, y + h - 15)],
            Polygon: [(x, y), (x + w, y), (x + w // 2, y + h // 2), (x + w, y + h), (x, y + h)],
            Polyline: [(x, y), (x + w // 2, y + h), (x + w, y + h // 3)],
        }
        objects.append(DataObject("BBU设备/品牌:华为/显示完整", kind(np.array(corners[kind], dtype=np.float64))))
    return Record(images=("photo.jpg",), width=3000, height=4000, objects=tuple(objects))


def measure(peer: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed. Raises DifferentError before anything is timed."""
    size = (options.width, options.height)
    record, photo = ring_record(size), photo_like(size)
    cases = [draw_case(record, number) for number in range(options.draws)]
    apart = max(compare(peer, case, photo) for case in cases)
    return {
        **timings(peer, cases, photo, options.rounds),
        **fidelity(peer, cases, options.shortest_wave),
        "plan_records_per_s": round(planning_rate(chain(USUAL_PROB), options.plans)),
        "plan_records_per_s_when_all_act": round(planning_rate(chain(), options.plans)),
        "points_apart_px": round(apart, 3),
        "picture": list(size),
        "grid": list(cases[0].grid),
        "points": RINGS * RING_POINTS,
        "draws": len(cases),
        "floor": "one read of the source and one write of the grid, the bytes that any pipeline must move",
    }


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--width", type=int, default=3000, help="pixels of the photo")
    parser.add_argument("--height", type=int, default=4000, help="pixels of the photo")
    parser.add_argument("--draws", type=int, default=8, help="different draws of all numbers")
    parser.add_argument("--rounds", type=int, default=3, help="times that each draw is timed")
    parser.add_argument("--plans", type=int, default=10_000, help="records planned for the rate")
    parser.add_argument("--shortest-wave", type=float, default=4.0, help="of the exact picture, in pixels of the grid")
    options = parser.parse_args()
    peer = load_peer()
    if peer is None:
        print(f"albumentations {PEER} is needed: uv pip install --group bench -c constraints.txt", file=sys.stderr)
        return 2
    cv2.setNumThreads(1)
    try:
        figures = measure(peer, options)
    except DifferentError as error:
        print(f"nothing is timed: {error}", file=sys.stderr)
        return 1
    harness.show(figures, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
