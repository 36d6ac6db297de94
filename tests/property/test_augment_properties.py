"""Operations and plans: the pixels go where the points go, and the objects after it say what is to be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.augment.ops import COLOUR, GEOMETRIC, OPERATIONS
from plumbline.augment.pipeline import EMPTIED, Augmentation
from plumbline.augment.plan import AugmentationPlan
from plumbline.augment.render import FILL, render
from plumbline.data.keyed import KeyedStream, keyed_generator
from plumbline.data.record import DataObject, Record
from plumbline.geometry import Box, Polygon, Polyline, Quad
from plumbline.geometry.clip import visible_fraction
from plumbline.geometry.maps import canvas_corners, inverse, map_points, map_shape

WIDTH, HEIGHT = 320, 240
DOTS = np.array([[60.5, 50.5], [160.5, 120.5], [260.5, 190.5], [90.5, 170.5], [230.5, 60.5]])


def build(name: str, **params: Any) -> Any:
    return OPERATIONS[name](**({"classes": ("a",)} if name == "roi_crop" else {}) | params)


def objects() -> tuple[DataObject, ...]:
    return (
        DataObject("a/显示完整", Box(np.array([[40.0, 30.0], [120.0, 90.0]]))),
        DataObject("b", Quad(np.array([[150.0, 100.0], [220.0, 90.0], [230.0, 150.0], [140.0, 160.0]]))),
        DataObject(
            "c", Polygon(np.array([[30.0, 150.0], [100.0, 150.0], [60.0, 180.0], [100.0, 220.0], [30.0, 220.0]]))
        ),
        DataObject("d", Polyline(np.array([[10.0, 120.0], [160.0, 130.0], [310.0, 110.0]]))),
        DataObject("e", Box(np.array([[250.0, 180.0], [262.0, 190.0]]))),
    )


RECORD = Record(images=("a.png",), width=WIDTH, height=HEIGHT, objects=objects())


def plan_of(*operations: Any, seed: int = 0, record: Record = RECORD) -> AugmentationPlan:
    return Augmentation(operations).plan(record, (WIDTH, HEIGHT), keyed_generator(seed, 0, 0, "test"))


def dotted(dots: np.ndarray = DOTS) -> np.ndarray:
    """White dots of a few pixels on black."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for x, y in dots:
        cv2.circle(image, (int(x), int(y)), 3, (255, 255, 255), -1)
    return image


def dots_found(plan: AugmentationPlan, dots: np.ndarray, size: tuple[int, int] | None, matrix: np.ndarray) -> int:
    """How many dots the rendered picture shows, each within half a pixel of where `matrix` takes it.

    matrix: source to canvas, of the picture or of a patch. Dots that the canvas's edge is close to are passed over.
    """
    width, height = size or (plan.width, plan.height)
    matrix = np.diag([width / plan.width, height / plan.height, 1.0]) @ matrix
    picture = render(dotted(dots), plan, size).astype(float)
    assert picture.shape == (height, width, 3)
    light = np.where(np.abs(picture - FILL[0]).max(-1) < 1, 0, picture.max(-1))
    seen = 0
    for (x, y), beside in zip(map_points(dots, matrix), map_points(dots + np.array([0, 3]), matrix), strict=True):
        reach = 6 + int(np.hypot(*(beside - (x, y))))
        if not (reach < x < width - reach and reach < y < height - reach):
            continue
        top, left = int(y) - reach, int(x) - reach
        window = light[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        total = window.sum()
        if total == 0:
            raise AssertionError(f"no dot at {x:.1f}, {y:.1f}")
        ys, xs = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]] + 0.5
        found = (xs * window).sum() / total, (ys * window).sum() / total
        assert np.hypot(found[0] - x, found[1] - y) <= 0.5
        seen += 1
    return seen


def assert_dots_are_where_the_map_says(plan: AugmentationPlan, size: tuple[int, int] | None = None) -> None:
    assert dots_found(plan, DOTS, size, plan.matrix) > 0 or plan.width * plan.height < WIDTH * HEIGHT / 2


GENTLE: dict[str, dict[str, Any]] = {
    "rotate": {"max_deg": 30.0},
    "random_crop": {"area": (0.5, 0.9)},
    "perspective": {"max_shift": 0.08},
    "pad_to_multiple": {"multiple": 50},
    "expand_to_fit_affine": {"multiple": 32},
}


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("seed", range(6))
def test_a_painted_dot_is_found_where_the_mapped_point_says(name: str, seed: int) -> None:
    before = [build("rotate", max_deg=20.0)] if name == "expand_to_fit_affine" else []
    plan = plan_of(*before, build(name, **GENTLE.get(name, {})), seed=seed)
    if name == "small_object_zoom_paste":
        assert sum(dots_found_twice(plan)) == 2
        return
    assert_dots_are_where_the_map_says(plan)


CHAINS = st.lists(st.sampled_from([name for name in GEOMETRIC if name != "small_object_zoom_paste"]), max_size=5)


@given(CHAINS, st.integers(0, 10_000))
@settings(max_examples=60)
def test_dots_survive_chains_and_the_grid(names: list[str], seed: int) -> None:
    plan = plan_of(*(build(name, **GENTLE.get(name, {})) for name in names), seed=seed)
    assert_dots_are_where_the_map_says(plan)
    grid = (max(32, round(plan.width * 0.9 / 32) * 32), max(32, round(plan.height * 0.9 / 32) * 32))
    assert_dots_are_where_the_map_says(plan, grid)


SMALL = np.array([[256.5, 185.5]])
"""The middle of the one object that is small enough to be shown again."""


def dots_found_twice(plan: AugmentationPlan, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """(in its own place, in the pasted piece): a dot on the small object."""
    (patch,) = plan.patches
    return dots_found(plan, SMALL, size, plan.matrix), dots_found(plan, SMALL, size, patch.matrix)


@pytest.mark.parametrize("tilted", [False, True])
def test_a_chain_is_interpolated_once(tilted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns and slants, and what changes the canvas between them: one warp, straight onto the grid."""
    calls: list[str] = []

    def counted(name: str, original: Any) -> Any:
        return lambda *args, **options: calls.append(name) or original(*args, **options)

    for name in ("warpAffine", "warpPerspective", "remap", "resize"):
        monkeypatch.setattr(cv2, name, counted(name, getattr(cv2, name)))
    names = ["hflip", "rotate", "expand_to_fit_affine", "scale", "resize_by_scale", "random_crop", "shear"]
    names += ["perspective"] * tilted + ["pad_to_multiple", "center_crop"]
    plan = plan_of(*(build(name, **GENTLE.get(name, {})) for name in names), seed=1)
    assert plan.applied == tuple(names)
    picture = render(dotted(), plan, (256, 192))
    assert picture.shape == (192, 256, 3)
    assert calls == ["warpPerspective" if tilted else "warpAffine"]


BEFORE = st.lists(st.sampled_from(["hflip", "vflip", "scale", "resize_by_scale", "pad_to_multiple"]), max_size=2)
AFTER = st.lists(st.sampled_from([name for name in GEOMETRIC if name != "small_object_zoom_paste"]), max_size=3)


@pytest.fixture(scope="module")
def shown() -> Iterator[Counter[str]]:
    """What the examples of a property have shown: most must show something."""
    counts: Counter[str] = Counter()
    yield counts
    assert counts["pasted"] > 0.7 * counts["plans"] and counts["copy"] > 0.5 * counts["pasted"]


@given(before=BEFORE, after=AFTER, seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_dots_on_pasted_pieces_survive_chains_and_the_grid(
    shown: Counter[str], before: list[str], after: list[str], seed: int
) -> None:
    names = [*before, "small_object_zoom_paste", *after]
    plan = plan_of(*(build(name, **GENTLE.get(name, {})) for name in names), seed=seed)
    shown["plans"] += 1
    if not plan.patches:
        return
    shown["pasted"] += 1
    shown["copy"] += dots_found_twice(plan)[1]
    grid = (max(32, round(plan.width * 0.9 / 32) * 32), max(32, round(plan.height * 0.9 / 32) * 32))
    dots_found_twice(plan, grid)


@given(CHAINS, st.integers(0, 10_000))
def test_a_plan_tells_what_the_canvas_shows(names: list[str], seed: int) -> None:
    plan = plan_of(*(build(name, **GENTLE.get(name, {})) for name in names), seed=seed)
    assert (plan.record.width, plan.record.height) == (plan.width, plan.height)
    assert len(plan.record.objects) == len(plan.kept_indices) == len(plan.coverages) >= 1
    assert sorted([*plan.kept_indices, *(index for index, _ in plan.dropped)]) == list(range(len(RECORD.objects)))
    for item, index, coverage in zip(plan.record.objects, plan.kept_indices, plan.coverages, strict=True):
        x1, y1, x2, y2 = item.shape.bounds()
        assert x1 >= 0 and y1 >= 0 and x2 <= plan.width and y2 <= plan.height
        mapped = map_shape(RECORD.objects[index].shape, plan.matrix)
        assert coverage == pytest.approx(visible_fraction(mapped, plan.width, plan.height), abs=1e-9)


def test_the_same_key_gives_the_same_plan_whatever_came_before() -> None:
    chain = Augmentation(tuple(build(name) for name in OPERATIONS))
    stream = KeyedStream(7, "augment")
    plans = {index: chain.plan(RECORD, (WIDTH, HEIGHT), stream.at(2, index)) for index in (5, 1, 3)}
    for index in (3, 1, 5):
        again = chain.plan(RECORD, (WIDTH, HEIGHT), keyed_generator(7, 2, index, "augment"))
        assert np.array_equal(again.matrix, plans[index].matrix)
        assert again.record == plans[index].record
        assert [values for _, values in again.colour] == [values for _, values in plans[index].colour]
    assert not np.array_equal(plans[1].matrix, plans[3].matrix)


def test_flips_and_whole_pixel_moves_copy_pixels_exactly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert np.array_equal(render(image, plan_of(build("hflip"))), image[:, ::-1])
    assert np.array_equal(render(image, plan_of(build("vflip"), build("hflip"))), image[::-1, ::-1])
    padded = render(image, plan_of(build("pad_to_multiple", multiple=100)))
    assert padded.shape == (300, 400, 3)
    assert np.array_equal(padded[:HEIGHT, :WIDTH], image)
    assert (padded[HEIGHT:] == FILL).all() and (padded[:, WIDTH:] == FILL).all()
    crop = plan_of(build("center_crop", share=0.5))
    assert np.array_equal(render(image, crop), image[60:180, 80:240])


@pytest.mark.parametrize("side", [320, 321, 640, 1280])
def test_a_large_picture_keeps_its_places_and_its_values_on_a_small_grid(side: int) -> None:
    """A picture that is halved before the warp: even and odd sides, once and more often."""
    plan = Augmentation((build("rotate", max_deg=20.0),)).plan(
        Record(images=("a",), summary="s"), (side, side), keyed_generator(0, 0, side, "test")
    )
    grid, factor = (96, 96), 96 / side
    flat = render(np.full((side, side, 3), 200, np.uint8), plan, grid)
    assert (flat[40:56, 40:56] == 200).all()
    middle, sigma = np.array([0.4, 0.45]) * side, 1.5 / factor
    ys, xs = np.mgrid[:side, :side] + 0.5
    spot = 250 * np.exp(-((xs - middle[0]) ** 2 + (ys - middle[1]) ** 2) / 2 / sigma**2)
    shown = render(np.repeat(np.uint8(np.rint(spot))[..., None], 3, axis=2), plan, grid)[..., 0].astype(float)
    x, y = map_points(middle[None], plan.matrix)[0] * factor
    ys, xs = np.mgrid[int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7] + 0.5
    window = shown[int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7]
    found = (xs * window).sum() / window.sum(), (ys * window).sum() / window.sum()
    assert np.hypot(found[0] - x, found[1] - y) <= 0.1
    exact = 250 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 2 / 1.5**2)
    assert np.abs(window - exact).max() <= 8  # what halving and interpolating would soften is made up for


def test_half_turn_by_rotation_equals_both_flips() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    plan = plan_of(build("hflip"), build("vflip"))
    assert np.array_equal(render(image, plan), image[::-1, ::-1])
    assert plan.record.objects[0].shape == Box(np.array([[200.0, 150.0], [280.0, 210.0]]))


def test_a_turn_with_expansion_keeps_every_object_whole_and_makes_quads_of_boxes() -> None:
    for seed in range(20):
        plan = plan_of(build("rotate", max_deg=45.0), build("expand_to_fit_affine"), seed=seed)
        assert plan.coverages == (1.0,) * 5
        assert [item.shape.kind for item in plan.record.objects] == ["quad", "quad", "poly", "line", "quad"]


@given(st.integers(1, 400_000), st.sampled_from([1, 8, 32]), st.integers(0, 50))
def test_a_wider_canvas_stays_within_its_limit(limit: int, multiple: int, seed: int) -> None:
    """And shows the same picture, smaller: every object whole, sides in proportion."""
    free = plan_of(build("rotate", max_deg=45.0), build("expand_to_fit_affine", multiple=multiple), seed=seed)
    held = plan_of(
        build("rotate", max_deg=45.0), build("expand_to_fit_affine", multiple=multiple, max_pixels=limit), seed=seed
    )
    assert held.width % multiple == held.height % multiple == 0
    smallest = min(held.width, held.height) == multiple
    assert held.width * held.height <= limit or smallest
    if free.width * free.height <= limit:
        assert np.array_equal(held.matrix, free.matrix)
    corners = map_points(canvas_corners(WIDTH, HEIGHT), held.matrix)
    assert corners.min() >= -1e-6 and (corners.max(0) <= np.array([held.width, held.height]) + 1e-6).all()
    linear = held.matrix[:2, :2]
    assert np.allclose(linear @ linear.T, np.eye(2) * np.linalg.det(linear)), "a turn and one factor"


class TestCrops:
    """Left half of the picture is kept: coverage of each object is known."""

    def crop(self, **rules: Any) -> AugmentationPlan:
        half = _LeftHalf(**rules)
        step = half.crop(_view(), 0, 0, WIDTH // 2, HEIGHT)
        view = _view()
        if hasattr(step, "matrix"):
            view.advance(step)
            from plumbline.augment.pipeline import Chain, _finish

            return _finish(Chain(view, (), ("crop",), ()))
        raise _SkippedError(step.reason)

    def test_what_is_below_min_coverage_goes_and_the_rest_has_its_exact_share(self) -> None:
        plan = self.crop(min_coverage=0.3)
        assert plan.kept_indices == (0, 2, 3)
        assert dict(plan.dropped) == {1: "below min_coverage", 4: "outside"}
        assert plan.coverages[:2] == (1.0, 1.0)
        assert plan.coverages[2] == pytest.approx(0.5, abs=0.01)

    def test_line_policies(self) -> None:
        assert dict(self.crop(line_policy="drop").dropped)[3] == "line cut"
        with pytest.raises(_SkippedError, match="line would be cut"):
            self.crop(line_policy="skip")

    def test_too_few_objects_skip_the_crop(self) -> None:
        with pytest.raises(_SkippedError, match="too few"):
            self.crop(min_objects=4)

    @pytest.mark.parametrize(
        ("desc", "after"),
        [
            ("a/显示完整", "a/只显示部分"),
            ("a/显示完整,品牌:华为", "a/只显示部分,品牌:华为"),
            ("a/状态:显示完整/b", "a/状态:只显示部分/b"),
            ("a/不显示完整", "a/不显示完整"),
            ("a/显示完整性", "a/显示完整性"),
            ("a/其他", "a/其他"),
        ],
    )
    def test_only_the_visibility_attribute_is_rewritten(self, desc: str, after: str) -> None:
        record = Record(
            images=("a",),
            width=WIDTH,
            height=HEIGHT,
            objects=(
                DataObject(desc, Box(np.array([[100.0, 10.0], [200.0, 60.0]]))),
                DataObject(desc, Box(np.array([[10.0, 10.0], [90.0, 60.0]]))),
            ),
        )
        operation = _LeftHalf(completeness_threshold=0.95, complete_text="显示完整", partial_text="只显示部分")
        view = _view(record)
        view.advance(operation.crop(view, 0, 0, WIDTH // 2, HEIGHT))
        from plumbline.augment.pipeline import Chain, _finish

        plan = _finish(Chain(view, (), (), ()))
        assert plan.coverages == (0.6, 1.0)
        assert [item.desc for item in plan.record.objects] == [after, desc]


PICTURE = Record(images=("a.png",), width=WIDTH, height=HEIGHT, summary="s")
"""Without objects, so that no chain is undone."""


class TestSeveralCrops:
    """Every crop that acted has its say about the objects on the final canvas."""

    TEXTS = {"complete_text": "显示完整", "partial_text": "只显示部分"}  # noqa: RUF012
    EDGE = Record(
        images=("a",),
        width=WIDTH,
        height=HEIGHT,
        objects=(
            DataObject("a/显示完整", Box(np.array([[20.0, 50.0], [140.0, 110.0]]))),  # half of it in the middle half
            DataObject("b/显示完整", Box(np.array([[130.0, 100.0], [170.0, 140.0]]))),
            DataObject("c", Polyline(np.array([[100.0, 120.0], [310.0, 120.0]]))),
        ),
    )

    def plan(self, first: dict[str, Any], second: dict[str, Any]) -> AugmentationPlan:
        """The middle half, then a crop that takes nothing more away."""
        whole = build("random_crop", area=(1.0, 1.0), aspect=(1.0, 1.0), **second)
        return plan_of(build("center_crop", share=0.5, **first), whole, record=self.EDGE)

    @pytest.mark.parametrize(("first", "second"), [(0.9, 0.0), (0.0, 0.9)])
    def test_the_strictest_min_coverage_counts(self, first: float, second: float) -> None:
        plan = self.plan({"min_coverage": first}, {"min_coverage": second})
        assert dict(plan.dropped) == {0: "below min_coverage", 2: "below min_coverage"}

    @pytest.mark.parametrize(("first", "second"), [("drop", "cut"), ("cut", "drop"), ("drop", "skip")])
    def test_a_line_that_any_crop_drops_is_gone(self, first: str, second: str) -> None:
        plan = self.plan({"min_coverage": 0.0, "line_policy": first}, {"min_coverage": 0.0, "line_policy": second})
        skips = second == "skip"  # and the second crop does not act
        assert dict(plan.dropped) == {2: "line cut"} and bool(plan.skipped) == skips

    @pytest.mark.parametrize("swapped", [False, True])
    def test_every_completeness_rule_is_kept_in_order(self, swapped: bool) -> None:
        rules = [{"min_coverage": 0.0, "completeness_threshold": 0.95} | self.TEXTS, {"min_coverage": 0.0}]
        plan = self.plan(*(reversed(rules) if swapped else rules))
        assert [item.desc for item in plan.record.objects] == ["a/只显示部分", "b/显示完整", "c"]
        less = {"completeness_threshold": 0.6, "complete_text": "只显示部分", "partial_text": "几乎看不见"}
        plan = self.plan(rules[0], {"min_coverage": 0.0} | less)
        assert [item.desc for item in plan.record.objects] == ["a/几乎看不见", "b/显示完整", "c"]

    def test_the_same_rule_twice_rewrites_once(self) -> None:
        rule = {"min_coverage": 0.0, "completeness_threshold": 0.95, "complete_text": "显示完整"}
        twice = rule | {"partial_text": "部分/显示完整"}
        assert self.plan(twice, twice).record.objects[0].desc == "a/部分/显示完整"

    def test_a_later_crop_counts_what_the_earlier_one_leaves(self) -> None:
        plan = self.plan({"min_coverage": 0.9}, {"min_coverage": 0.0, "min_objects": 2})
        assert plan.skipped == (("random_crop", "too few objects would be left"),)


AFFINE: dict[str, dict[str, Any]] = {
    "hflip": {},
    "rotate": {"max_deg": 180.0},
    "scale": {"factor": (0.4, 2.0)},
    "shear": {"max_x_deg": 30.0, "max_y_deg": 30.0},
    "perspective": {"max_shift": 0.2},
}
MOVES = st.lists(st.sampled_from(list(AFFINE)), max_size=4)
BEFORE = st.lists(st.sampled_from([*AFFINE, "pad_to_multiple", "resize_by_scale"]), max_size=3)


class TestExpansion:
    """The canvas that holds again what the last crop kept; all of the source where none acted."""

    @given(BEFORE, st.sampled_from([None, 0.3, 0.8]), MOVES, st.sampled_from([1, 32]), st.integers(0, 10_000))
    @settings(max_examples=150)
    def test_all_that_was_kept_is_on_a_canvas_of_the_multiple(
        self, before: list[str], share: float | None, moves: list[str], multiple: int, seed: int
    ) -> None:
        first = [build(name, **AFFINE.get(name, {})) for name in before] if share else []
        first += [build("center_crop", share=share)] if share else []
        kept = plan_of(*first, seed=seed, record=PICTURE)
        after = [build(name, **AFFINE[name]) for name in moves]
        plan = plan_of(*first, *after, build("expand_to_fit_affine", multiple=multiple), seed=seed, record=PICTURE)
        assert plan.width % multiple == plan.height % multiple == 0
        corners = map_points(canvas_corners(kept.width, kept.height), plan.matrix @ inverse(kept.matrix))
        assert corners.min() >= -1e-6
        assert (corners.max(0) <= np.array([plan.width, plan.height]) + 1e-6).all()
        extent = np.ptp(corners, axis=0)
        moved = plan_of(*first, *after, seed=seed, record=PICTURE)
        room = np.maximum(extent, (moved.width, moved.height)) + multiple
        assert ((plan.width, plan.height) <= room).all(), "no more than what it must hold"

    def test_no_corner_is_left_outside_on_the_right_or_below(self) -> None:
        """Of these tilts some pull two sides in and push a single corner out."""
        square = Record(images=("a.png",), width=200, height=200, summary="s")
        chain = Augmentation((build("perspective", max_shift=0.1), build("expand_to_fit_affine")))
        for seed in range(100, 400):
            plan = chain.plan(square, (200, 200), keyed_generator(seed, 0, 0, "test"))
            corners = map_points(canvas_corners(200, 200), plan.matrix)
            assert corners.min() >= -1e-6 and corners[:, 0].max() <= plan.width + 1e-6
            assert corners[:, 1].max() <= plan.height + 1e-6

    def test_the_multiple_counts_where_everything_fits(self) -> None:
        square = Record(images=("a.png",), width=130, height=130, summary="s")
        shrunk = build("scale", factor=(0.5, 0.5))
        for chain in ((shrunk,), ()):
            operations = (*chain, build("expand_to_fit_affine", multiple=32))
            plan = Augmentation(operations).plan(square, (130, 130), keyed_generator(0, 0, 0, "test"))
            assert (plan.width, plan.height) == (160, 160) and plan.applied[-1] == "expand_to_fit_affine"
        image = np.random.default_rng(0).integers(0, 256, (130, 130, 3), dtype=np.uint8)
        assert np.array_equal(render(image, plan)[:130, :130], image), "not a pixel moves"
        flat = Augmentation((shrunk, build("expand_to_fit_affine"))).plan(
            square, (130, 130), keyed_generator(0, 0, 0, "test")
        )
        assert flat.skipped == (("expand_to_fit_affine", "everything fits already"),)

    def test_a_crop_is_not_undone(self) -> None:
        crop, fit = build("center_crop", share=0.5), build("expand_to_fit_affine")
        plan = plan_of(crop, fit)
        assert (plan.width, plan.height) == (160, 120)
        assert plan.skipped == (("expand_to_fit_affine", "everything fits already"),)
        for seed in range(10):
            plan = plan_of(crop, build("rotate", max_deg=20.0), fit, seed=seed)
            assert 160 <= plan.width <= 196 and 120 <= plan.height <= 170

    def test_a_crop_that_did_not_act_keeps_nothing_back(self) -> None:
        turn, fit = build("rotate", max_deg=45.0), build("expand_to_fit_affine")
        skipped = build("center_crop", share=0.1, min_objects=5)
        plan = plan_of(turn, skipped, fit)
        assert plan.skipped == (("center_crop", "too few objects would be left"),)
        assert (plan.width, plan.height) == (plan_of(turn, fit).width, plan_of(turn, fit).height)


class _SkippedError(Exception):
    pass


def _view(record: Record = RECORD) -> Any:
    from plumbline.augment.plan import View

    return View(record, (WIDTH, HEIGHT))


def _LeftHalf(**rules: Any) -> Any:  # noqa: N802
    from plumbline.augment.ops.canvas import CropRules

    return CropRules(**rules)


def test_a_roi_crop_holds_an_object_of_its_class() -> None:
    for seed in range(30):
        plan = plan_of(build("roi_crop", classes=("e",), min_side=40, min_coverage=0.5), seed=seed)
        assert plan.applied == ("roi_crop",)
        assert 4 in plan.kept_indices and (plan.width, plan.height) == (40, 40)
    assert plan_of(build("roi_crop", classes=("z",))).skipped == (("roi_crop", "no object of the classes"),)


def test_a_small_object_is_shown_again_larger_and_hides_nothing() -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[180:190, 250:262] = (255, 0, 0)
    pasted = 0
    for seed in range(20):
        plan = plan_of(build("small_object_zoom_paste", zoom=(2.0, 2.0)), seed=seed)
        if not plan.patches:
            continue
        pasted += 1
        assert plan.kept_indices == (0, 1, 2, 3, 4, 4)
        copy = plan.record.objects[5]
        assert copy.desc == "e"
        x1, y1, x2, y2 = copy.shape.bounds()
        assert (x2 - x1, y2 - y1) == pytest.approx((24, 20))
        red = render(image, plan)[..., 0] > 127
        ys, xs = np.nonzero(red)
        inside = (xs + 0.5 > x1) & (xs + 0.5 < x2) & (ys + 0.5 > y1) & (ys + 0.5 < y2)
        assert inside.sum() == pytest.approx(24 * 20, abs=45)
        for other in plan.record.objects[:5]:
            a1, b1, a2, b2 = other.shape.bounds()
            assert x2 <= a1 or x1 >= a2 or y2 <= b1 or y1 >= b2
    assert pasted > 10


@pytest.mark.parametrize("between", [[], ["pad_to_multiple"], ["scale", "rotate"]])
def test_what_is_pasted_stays_before_the_horizon_of_later_tilts(between: list[str]) -> None:
    """The pasted piece lies elsewhere than the source, and the objects that are not on it further away still."""
    strong = {"scale": {"factor": (4.0, 4.0)}, "rotate": {"max_deg": 90.0}, "pad_to_multiple": {"multiple": 500}}
    names = [("small_object_zoom_paste", {"zoom": (3.0, 8.0)}), *((name, strong[name]) for name in between)]
    chain = [build(name, **params) for name, params in [*names, *[("perspective", {"max_shift": 0.2})] * 2]]
    if between == ["pad_to_multiple"]:  # the piece can lie beside the source
        chain[:2] = chain[1::-1]
    copies = [plan.kept_indices.count(4) for plan in (plan_of(*chain, seed=seed) for seed in range(150))]
    assert max(copies) == 2 or between == ["scale", "rotate"]


def test_a_chain_that_would_lose_every_object_is_undone_and_counted() -> None:
    lonely = Record(images=("a",), width=WIDTH, height=HEIGHT, objects=(RECORD.objects[4],))
    undone = 0
    for seed in range(40):
        plan = plan_of(build("scale", factor=(8.0, 8.0)), build("gamma"), seed=seed, record=lonely)
        undone += ("chain", EMPTIED) in plan.skipped
        assert len(plan.record.objects) == 1 and plan.coverages == (1.0,)
        assert plan.applied == ("gamma",)
    assert undone == 40


def test_bypass_leaves_the_sample_as_it_is() -> None:
    chain = Augmentation((build("hflip"),), bypass_prob=0.5)
    plans = [chain.plan(RECORD, (WIDTH, HEIGHT), keyed_generator(0, 0, n, "test")) for n in range(200)]
    bypassed = [plan for plan in plans if plan.applied == ("bypass",)]
    assert 70 < len(bypassed) < 130
    assert all(not plan.moves and plan.record.objects == RECORD.objects for plan in bypassed)


@pytest.mark.parametrize("name", COLOUR)
def test_colour_is_pure_keeps_the_form_and_says_the_same_again(name: str) -> None:
    rng = np.random.default_rng(1)
    operation = build(name)
    for shape in ((1, 1, 3), (37, 53, 3), (8, 200, 3)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        before = image.copy()
        values = operation.draw(keyed_generator(0, 0, shape[0], "test"))
        out = operation.apply(image, values)
        assert out.shape == shape and out.dtype == np.uint8
        assert np.array_equal(image, before) and not np.shares_memory(out, image)
        assert np.array_equal(out, operation.apply(image, values))


def test_colour_against_values_worked_out_by_hand() -> None:
    image = np.array([[[0, 64, 128], [200, 255, 10]]], np.uint8)
    assert np.array_equal(build("gamma").apply(image, (1.0,)), image)
    assert build("gamma").apply(image, (2.0,))[0, 0].tolist() == [0, 16, 64]
    assert build("solarize").apply(image, (128.0,))[0].tolist() == [[0, 64, 127], [55, 0, 10]]
    assert build("posterize").apply(image, (1.0,))[0].tolist() == [[0, 0, 128], [128, 128, 0]]
    assert np.array_equal(build("posterize").apply(image, (8.0,)), image)
    assert np.array_equal(build("color_jitter").apply(image, (1.0, 1.0, 1.0)), image)
    assert build("color_jitter").apply(image, (0.5, 1.0, 1.0))[0, 1].tolist() == [100, 128, 5]
    grey = build("color_jitter").apply(image, (1.0, 1.0, 0.0))[0]
    assert (np.ptp(grey, axis=-1) <= 1).all()
    assert grey[0, 0] == pytest.approx(0.587 * 64 + 0.114 * 128, abs=1)
    assert np.array_equal(build("sharpness").apply(image, (1.0,)), image)
    assert np.abs(build("hsv").apply(image, (0.0, 0.0, 0.0)).astype(int) - image).max() <= 6
    ramp = np.tile(np.arange(50, 150, dtype=np.uint8)[None, :, None], (4, 1, 3))
    stretched = build("auto_contrast", cutoff=0.0).apply(ramp, ())
    assert (stretched.min(), stretched.max()) == (0, 255)
    noisy = build("noise").apply(np.full((200, 200, 3), 128, np.uint8), (8.0, 5.0)).astype(float)
    assert noisy.std() == pytest.approx(8, rel=0.05) and noisy.mean() == pytest.approx(128, abs=0.3)
