"""Splits that share nothing: near-duplicates found exactly, clusters kept whole, crafted splits refused."""

from __future__ import annotations

from dataclasses import astuple
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from plumbline.data.clusters import HashedItem, clusters_of
from plumbline.data.picture_hash import RADIUS, PictureHash, hash_picture, near_pairs
from plumbline.errors import ConfigError, DataError
from plumbline.stage_b.splits import (
    SPLITS,
    Fractions,
    check_splits,
    split_tickets,
    tiny_classes,
)

EVEN = Fractions(0.25, 0.25, 0.25, 0.25)


def ticket(number: int, *patterns: int | None, group: str = "") -> HashedItem:
    pictures = tuple(PictureHash(f"{number}/{place}", pattern) for place, pattern in enumerate(patterns))
    return HashedItem(f"m/pass/{number}", group or f"m/{number}", pictures)


def many(count: int) -> list[HashedItem]:
    rng = np.random.default_rng(0)
    return [ticket(number, *map(int, rng.integers(0, 2**63, 5))) for number in range(count)]


# ------------------------------------------------------------------------------------------------------------- pictures
def photo(seed: int) -> Image.Image:
    """Smooth ground with sensor noise, like a photograph."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize(
        (480, 360), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(ground, dtype=np.int16) + rng.integers(-8, 9, (360, 480, 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def test_another_copy_is_near_and_another_photo_is_far(tmp_path: Path) -> None:
    photos = [photo(seed) for seed in range(6)]
    for number, original in enumerate(photos):
        original.save(tmp_path / f"{number}.png")
        original.save(tmp_path / f"{number}-copy.jpg", quality=50)
        original.resize((200, 150)).save(tmp_path / f"{number}-small.png")
        ImageEnhance.Brightness(original).enhance(0.7).save(tmp_path / f"{number}-dark.jpg", quality=90)
    patterns = {path.name: hash_picture(path).pattern for path in tmp_path.iterdir()}
    for one, other in combinations(patterns, 2):
        first, second = patterns[one], patterns[other]
        assert first is not None and second is not None
        is_copy = one[0] == other[0]
        assert ((first ^ second).bit_count() <= RADIUS) == is_copy, (one, other)


def test_a_picture_without_a_pattern_is_compared_by_its_bytes_alone(tmp_path: Path) -> None:
    for name, grey in (("a.png", 20), ("b.png", 20), ("c.png", 21)):
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(tmp_path / name)
    a, b, c = (hash_picture(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    assert (a.pattern, c.pattern) == (None, None)
    assert a == b != c


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError):
        hash_picture(tmp_path / "a.jpg")


NEAR = st.lists(st.integers(0, 2**64 - 1), max_size=6).flatmap(
    lambda seeds: st.lists(
        st.tuples(st.sampled_from(seeds or [0]), st.lists(st.integers(0, 63), max_size=6)).map(
            lambda drawn: drawn[0] ^ sum({1 << bit for bit in drawn[1]})
        ),
        max_size=12,
        unique=True,
    )
)


@given(NEAR, st.integers(0, 6))
def test_the_bands_find_exactly_the_near_pairs(patterns: list[int], radius: int) -> None:
    expected = {
        (one, other)
        for one, other in combinations(range(len(patterns)), 2)
        if (patterns[one] ^ patterns[other]).bit_count() <= radius
    }
    assert {tuple(sorted(pair)) for pair in near_pairs(patterns, radius)} == expected


# --------------------------------------------------------------------------------------------------------------- splits
def test_every_ticket_is_in_one_split_and_shares_are_met() -> None:
    tickets = many(2000)
    splits = split_tickets(tickets, seed=1, fractions=Fractions())
    assert tuple(splits.keys) == SPLITS
    assert sorted(key for keys in splits.keys.values() for key in keys) == sorted(each.key for each in tickets)
    assert (splits.clusters, splits.largest) == (2000, 1)
    for share, size in zip((0.3, 0.3, 0.25, 0.15), splits.sizes.values(), strict=True):
        assert abs(size / 2000 - share) < 0.04
    check_splits(splits.keys, tickets)


def test_a_split_depends_on_the_seed_and_not_on_the_order() -> None:
    tickets = many(200)
    whole = split_tickets(tickets, 1, EVEN)
    turned = split_tickets(tickets[::-1], 1, EVEN)
    assert all(set(turned.keys[name]) == set(whole.keys[name]) for name in SPLITS)
    assert split_tickets(tickets, 2, EVEN).keys != whole.keys


@given(
    st.lists(st.tuples(st.sampled_from(["pass", "fail"]), st.integers(0, 400)), min_size=1, max_size=300),
    st.integers(0, 9),
)
def test_every_split_has_its_share_of_each_label(made: list[tuple[str, int]], seed: int) -> None:
    """As nearly as whole clusters allow: within the largest of them."""
    tickets = [HashedItem(f"m/{label}/{n}", f"m/{group}", (), label) for n, (label, group) in enumerate(made)]
    found = split_tickets(tickets, seed, Fractions())
    label_of = {each.key: each.label for each in tickets}
    check_splits(found.keys, tickets)
    for label in ("pass", "fail"):
        count = sum(each.label == label for each in tickets)
        for name, share in zip(SPLITS, astuple(Fractions()), strict=True):
            have = sum(label_of[key] == label for key in found.keys[name])
            assert abs(have - share * count) <= 2 * found.largest


def test_a_tiny_class_is_in_every_split_that_it_can_be_in() -> None:
    tickets = [HashedItem(f"m/{n}", f"m/{n}", (), "fail" if n < 8 else "pass") for n in range(400)]
    found = split_tickets(tickets, 3, EVEN)
    fails = {each.key for each in tickets if each.label == "fail"}
    assert [len(fails & set(keys)) for keys in found.keys.values()] == [2, 2, 2, 2]
    assert found.sizes == dict.fromkeys(SPLITS, 100)


@pytest.mark.parametrize(
    ("labels", "notes"),
    [
        ({"pass": 200, "fail": 200}, []),
        ({"pass": 200, "fail": 0}, ["no ticket is labelled fail"]),
        ({"pass": 200, "fail": 8}, ["only 8 of 208 tickets are labelled fail: about 2 in propose"]),
    ],
)
def test_tiny_classes_are_named(labels: dict[str, int], notes: list[str]) -> None:
    found = tiny_classes(labels, Fractions())
    assert [each.startswith(note) for each, note in zip(found, notes, strict=True)] == [True] * len(notes)


def test_what_shares_a_picture_or_a_group_stays_together() -> None:
    pattern = 0x0123_4567_89AB_CDEF
    near, chained = pattern ^ 0b1111, pattern ^ 0b1111_1111
    linked = [
        ticket(0, pattern),
        ticket(1, near),
        ticket(2, chained),
        ticket(3, 1 << 40, group="m/QC-7"),
        ticket(4, 1 << 50 | 0xFFFF, group="m/QC-7"),
        HashedItem("m/pass/5", "m/5", (PictureHash("same bytes", None),)),
        HashedItem("m/pass/6", "m/6", (PictureHash("same bytes", None),)),
        ticket(7, None),
    ]
    clusters = {frozenset(key[-1] for key in cluster) for cluster in clusters_of(linked)}
    assert clusters == {frozenset("012"), frozenset("34"), frozenset("56"), frozenset("7")}
    for seed in range(20):
        check_splits(split_tickets(linked, seed, EVEN).keys, linked)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"gate": ["m/pass/0"], "test": ["m/pass/0"]}, "m/pass/0 is in gate and test"),
        ({"gate": ["m/pass/0"], "test": ["m/pass/1"]}, "m/pass/0 in gate and m/pass/1 in test"),
        ({"gate": ["m/pass/2"], "test": ["m/pass/3"]}, "m/pass/2 in gate and m/pass/3 in test"),
        ({"gate": ["m/pass/9"]}, "m/pass/9 is no ticket"),
    ],
)
def test_crafted_splits_are_refused(keys: dict[str, list[str]], told: str) -> None:
    tickets = [ticket(0, 0xFF00), ticket(1, 0xFF0F), ticket(2, 1 << 60, group="g"), ticket(3, 2**64 - 1, group="g")]
    with pytest.raises(DataError, match=told):
        check_splits(keys, tickets)
    check_splits({"gate": ["m/pass/0", "m/pass/1"], "test": ["m/pass/2"]}, tickets)


def test_a_ticket_twice_and_fractions_that_are_none() -> None:
    with pytest.raises(DataError, match="twice"):
        clusters_of([ticket(0), ticket(0)])
    for shares in ((0.5, 0.5, 0.5, -0.5), (0.5, 0, 0, 0)):
        with pytest.raises(ConfigError, match="together 1"):
            Fractions(*shares)
    empty = split_tickets([], 0, EVEN)
    assert (empty.clusters, empty.largest, sum(empty.sizes.values())) == (0, 0, 0)


def test_a_split_of_no_share_stays_empty() -> None:
    assert split_tickets(many(300), 0, Fractions(0.5, 0.5, 0, 0)).sizes["test"] == 0
