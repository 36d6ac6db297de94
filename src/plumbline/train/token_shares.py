"""Ratios of the sources whose part of a run is given as a share of its supervised tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from plumbline.batch.tokens import TokenCounter
from plumbline.data.dataset import RecordDataset, RecordFile
from plumbline.data.epoch import Source
from plumbline.errors import DataError, Problem
from plumbline.train.config import TrainRun

logger = logging.getLogger(__name__)

MOST_SHOWN = 3
"""Times that an anchor is shown in an epoch before it is worth a word."""
SAMPLED = 256
"""Records of a source whose answers are counted."""


def with_token_shares(run: TrainRun, sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """The sources with `ratio` set where the configuration gives `token_share`.

    The mean answer of every source is estimated from evenly spaced records, so that shares hold to a few percent.
    """
    fusion = run.custom.fusion
    named = {} if fusion is None else {source.name: source.token_share for source in fusion.sources}
    shares = {name: share for name, share in named.items() if share is not None}
    if not shares:
        return sources
    if (total := sum(shares.values())) >= 1:
        raise DataError(Problem("custom.fusion", f"token_share adds up to {total:g}", "leave room for the targets"))
    counter = TokenCounter(str(run.upstream["model"]))
    targets = sum(source.share.records for source in sources if source.share.target)
    learned = sum(
        source.share.ratio * (source.share.records if source.share.target else targets) * mean_answer(source, counter)
        for source in sources
        if source.name not in shares
    )
    return tuple(_shared(source, shares, learned / (1 - total), targets, counter) for source in sources)


def _shared(source: Source, shares: Mapping[str, float], tokens: float, targets: int, counter: TokenCounter) -> Source:
    """tokens: supervised ones of an epoch; targets: records of the targets together."""
    if source.name not in shares:
        return source
    ratio = shares[source.name] * tokens / mean_answer(source, counter) / targets
    if (shown := ratio * targets / source.share.records) > MOST_SHOWN:
        logger.warning(
            "%s: a share of %g shows each of its %d records %.0f times an epoch: build more, or lower the share",
            source.name,
            shares[source.name],
            source.share.records,
            shown,
        )
    return replace(source, share=replace(source.share, ratio=ratio))


def mean_answer(source: Source, counter: TokenCounter) -> float:
    """Supervised tokens of a record, the mean over some."""
    places = np.linspace(0, source.share.records - 1, min(SAMPLED, source.share.records)).round().astype(int)
    assert isinstance(source.records, RecordFile)
    settings = replace(source.settings, mode="dense" if source.share.mode == "mixed" else source.share.mode)
    dataset = RecordDataset(source.records, settings)
    return float(np.mean([_answer_tokens(dataset.item(place).messages, counter) for place in set(places.tolist())]))


def _answer_tokens(messages: Sequence[Mapping[str, object]], counter: TokenCounter) -> int:
    return sum(counter.count(f"{turn['content']}<|im_end|>\n") for turn in messages if turn["role"] == "assistant")
