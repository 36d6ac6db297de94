"""Packs under a moving curriculum: as full as packs can be, planned by the step by which they will be rendered."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from plumbline.augment.config import AugmentationConfig
from plumbline.augment.curriculum import CurriculumConfig, Phase
from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import ScheduledAugmentation
from plumbline.batch import packing
from plumbline.batch.bins import pack_samples
from plumbline.batch.lengths import PixelLimits
from plumbline.batch.packing import CLOCK, LEAST_FILL, LengthMeter, PackedSchedule, Progress, RunLength, plan_packs
from plumbline.batch.schedule import StepShape
from plumbline.batch.tokens import TokenCounter
from plumbline.data.dataset import DatasetSettings
from plumbline.data.epoch import EpochDataset, Source
from plumbline.data.mixture import Mixture, Share
from plumbline.data.record import Record

LIMITS = PixelLimits(patch=16, merge=2, min_pixels=1024, max_pixels=16_777_216)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]
TO_HALF = Phase(until_percent=50, ops={"resize_by_scale": {"factor": [1.1, 1.2]}})


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> TokenCounter:
    """Every word is a token."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return TokenCounter(folder)


def meter_of(count: int, counter: TokenCounter, folder: Path, *phases: Phase, **options: Any) -> LengthMeter:
    """`count` pictures with sides of 300 to 900 pixels, summarised and resized; phases: of the curriculum."""
    (folder / "a.png").touch()  # a plan opens none
    sides = np.random.default_rng(0).integers(300, 900, (count, 2)).tolist()
    records = [
        Record(("a.png",), width, height, summary="good " * (number % 40), file=str(folder / "d.jsonl"))
        for number, (width, height) in enumerate(sides)
    ]
    source = Source("train", records, DatasetSettings("summary"), Share(count, mode="summary"))
    ops = (OPERATIONS["resize_by_scale"](factor=(0.9, 1.0)),)
    curriculum = CurriculumConfig(phases=phases) if phases else None
    augmenter = ScheduledAugmentation(AugmentationConfig(enabled=True, ops=ops, curriculum=curriculum), CLOCK)
    return LengthMeter(EpochDataset([source], Mixture((source.share,), **options), augmenter), counter, LIMITS)


def planned(meter: LengthMeter, capacity: int, epochs: float = 3, ranks: int = 1) -> PackedSchedule:
    return plan_packs(meter, capacity, RunLength(epochs, StepShape(ranks=ranks)))


def steps_seen(schedule: PackedSchedule, epoch: int) -> list[int]:
    """The steps by which the units of an epoch are planned, in the order in which they are trained."""
    return [key.step for unit in schedule.units(epoch) for key in unit]


@pytest.mark.parametrize("count", [8, 200])
def test_a_curriculum_costs_small_sets_no_room(count: int, counter: TokenCounter, tmp_path: Path) -> None:
    schedule = planned(meter_of(count, counter, tmp_path, TO_HALF), 4096)
    whole = max(len(pack_samples(lengths, 4096)) for lengths in schedule.lengths)
    assert len(schedule) == whole, "as few as the longest epoch needs when it is packed as a whole"


def test_many_packs_are_packed_in_stretches_that_stay_full(
    counter: TokenCounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LEAST_PACKS", 12)
    schedule = planned(meter_of(500, counter, tmp_path, TO_HALF), 4096, epochs=1)
    seen = steps_seen(schedule, 0)
    assert seen == sorted(seen), "packs come in the order of the curriculum"
    assert 2 < len(set(seen)) <= len(schedule) / 12
    assert all(len({key.step for key in unit}) == 1 for unit in schedule.units(0))
    assert schedule.fill >= (1 - 1 / 12) * schedule.fill_bound


def test_lengths_are_those_of_the_step_that_renders(
    counter: TokenCounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LEAST_PACKS", 1)
    meter = meter_of(60, counter, tmp_path, TO_HALF, seed=3)
    schedule = planned(meter, 4096)
    lengths = []
    for epoch in range(3):
        units = schedule.units(epoch)
        assert sorted(key.position for unit in units for key in unit) == list(range(60))
        assert all(sum(key.length for key in unit) <= 4096 for unit in units)
        for key in (key for unit in units for key in unit):
            assert meter.one(key) == key.length
        lengths.append(sum(key.length for unit in units for key in unit))
    assert lengths[0] < lengths[2], "the curriculum enlarges"
    assert lengths[2] > sum(meter.one(key._replace(step=0)) for unit in schedule.units(2) for key in unit)


def test_only_the_stretch_in_which_something_moves_is_split() -> None:
    chains = ScheduledAugmentation(
        AugmentationConfig(
            ops=(OPERATIONS["rotate"](max_deg=0.0),),
            curriculum=CurriculumConfig(
                phases=(
                    Phase(until_percent=20),
                    Phase(until_percent=30, ops={"rotate": {"max_deg": 10.0}}),
                    Phase(until_percent=100),
                )
            ),
        ),
        CLOCK,
    )
    progress = Progress(2, 20, chains.at)
    first, second = (progress.steps(100, epoch).tolist() for epoch in range(2))
    assert first[:40] == [first[0]] * 40 and first[60:] == [first[60]] * 40 and second == [second[0]] * 100
    assert len(set(first)) == 2 + 4
    assert all(np.diff(first) >= 0) and first[-1] < second[0] < CLOCK


@pytest.mark.parametrize("phases", [(), (Phase(until_percent=50),)])
def test_what_does_not_move_is_packed_as_a_whole(
    phases: tuple[Phase, ...], counter: TokenCounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LEAST_PACKS", 1)
    schedule = planned(meter_of(60, counter, tmp_path, *phases), 4096)
    assert all(len(set(steps_seen(schedule, epoch))) == 1 for epoch in range(3))


def test_a_curriculum_of_one_stretch_moves_from_epoch_to_epoch(counter: TokenCounter, tmp_path: Path) -> None:
    schedule = planned(meter_of(8, counter, tmp_path, Phase(until_percent=100, ops=TO_HALF.ops)), 4096, epochs=4)
    assert [set(steps_seen(schedule, epoch)) for epoch in range(4)] == [{125_000}, {375_000}, {625_000}, {875_000}]


def test_packs_that_are_not_full_say_why(counter: TokenCounter, tmp_path: Path) -> None:
    full = planned(meter_of(600, counter, tmp_path), 4096, epochs=1)
    assert full.shortfall == "" and full.fill >= LEAST_FILL
    assert "no packing" in planned(meter_of(3, counter, tmp_path), 4096).shortfall
    growing = Phase(until_percent=60, ops={"resize_by_scale": {"factor": [1.6, 1.6]}})
    uneven = planned(meter_of(120, counter, tmp_path, growing), 4096)
    assert uneven.fill < 0.9 < uneven.fill_bound
    assert "were halved" in uneven.shortfall


def test_the_log_of_a_run_tells_the_fill_and_why_it_is_low(
    counter: TokenCounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plumbline.train import outlook as program

    meter = meter_of(3, counter, tmp_path, TO_HALF)
    assert isinstance(meter.samples.augmenter, ScheduledAugmentation)
    plan = SimpleNamespace(schedule=planned(meter, 4096, epochs=0.8))
    monkeypatch.setattr(program, "plan_training", lambda *args: plan)
    told: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(program.logger, level, lambda text, *values: told.append(text % values))
    custom = SimpleNamespace(augmentation=meter.samples.augmenter.config)
    program.plan_steps(SimpleNamespace(upstream={"packing": True}, custom=custom), meter.samples, 1)  # type: ignore[arg-type]
    assert re.search(r"3 samples in 1 packs of 4096 tokens per epoch, \d+\.\d % full \(\d+\.\d % possible\)", told[0])
    assert told[1] == f"packs are not full: {plan.schedule.shortfall}"
    assert told[2].startswith("the curriculum does not move")
