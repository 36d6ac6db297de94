"""The curriculum for any phases: ends are met, nothing leaves its range, whole numbers stay whole."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from plumbline.augment.curriculum import CurriculumConfig, Phase, resolve
from plumbline.augment.ops import NAMES, OPERATIONS

OPS = (OPERATIONS["rotate"](max_deg=3.0), OPERATIONS["posterize"](bits=(3, 6)), OPERATIONS["hsv"]())
TOTAL = 1000
ROTATE = st.fixed_dictionaries({"max_deg": st.floats(0, 180)})
POSTERIZE = st.lists(st.integers(1, 8), min_size=2, max_size=2).map(lambda bits: {"bits": sorted(bits)})
PARAMS = st.fixed_dictionaries({}, optional={"rotate": ROTATE, "posterize": POSTERIZE})
SCHEDULES = st.lists(st.tuples(st.integers(1, 1200), PARAMS, st.none() | st.floats(0, 1)), min_size=1, max_size=5).map(
    lambda rows: CurriculumConfig(
        phases=tuple(
            Phase(until_step=end, ops=params, bypass_prob=bypass)
            for end, params, bypass in sorted({row[0]: row for row in rows}.values(), key=lambda row: row[0])
        )
    )
)


def values(schedule: CurriculumConfig, step: int) -> tuple[float, int, int, float]:
    (rotate, posterize, hsv), bypass = resolve(OPS, 0.25, schedule, NAMES, step, TOTAL)
    assert hsv is OPS[2], "no phase names it"
    assert all(type(bits) is int for bits in posterize.bits)
    return (rotate.max_deg, *posterize.bits, bypass)


@given(SCHEDULES)
def test_each_phases_numbers_are_met_at_its_end_and_the_last_ones_stay(schedule: CurriculumConfig) -> None:
    angle, low, high, bypass = values(schedule, 0)
    assert (angle, low, high, bypass) == (3.0, 3, 6, 0.25)
    for phase in schedule.phases:
        angle = phase.ops.get("rotate", {}).get("max_deg", angle)
        low, high = phase.ops.get("posterize", {}).get("bits", (low, high))
        bypass = bypass if phase.bypass_prob is None else phase.bypass_prob
        assert phase.until_step is not None
        assert values(schedule, phase.until_step) == (angle, low, high, bypass)
    assert values(schedule, schedule.phases[-1].until_step + 10_000) == (angle, low, high, bypass)


@given(SCHEDULES, st.lists(st.integers(0, 1200), min_size=3, max_size=30))
def test_between_two_ends_every_number_moves_one_way_and_stays_between_them(
    schedule: CurriculumConfig, steps: list[int]
) -> None:
    for start, end in pairwise([0, *(phase.until_step or 0 for phase in schedule.phases)]):
        inside = sorted({start, end, *(step for step in steps if start <= step <= end)})
        for track in zip(*(values(schedule, step) for step in inside), strict=True):
            moves = [after - before for before, after in pairwise(track)]
            assert all(move >= -1e-9 for move in moves) or all(move <= 1e-9 for move in moves)
    low, high = zip(*(values(schedule, step)[1:3] for step in steps), strict=True)
    assert all(1 <= a <= b <= 8 for a, b in zip(low, high, strict=True)), "an interval stays one"


@given(SCHEDULES, st.permutations([0, 17, 400, 1000, 1201]))
def test_the_step_alone_decides_whatever_was_asked_before(schedule: CurriculumConfig, steps: list[int]) -> None:
    assert {step: values(schedule, step) for step in steps} == {step: values(schedule, step) for step in sorted(steps)}


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(sorted), st.integers(0, 2000), PARAMS)
def test_percents_are_shares_of_the_run(ends: list[int], step: int, params: dict[str, dict[str, object]]) -> None:
    percent = CurriculumConfig(phases=tuple(Phase(until_percent=float(end), ops=params) for end in ends))
    steps = CurriculumConfig(phases=tuple(Phase(until_step=end * TOTAL // 100, ops=params) for end in ends))
    assert values(percent, step) == values(steps, step)
