"""Summaries item by item: what is named and how often."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from plumbline.data.prompts import irrelevant_answer
from plumbline.data.summary_items import count_items
from plumbline.evaluate.pairs import Pair
from plumbline.evaluate.similarity import Matrix
from plumbline.storage.text import normalised

COLUMNS = (
    "pictures",
    "exact",
    "items_right",
    "items_truth",
    "items_found",
    "names_right",
    "names_truth",
    "names_found",
    "irrelevant",
    "irrelevant_right",
    "relevant",
    "relevant_refused",
    "replies",
    "replies_whole",
)
COLUMN = {name: index for index, name in enumerate(COLUMNS)}


def count_summary(pair: Pair) -> Matrix:
    """One picture as a row by `COLUMNS`."""
    refusal = normalised(irrelevant_answer())
    truth, found = normalised(pair.summary or ""), normalised(pair.text)
    items_t, items_f = (Counter() if text == refusal else count_items(text) for text in (truth, found))
    names_t, names_f = set(items_t), set(items_f)
    is_irrelevant, is_refused = truth == refusal, found == refusal
    amounts = {
        "pictures": 1,
        "exact": truth == found,
        "items_right": (items_t & items_f).total(),
        "items_truth": items_t.total(),
        "items_found": items_f.total(),
        "names_right": len(names_t & names_f),
        "names_truth": len(names_t),
        "names_found": len(names_f),
        "irrelevant": is_irrelevant,
        "irrelevant_right": is_irrelevant and is_refused,
        "relevant": not is_irrelevant,
        "relevant_refused": not is_irrelevant and is_refused,
        "replies": 1,
        "replies_whole": pair.status == "ok",
    }
    return np.array([amounts[name] for name in COLUMNS], dtype=np.float64)


def summary_figures(sums: Matrix) -> dict[str, NDArray[np.float64]]:
    """Every figure of summed counts [..., K], as arrays [...]; NaN where there is nothing to divide by."""

    def share(part: str, *whole: str, times: float = 1.0) -> NDArray[np.float64]:
        below = sum(sums[..., COLUMN[name]] for name in whole)
        return np.divide(times * sums[..., COLUMN[part]], below, out=np.full(np.shape(below), np.nan), where=below > 0)

    return {
        "summary_item_f1": share("items_right", "items_truth", "items_found", times=2.0),
        "summary_name_f1": share("names_right", "names_truth", "names_found", times=2.0),
        "summary_exact": share("exact", "pictures"),
        "irrelevant_recognised": share("irrelevant_right", "irrelevant"),
        "relevant_refused": share("relevant_refused", "relevant"),
        "replies_read_whole": share("replies_whole", "replies"),
    }
