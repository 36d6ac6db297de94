"""Evaluation of files: figures, intervals, comparisons, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.errors import DataError
from plumbline.evaluate.coco import NAMES, coco_boxes, to_coco
from plumbline.evaluate.counts import COLUMN
from plumbline.evaluate.figures import compare, dense_figures, measure, resampled_sums
from plumbline.evaluate.matching import ERROR_KINDS
from plumbline.evaluate.pairs import pair_files
from plumbline.evaluate.run import Evaluation, compare_evaluations, evaluate_file

SIZE = {"width": 1000, "height": 800}
DESCS = ("BBU设备/品牌:华为", "光纤/颜色:黄色/保护:有保护", "标签/文字:A1", "挡风板")


def some_objects(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Objects on a grid of places: none touches another."""
    found = []
    for number in range(count):
        x, y = 20 + 180 * (number % 5), 20 + 180 * (number // 5)
        w, h = rng.integers(60, 140, 2).tolist()
        shape: dict[str, Any] = (
            {"bbox_2d": [x, y, x + w, y + h]},
            {"quad": [x, y + 3, x + w, y, x + w, y + h, x + 3, y + h]},
            {"poly": [x, y, x + w, y, x + w, y + h, x + w // 2, y + h // 2, x, y + h]},
            {"line": [x, y, x + w, y, x + w, y + h]},
        )[number % 4]
        found.append({**shape, "desc": DESCS[int(rng.integers(len(DESCS)))]})
    return found


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def truth_rows(pictures: int = 12, objects: int = 8) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [{"images": [f"{n}.jpg"], **SIZE, "objects": some_objects(rng, objects)} for n in range(pictures)]


def reply(record: dict[str, Any], objects: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """The row of `plumbline infer` for a record."""
    image = record["images"][0]
    objects = record["objects"] if objects is None else objects
    return {"key": image, "image": image, **SIZE, "objects": objects, "text": "", "status": "ok", "problems": []} | more


def evaluated(tmp_path: Path, rows: list[dict[str, Any]], replies: list[dict[str, Any]], **options: Any) -> Evaluation:
    truth, found = write_jsonl(tmp_path / "truth.jsonl", rows), write_jsonl(tmp_path / "found.jsonl", replies)
    return evaluate_file(truth, found, bootstraps=options.pop("bootstraps", 0), **options)


def shifted(item: dict[str, Any], by: int) -> dict[str, Any]:
    kind = next(name for name in item if name != "desc")
    return {kind: [number + by for number in item[kind]], "desc": item["desc"]}


def worsened(rows: list[dict[str, Any]], seed: int = 0, bad: float = 0.3) -> list[dict[str, Any]]:
    """Replies with every kind of error."""
    rng = np.random.default_rng(seed)
    replies = []
    for record in rows:
        objects = []
        for item in record["objects"]:
            draw = rng.random()
            if draw < bad / 3:
                continue
            if draw < bad * 2 / 3:
                item = shifted(item, 45)
            elif draw < bad:
                item = {**item, "desc": "螺丝/符合要求"}
            objects.append(item)
            if rng.random() < 0.1:
                objects.append(item)
        objects.append({"bbox_2d": [950, 700, 990, 790], "desc": "铁塔"})
        replies.append(reply(record, objects))
    return replies


# ------------------------------------------------------------------------------------------------------------- figures
def test_the_annotations_themselves_are_perfect(tmp_path: Path) -> None:
    rows = truth_rows()
    found = evaluated(tmp_path, rows, [reply(row) for row in rows])
    perfect = ("f1_50", "f1_75", "f1_50_95", "recall_50", "description_exact", "attribute_f1", "replies_read_whole")
    assert {name: found.figures[name].value for name in perfect} == dict.fromkeys(perfect, 1.0)
    for name in ("hallucinated_objects", "hallucinated_pictures", *(f"gain_{kind}" for kind in ERROR_KINDS)):
        assert found.figures[name].value == 0
    assert found.figures["false_alarms_on_empty"].value is None, "no empty picture, no share"
    assert found.coco["ap"] == pytest.approx(1)
    assert found.notes == ()


def test_silence_has_no_hits_and_no_false_alarms(tmp_path: Path) -> None:
    rows = [*truth_rows(), {"images": ["empty.jpg"], **SIZE, "objects": []}]
    found = evaluated(tmp_path, rows, [reply(row, []) for row in rows])
    assert found.figures["f1_50"].value == 0 and found.figures["precision_50"].value is None
    assert found.figures["gain_missed"].value == 1.0
    assert found.figures["false_alarms_on_empty"].value == 0


def test_objects_on_an_empty_picture_are_a_false_alarm(tmp_path: Path) -> None:
    rows = [{"images": [f"{n}.jpg"], **SIZE, "objects": []} for n in range(4)]
    ghost = [{"bbox_2d": [1, 1, 50, 50], "desc": "铁塔"}]
    found = evaluated(tmp_path, rows, [reply(row, ghost if n == 0 else []) for n, row in enumerate(rows)])
    assert found.figures["false_alarms_on_empty"].value == 0.25
    assert found.figures["hallucinated_pictures"].value == 0.25


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_mending_one_kind_of_error_gains_what_the_budget_says(tmp_path: Path, kind: str) -> None:
    """Mend the predictions for real, and measure again."""
    rows = truth_rows()
    before = evaluated(tmp_path, rows, worsened(rows))
    mended = []
    for record, pair, counts in zip(rows, before.files.pairs, before.pictures, strict=True):
        errors = counts.errors
        assert errors is not None
        objects: list[dict[str, Any]] = []
        for item, error, partner in zip(pair.found, errors.kinds, errors.partners, strict=True):
            if error == kind and partner >= 0:
                objects.append(record["objects"][partner])
            elif error != kind:
                objects.append({item.shape.kind: item.shape.flat(), "desc": item.desc})
        if kind == "missed":
            objects += [record["objects"][index] for index in errors.missed]
        mended.append(reply(record, objects))
    after = evaluated(tmp_path, rows, mended)
    gained = before.figures[f"gain_{kind}"].value
    assert gained is not None and before.figures["f1_50"].value is not None
    assert after.figures["f1_50"].value == pytest.approx(before.figures["f1_50"].value + gained)
    if kind != "both":
        assert before.counts.sum(axis=0)[COLUMN[kind]] > 0


def test_descriptions_are_compared_level_by_level_and_by_attribute(tmp_path: Path) -> None:
    record = {
        "images": ["a.jpg"],
        **SIZE,
        "objects": [{"bbox_2d": [0, 0, 90, 90], "desc": "光纤/颜色：黄色/保护:有保护"}],
    }
    item = {"bbox_2d": [0, 0, 90, 90], "desc": "光纤/颜色:黄色/保护:无保护"}
    found = evaluated(tmp_path, [record], [reply(record, [item])])
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["description_exact"] == 0
    assert [values[f"description_level_{level}"] for level in (1, 2, 3)] == [1, 1, 0], "full-width marks are the same"
    assert values["attribute_f1"] == 0.5
    assert found.keys == {"颜色": (1, 1), "保护": (0, 1)}


def test_groups_and_confusions_count_every_object(tmp_path: Path) -> None:
    rows = truth_rows()
    found = evaluated(tmp_path, rows, worsened(rows))
    truth, predicted = sum(len(row["objects"]) for row in rows), sum(len(p.found) for p in found.files.pairs)
    for groups in found.groups.values():
        assert sum(group.truth for group in groups) == truth and sum(group.found for group in groups) == predicted
    assert sum(count for (mine, _), count in found.confusion.items() if mine) == truth
    assert sum(count for (_, theirs), count in found.confusion.items() if theirs) == predicted


def test_average_precision_equals_the_reference(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = truth_rows(20)
    for row in rows:
        row["objects"] = [item for item in row["objects"] if "bbox_2d" in item]
    files = pair_files(
        write_jsonl(tmp_path / "t.jsonl", rows), write_jsonl(tmp_path / "f.jsonl", worsened(rows, bad=0.5))
    )
    annotations, results = to_coco(files.pairs)
    reference = COCO()
    reference.dataset = annotations
    reference.createIndex()
    evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = coco_boxes(files.pairs)
    for name, value in zip(NAMES, evaluation.stats[: len(NAMES)], strict=True):
        assert (-1 if ours[name] is None else ours[name]) == pytest.approx(value, abs=1e-6), name


# ----------------------------------------------------------------------------------------------------------- intervals
def test_resampled_sums_have_the_mean_and_spread_of_drawing_pictures() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (5000, 3)).astype(float)  # more than one block
    sums = resampled_sums(counts, 2000, seed=1)
    np.testing.assert_allclose(sums.mean(axis=0), counts.sum(axis=0), rtol=2e-3)
    np.testing.assert_allclose(sums.std(axis=0), counts.std(axis=0) * np.sqrt(len(counts)), rtol=0.06)


def test_intervals_hold_the_truth_about_as_often_as_they_say(tmp_path: Path) -> None:
    """Many samples of pictures out of a population whose F1 is known."""
    rows = truth_rows(200, 5)
    population = evaluated(tmp_path, rows, worsened(rows, bad=0.4))
    truth = float(dense_figures(population.counts.sum(axis=0))["f1_50"])
    rng, held = np.random.default_rng(5), 0
    for seed in range(200):
        sample = population.counts[rng.integers(len(rows), size=60)]
        figure = measure(sample, dense_figures, 200, seed)["f1_50"]
        assert figure.low is not None and figure.high is not None
        held += figure.low <= truth <= figure.high
    assert 0.88 <= held / 200 <= 1.0


def test_a_model_does_not_differ_from_itself_and_a_worse_one_does(tmp_path: Path) -> None:
    rows = truth_rows(60)
    good, bad = (evaluated(tmp_path, rows, worsened(rows, seed, share)) for seed, share in ((1, 0.1), (2, 0.7)))
    assert all(each.value == 0 and not each.is_significant for each in compare_evaluations(good, good).values())
    found = compare_evaluations(bad, good)["f1_50"]
    assert found.value < 0 and found.high < 0 and found.is_significant


def test_equal_models_rarely_differ_significantly(tmp_path: Path) -> None:
    """Two models that err alike and independently: at most a few of many comparisons may be called different."""
    rows = truth_rows(40)
    models = [evaluated(tmp_path, rows, worsened(rows, seed)).counts for seed in range(12)]
    called = sum(
        any(each.is_significant for each in compare(mine, other, dense_figures, 200).values())
        for mine, other in zip(models[::2], models[1::2], strict=True)
    )
    assert called <= 1


# --------------------------------------------------------------------------------------------------------------- files
def test_a_picture_without_a_row_is_counted_and_missed(tmp_path: Path) -> None:
    rows = truth_rows(4, 5)
    found = evaluated(tmp_path, rows, [reply(row) for row in rows[:3]])
    assert found.files.missing == 1 and found.figures["recall_50"].value == 0.75
    assert any("1 pictures have no prediction" in note for note in found.notes)


def test_chats_and_records_of_several_pictures_are_left_out_and_said(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
    rows = truth_rows(2)
    found = evaluated(tmp_path, [*rows, chat], [reply(row) for row in rows])
    assert found.files.left_out["chats"] == 1 and "left out: 1 chats" in found.notes


def test_records_of_another_tool_are_predictions_too(tmp_path: Path) -> None:
    rows = truth_rows(3)
    assert evaluated(tmp_path, rows, rows).figures["f1_50"].value == 1


def test_errors_and_unreadable_replies_are_counted(tmp_path: Path) -> None:
    rows = truth_rows(3)
    replies = [reply(rows[0]), reply(rows[1], [], status="error:timeout"), reply(rows[2], [], status="invalid")]
    found = evaluated(tmp_path, rows, replies)
    assert found.figures["replies_read_whole"].value == pytest.approx(1 / 3)
    assert {"1 replies are error:timeout", "1 replies are invalid"} <= set(found.notes)


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([{"key": "other.jpg", "status": "ok"}], "none of its pictures is annotated"),
        ([], "holds no predictions"),
        ([{"key": "0.jpg"}, {"key": "0.jpg"}], "a second row for"),
        ([{"key": "0.jpg", "width": 500, "height": 400}], "is 1000 x 800 there, and 500 x 400"),
        ([{"key": "0.jpg", "width": "1000"}], "width: not as `plumbline infer` writes them"),
        ([{"key": "0.jpg", **SIZE, "objects": [{"bbox_2d": [1, 2, 3], "desc": "x"}]}], "bbox_2d"),
        ([{"images": ["0.jpg", "1.jpg"]}], "exactly one picture"),
        ([[1, 2]], "JSON object"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, replies: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        evaluated(tmp_path, truth_rows(2), replies)


def test_evaluations_of_other_pictures_are_not_compared(tmp_path: Path) -> None:
    rows = truth_rows(4)
    one = evaluated(tmp_path, rows, [reply(row) for row in rows])
    other = evaluated(tmp_path, rows[:3], [reply(row) for row in rows[:3]])
    with pytest.raises(DataError, match="other pictures"):
        compare_evaluations(one, other)


# --------------------------------------------------------------------------------------------------------------- scale
def rescaled(item: dict[str, Any], x: float, y: float) -> dict[str, Any]:
    kind = next(name for name in item if name != "desc")
    return {kind: [number * (y if index % 2 else x) for index, number in enumerate(item[kind])], "desc": item["desc"]}


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (1000 / 1000, 1000 / 800, "norm1000 read as pixels"),
        (1000 / 1000, 800 / 1000, "pixels read as norm1000"),
        (100 / 1000, 100 / 800, "norm100 read as pixels"),
        (1 / 1000, 1 / 800, "0 to 1 read as pixels"),
        (10, 10, "norm1000 read as norm100"),
        (0.1, 0.1, "norm100 read as norm1000"),
    ],
)
def test_a_wrong_scale_is_named(tmp_path: Path, x: float, y: float, words: str) -> None:
    rows = truth_rows()
    found = evaluated(tmp_path, rows, [reply(row, [rescaled(item, x, y) for item in row["objects"]]) for row in rows])
    assert words in found.notes[0]


def test_swapped_axes_are_named(tmp_path: Path) -> None:
    rows = truth_rows()

    def swapped(item: dict[str, Any]) -> dict[str, Any]:
        kind = next(name for name in item if name != "desc")
        numbers = item[kind]
        return {kind: [n for pair in zip(numbers[1::2], numbers[::2], strict=True) for n in pair], "desc": item["desc"]}

    found = evaluated(tmp_path, rows, [reply(row, [swapped(item) for item in row["objects"]]) for row in rows])
    assert "x and y swapped" in found.notes[0]


def test_a_merely_bad_model_has_no_wrong_scale(tmp_path: Path) -> None:
    rows = truth_rows()
    assert evaluated(tmp_path, rows, worsened(rows, bad=0.9)).notes == ()


# ----------------------------------------------------------------------------------------------------------- summaries
def test_summaries_are_measured_item_by_item(tmp_path: Path) -> None:
    rows = [
        {"images": ["a.jpg"], "summary": "BBU设备×1，光模块×3"},
        {"images": ["b.jpg"], "summary": "无关图片"},
        {"images": ["c.jpg"], "summary": "线缆×2"},
    ]
    texts = ("BBU设备×1,光模块×2", "无关图片", "无关图片")
    replies = [reply(row, [], text=text) for row, text in zip(rows, texts, strict=True)]
    found = evaluated(tmp_path, rows, replies)
    values = {name: figure.value for name, figure in found.figures.items()}
    assert found.mode == "summary"
    assert values["summary_item_f1"] == pytest.approx(2 * 3 / (6 + 3))
    assert values["summary_exact"] == pytest.approx(1 / 3)
    assert values["irrelevant_recognised"] == 1 and values["relevant_refused"] == 0.5
    assert found.as_dict()["figures"]["summary_exact"]["value"] == values["summary_exact"]
