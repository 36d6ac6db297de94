"""Sources of a run as its configuration describes them: their prompts, and records that a mode cannot tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from plumbline.data.dataset import Sample
from plumbline.data.epoch import EpochDataset
from plumbline.errors import DataError
from plumbline.train.config import load_run
from plumbline.train.datasets import open_datasets

PICTURE = {"images": ["a.png"], "width": 64, "height": 48, "summary": "x×1"}
OBJECTS = {"objects": [{"desc": "x", "bbox_2d": [4, 4, 40, 40]}]}
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
OWN = {"user_prompt": "own?", "system_prompt": "own system"}
RUN_PROMPTS = {"system_dense": "d system", "user_dense": "d?", "system_summary": "s system", "user_summary": "s?"}


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")

    def write(name: str, *rows: dict[str, Any]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., EpochDataset]:
    """The training samples of a run with these keys of `custom`."""

    def open_run(**custom: Any) -> EpochDataset:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({"model": {"model": "m"}, "custom": custom, "prompts": RUN_PROMPTS}))
        return open_datasets(load_run(path).run)[0]

    return open_run


def asked(sample: Sample) -> tuple[str, str]:
    """(system, user) text."""
    return sample.messages[0]["content"], sample.messages[1]["content"][-1]["text"]


@pytest.mark.parametrize("mode", ["dense", "summary", "irrelevant", None])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_prompts_of_a_source_are_asked_in_every_mode_it_is_told_in(jsonl, opened, mode, ratio) -> None:
    rows = [PICTURE | OBJECTS] * 4
    own = {"name": "own", "train_jsonl": jsonl("own", *rows)} | OWN | ({} if mode is None else {"mode": mode})
    plain = {"name": "plain", "train_jsonl": jsonl("plain", *rows)}
    samples = opened(fusion={"targets": [own, plain]}, summary_ratio=ratio)
    told = [samples.item(position) for position in range(8)]
    assert {asked(sample) for sample in told if sample.source == "own"} == {("own system", "own?")}
    expected = {0.0: {"d"}, 0.5: {"d", "s"}, 1.0: {"s"}}[ratio]
    plainly = {asked(sample) for sample in told if sample.source == "plain"}
    assert plainly == {(f"{letter} system", f"{letter}?") for letter in expected}
    if mode is None:
        modes = {sample.mode for sample in told if sample.source == "own"}
        assert modes == {0.0: {"dense"}, 0.5: {"dense", "summary"}, 1.0: {"summary"}}[ratio]


def test_one_prompt_of_a_source_leaves_the_other_to_the_run(jsonl, opened) -> None:
    own = {"name": "own", "train_jsonl": jsonl("own", PICTURE | OBJECTS)}
    assert asked(opened(fusion={"targets": [own | {"user_prompt": "own?"}]}).item(0)) == ("d system", "own?")
    assert asked(opened(fusion={"targets": [own | {"system_prompt": "own"}]}).item(0)) == ("own", "d?")


def test_what_is_no_chat_is_named_before_training(jsonl, opened) -> None:
    talk = jsonl("talk", CHAT, PICTURE, CHAT, PICTURE)
    fusion = {"sources": [{"name": "talk", "train_jsonl": talk, "mode": "chat", "ratio": 4.0}]}
    with pytest.raises(DataError, match=r"talk\.jsonl:2: 2 records are no chats, which mode chat needs"):
        opened(train_jsonl=jsonl("own", PICTURE | OBJECTS), fusion=fusion)
    assert len(opened(train_jsonl=jsonl("own", PICTURE | OBJECTS), fusion=fusion, train_sample_limit=1)) == 1 + 4
    lenient = opened(train_jsonl=jsonl("own", PICTURE | OBJECTS), fusion=fusion, strict=False)
    problems = []
    for position in range(len(lenient)):
        try:
            lenient.item(position)
        except DataError as error:
            problems.append(str(error))
    assert len(problems) == 2 and all("no `messages`" in problem for problem in problems)


def test_a_chat_that_should_be_answered_as_irrelevant_is_named_before_training(jsonl, opened) -> None:
    other = {"name": "other", "train_jsonl": jsonl("other", PICTURE, CHAT), "mode": "irrelevant"}
    with pytest.raises(DataError, match=r"other\.jsonl:2: 1 records are chats of their own, which mode irrelevant"):
        opened(train_jsonl=jsonl("own", PICTURE | OBJECTS), fusion={"sources": [other]})


def test_chats_among_described_pictures_stay_alone_in_their_turns(jsonl, opened) -> None:
    rows = [PICTURE | OBJECTS, CHAT, PICTURE | OBJECTS, PICTURE | OBJECTS, CHAT, CHAT, PICTURE | OBJECTS]
    samples = opened(train_jsonl=jsonl("own", *rows), images_per_user_turn=2, summary_ratio=0.5)
    assert len(samples) == 5
    for epoch in range(6):
        told = [samples.item(position, epoch) for position in range(5)]
        assert sorted(sample.mode for sample in told) == ["chat", "chat", "chat", "dense", "summary"]
        assert all(len(sample.images) == (0 if sample.mode == "chat" else 2) for sample in told)
        assert {sample.record.line for sample in told if sample.mode == "chat"} == {2, 5, 6}
