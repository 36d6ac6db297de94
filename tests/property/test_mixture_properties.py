"""What an epoch shows: shares as exact counts, equal epochs, drawn from the key alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plumbline.data.mixture import Mixture, Share


def share_with(chats: set[int], **fields: Any) -> Share:
    """chats: of which those stay that are records of the share; a source of nothing but chats says so by its mode."""
    told = fields["mode"] in ("dense", "summary", "mixed")
    return Share(chats=frozenset(chat for chat in chats if told and chat < fields["records"]), **fields)


ANY_SHARE = st.builds(
    share_with,
    chats=st.sets(st.integers(0, 29), max_size=8) | st.just(set(range(30))),
    records=st.integers(1, 30),
    ratio=st.sampled_from([0.25, 0.5, 1.0, 2.5]),
    target=st.booleans(),
    mode=st.sampled_from(["dense", "summary", "chat", "mixed", "irrelevant"]),
    without_replacement=st.booleans(),
)
SHARES = st.lists(ANY_SHARE, max_size=3).map(lambda others: (Share(7, mode="mixed"), *others))
MIXTURES = st.builds(
    Mixture,
    shares=SHARES,
    seed=st.integers(0, 5),
    summary_ratio=st.sampled_from([0.0, 0.3, 1.0]),
    images_per_turn=st.integers(1, 4),
    shuffle=st.booleans(),
)


@given(MIXTURES, st.integers(0, 50))
def test_epochs_are_equally_long_and_depend_on_the_key_alone(mixture: Mixture, epoch: int) -> None:
    turns = mixture.turns(epoch)
    assert len(turns) == len(mixture) == len(mixture.turns(epoch + 1))
    again = Mixture(mixture.shares, mixture.seed, mixture.summary_ratio, mixture.images_per_turn, mixture.shuffle)
    assert list(again.turns(epoch)) == list(turns)


@given(MIXTURES, st.integers(0, 5))
def test_every_source_has_its_share_and_every_turn_one_source_and_mode(mixture: Mixture, epoch: int) -> None:
    turns = mixture.turns(epoch)
    told = Counter(source for turn in turns for source in [turn.source] * len(turn.records))
    for number, share in enumerate(mixture.shares):
        assert told[number] == mixture.count(share)
        mine = [turn for turn in turns if turn.source == number]
        shown = Counter(record for turn in mine for record in turn.records)
        assert all(0 <= record < share.records for record in shown)
        if share.without_replacement and shown:
            assert max(shown.values()) - min(shown.get(record, 0) for record in range(share.records)) <= 1
        assert all((turn.mode == "chat") >= bool(share.chats.intersection(turn.records)) for turn in mine)
        modes = Counter(turn.mode for turn in mine for _ in turn.records if not share.chats.intersection(turn.records))
        if share.mode == "mixed":
            assert modes["summary"] == round(mixture.summary_ratio * modes.total())
        elif modes:
            assert set(modes) == {share.mode}
        full = [len(turn.records) for turn in mine if turn.mode == "dense"]
        assert all(size <= mixture.images_per_turn for size in full)
        assert sum(size < mixture.images_per_turn for size in full) <= 1
        assert all(len(turn.records) == 1 for turn in mine if turn.mode == "chat")


def test_a_plain_file_is_shown_whole_in_another_order_each_epoch() -> None:
    mixture = Mixture((Share(50),), seed=3)
    first, second = ([turn.records[0] for turn in mixture.turns(epoch)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50)) and first != second
    for chats in (frozenset[int](), frozenset({3, 17})):
        in_order = Mixture((Share(50, chats=chats),), shuffle=False)
        assert [turn.records[0] for turn in in_order.turns(9)] == list(range(50))
    assert not in_order.is_random and Mixture((Share(5), Share(9, 0.5, False))).is_random


@given(ANY_SHARE, st.integers(0, 5))
def test_epochs_show_the_same_turns_unless_the_mixture_calls_itself_random(share: Share, seed: int) -> None:
    mixture = Mixture((Share(2), share), seed)
    first, *others = (Counter(mixture.turns(epoch)) for epoch in range(3))
    assert mixture.is_random or all(other == first for other in others)


def test_a_source_is_measured_by_the_targets_and_a_target_by_itself() -> None:
    mixture = Mixture((Share(100), Share(20, ratio=2.0), Share(1000, ratio=0.1, target=False)))
    assert [mixture.count(share) for share in mixture.shares] == [100, 40, 12]
