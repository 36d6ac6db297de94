"""Label suspects: wrong annotations are found where the answers agree, and sound ones are left in peace."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from test_evaluate import DESCS, SIZE, reply, truth_rows, write_jsonl

from plumbline.errors import EXIT_OK
from plumbline.evaluate.label_suspects import label_suspects
from plumbline.evaluate.run import Evaluation, evaluate_file


def evaluation(folder: Path, name: str, truth: list[dict[str, Any]], answers: list[list[dict[str, Any]]]) -> Evaluation:
    replies = [reply(record, objects) for record, objects in zip(truth, answers, strict=True)]
    files = write_jsonl(folder / "truth.jsonl", truth), write_jsonl(folder / f"{name}.jsonl", replies)
    return evaluate_file(*files, bootstraps=0)


def as_model(rng: Generator, right: list[list[dict[str, Any]]], errors: float) -> list[list[dict[str, Any]]]:
    """The objects as a model describes them: a pixel or two off, some left out, some of another class."""
    answers = []
    for objects in right:
        answers.append([])
        for item in objects:
            kind = next(iter(item))
            draw = rng.random()
            if draw < errors:
                continue
            desc = str(rng.choice(DESCS)) if draw < 2 * errors else item["desc"]
            moved = (np.array(item[kind]) + rng.integers(-1, 2, len(item[kind]))).tolist()
            answers[-1].append({kind: moved, "desc": desc})
    return answers


def test_flipped_classes_and_left_out_objects_are_found(tmp_path: Path) -> None:
    """One annotation in twenty names another class, another one is deleted; both models err on a tenth each."""
    rng = np.random.default_rng(11)
    right = [record["objects"] for record in truth_rows(60, 10)]
    truth, planted = truth_rows(60, 10), set[tuple[int, str]]()
    for picture, record in enumerate(truth):
        for item in list(record["objects"]):
            draw = rng.random()
            if draw < 0.05:
                item["desc"] = str(rng.choice([desc for desc in DESCS if desc != item["desc"]]))
                planted.add((picture, json.dumps(item)))
            elif draw < 0.1:
                record["objects"].remove(item)
                planted.add((picture, json.dumps(item)))
    mine, other = (
        evaluation(tmp_path, name, truth, as_model(rng, deepcopy(right), 0.05)) for name in ("mine", "other")
    )
    suspects = label_suspects(mine, other)
    hits = set()
    for suspect in suspects:
        if suspect.annotated is not None:
            hits.add((suspect.picture, json.dumps(truth[suspect.picture]["objects"][suspect.annotated])))
        else:
            found = mine.files.pairs[suspect.picture].found[suspect.described].shape.bounds()
            hits |= {
                (picture, text)
                for picture, text in planted
                if picture == suspect.picture and np.allclose(_corner(json.loads(text)), found[:2], atol=5)
            }
    recall, precision = len(hits & planted) / len(planted), len(hits & planted) / len(suspects)
    assert recall > 0.75, "both models must have described it"
    assert precision > 0.9


def _corner(item: dict[str, Any]) -> tuple[int, int]:
    numbers = next(iter(item.values()))
    return min(numbers[::2]), min(numbers[1::2])


BOX, FAR = [10, 10, 110, 110], [500, 500, 600, 600]


@pytest.mark.parametrize(
    ("annotated", "described", "two", "one"),
    [
        pytest.param({"bbox_2d": BOX, "desc": "箱子"}, {"bbox_2d": BOX, "desc": "杯子"}, "class", "class", id="class"),
        pytest.param(
            {"bbox_2d": BOX, "desc": "箱子"}, {"bbox_2d": FAR, "desc": "箱子"}, "unannotated", None, id="unannotated"
        ),
        pytest.param(
            {"bbox_2d": [10, 10, 60, 110], "desc": "箱子"},
            {"bbox_2d": [20, 10, 160, 110], "desc": "箱子"},
            "place",
            None,
            id="place",
        ),
        pytest.param({"bbox_2d": BOX, "desc": "箱子/红"}, {"bbox_2d": BOX, "desc": "箱子/蓝"}, None, None, id="level"),
    ],
)
def test_kinds(
    tmp_path: Path, annotated: dict[str, Any], described: dict[str, Any], two: str | None, one: str | None
) -> None:
    """One answer alone is no witness that an object is there or lies elsewhere."""
    truth = [{"images": ["a.jpg"], **SIZE, "objects": [annotated]}]
    mine, other = (evaluation(tmp_path, name, truth, [[described]]) for name in ("mine", "other"))
    assert [suspect.kind for suspect in label_suspects(mine, other)] == ([two] if two else [])
    assert [suspect.kind for suspect in label_suspects(mine)] == ([one] if one else [])


def test_models_that_disagree_accuse_nobody(tmp_path: Path) -> None:
    truth = [{"images": ["a.jpg"], **SIZE, "objects": [{"bbox_2d": BOX, "desc": "箱子"}]}]
    mine = evaluation(tmp_path, "mine", truth, [[{"bbox_2d": BOX, "desc": "杯子"}]])
    for answer in ([{"bbox_2d": BOX, "desc": "箱子"}], [{"bbox_2d": BOX, "desc": "树"}], []):
        assert label_suspects(mine, evaluation(tmp_path, "other", truth, [answer])) == []


def test_the_verb_lists_them_with_their_line(tmp_path: Path, plumbline) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m"
    truth = [{"images": [f"{name}.jpg"], **SIZE, "objects": [{"bbox_2d": BOX, "desc": "箱子"}]} for name in "ab"]
    replies = [reply(truth[0]), reply(truth[1], [{"bbox_2d": BOX, "desc": hostile}])]
    files = write_jsonl(tmp_path / "truth.jsonl", truth), write_jsonl(tmp_path / "found.jsonl", replies)
    page = tmp_path / "page.html"
    code, out, err = plumbline("evaluate", *map(str, files), "--html", str(page), "--shown", "1")
    assert code == EXIT_OK, err
    assert "label suspect (class)" in out and "truth.jsonl:2" in out and "\x1b" not in out
    text = page.read_text(encoding="utf-8")
    assert 'href="#p-2"' in text and 'id="p-2"' in text and "<script>alert" not in text
    code, out, _ = plumbline("evaluate", *map(str, files), "--json")
    (row,) = json.loads(out)["label_suspects"]
    assert (row["kind"], row["annotated"], row["described"]) == ("class", 0, 0)
