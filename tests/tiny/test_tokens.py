"""Counting by pieces between digits equals the real tokenizer, whatever the text."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from plumbline.augment.ops import OPERATIONS
from plumbline.augment.pipeline import Augmentation
from plumbline.augment.plan import VisibleObjects
from plumbline.batch.answers import Answer, AnswerCounter
from plumbline.batch.tokens import TokenCounter
from plumbline.data.answer import EMIT_NORMS, encode_answer
from plumbline.data.fit import fit_record
from plumbline.data.keyed import keyed_generator
from plumbline.data.messages import control_text
from plumbline.data.record import DataObject, Record
from plumbline.geometry import ORDERINGS, Box, Polygon, Polyline, Quad

pytestmark = pytest.mark.slow

PARTS = st.one_of(
    st.text(max_size=6),
    st.integers(0, 10**6).map(str),
    st.sampled_from(
        [
            " ",
            "  ",
            "\n",
            " \n",
            "\t",
            "'s",
            "é",
            "e\u0301",
            "\u0301",
            "①",
            "²",
            "٣",
            "标签",
            "😀",
            "<|im_end|>",
            ", ",
            '": ["',
        ]
    ),
)
TEXTS = st.lists(PARTS, max_size=14).map("".join)


@pytest.fixture(scope="module")
def counter(tiny_model: Path) -> TokenCounter:
    return TokenCounter(tiny_model)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model / "tokenizer.json"))


@given(TEXTS)
@settings(max_examples=500)
@example("1  2")
@example("x \n1")
@example("1\u0301")
def test_any_text(counter: TokenCounter, tokenizer: Tokenizer, text: str) -> None:
    assert counter.count(text) == len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_pieces_are_used_where_digits_stand_alone_and_whole_texts_elsewhere(
    counter: TokenCounter, tmp_path: Path
) -> None:
    answer = '{"object_1": {"bbox_2d": [1, 22, 333, 1000], "desc": "BBU设备/型号:5900"}}'
    first = counter.count(answer)
    misses = counter._count_piece.cache_info().misses
    assert counter.count(answer.replace("333", "787")) == first
    assert counter._count_piece.cache_info().misses == misses
    description = json.loads((counter.folder / "tokenizer.json").read_text())
    split = description["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    split["Regex"] = split["Regex"].replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    grouped = TokenCounter(tmp_path)
    assert grouped.count("1234567") == len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("1234567").ids)
    assert not grouped._cuts and counter._cuts


def test_it_travels_to_a_worker_by_its_folder(counter: TokenCounter) -> None:
    assert pickle.loads(pickle.dumps(counter)).count("a 12") == counter.count("a 12")


COORDINATES = st.tuples(st.floats(0, 640, width=32), st.floats(0, 480, width=32))
SHAPES = st.one_of(
    st.lists(COORDINATES, min_size=2, max_size=2).map(lambda p: Box(np.array(p)).canonical()),
    st.lists(COORDINATES, min_size=4, max_size=4).map(lambda p: Quad(np.array(p))),
    st.lists(COORDINATES, min_size=3, max_size=7).map(lambda p: Polygon(np.array(p))),
    st.lists(COORDINATES, min_size=2, max_size=7).map(lambda p: Polyline(np.array(p))),
)
OBJECTS = st.lists(st.builds(DataObject, desc=TEXTS.filter(str.strip), shape=SHAPES), min_size=1, max_size=12)


@given(OBJECTS, st.sampled_from(EMIT_NORMS), st.sampled_from(ORDERINGS))
@settings(max_examples=250)
def test_an_answer_is_counted_without_writing_it(counter: TokenCounter, objects: Any, norm: str, ordering: str) -> None:
    answer = Answer(VisibleObjects.whole(Record(objects=tuple(objects))), 640, 480, norm, ordering)
    told = AnswerCounter(counter).count_all([answer])[0]
    if any(control_text(item.desc) for item in objects):
        assert told is None
        return
    assert told == counter.count(encode_answer(objects, 640, 480, norm, ordering) + "<|im_end|>\n")


CHAINS = (
    Augmentation((OPERATIONS["hflip"](prob=0.5), OPERATIONS["vflip"](prob=0.5))),
    Augmentation((OPERATIONS["rotate"](max_deg=180.0), OPERATIONS["random_crop"](area=(0.3, 0.9), min_objects=0))),
    Augmentation(
        (OPERATIONS["small_object_zoom_paste"](), OPERATIONS["perspective"](), OPERATIONS["resize_by_scale"]())
    ),
)


@given(OBJECTS, st.sampled_from(CHAINS), st.integers(0, 99), st.sampled_from(ORDERINGS))
@settings(max_examples=250)
def test_a_planned_answer_is_counted_without_making_its_objects(
    counter: TokenCounter, objects: Any, chain: Augmentation, seed: int, ordering: str
) -> None:
    record = fit_record(Record(images=("a.jpg",), width=640, height=480, objects=tuple(objects))).record
    plan = chain.plan(record, (640, 480), keyed_generator(seed, 0, 0, "test"))
    manner = (plan.width, plan.height, "norm1000", ordering)
    planned, made = Answer(plan.visible, *manner), Answer(VisibleObjects.whole(plan.record), *manner)
    alone = AnswerCounter(counter).count_all([made])[0]
    assert AnswerCounter(counter).count_all([planned, made, planned]) == [alone] * 3
