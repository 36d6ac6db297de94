"""Average precision of upright boxes by the COCO protocol, through hotcoco."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

from plumbline.evaluate.descriptions import class_of
from plumbline.evaluate.pairs import Pair
from plumbline.geometry import Box
from plumbline.storage.objects import JsonObject

NAMES = ("ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")


def coco_boxes(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """AP and AR of the boxes among annotations and predictions; None where there is nothing to measure.

    A caption has no confidence, so every prediction has the score 1 and ties keep their order: AP is then below what
    the same boxes would reach with good scores, and is comparable between captioning models only.
    """
    truth, found = to_coco(pairs)
    if not truth["annotations"] or not found:
        return dict.fromkeys(NAMES)
    from hotcoco import COCO, COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(truth)
        evaluation = COCOeval(annotated, annotated.load_res(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [float(value) for value in evaluation.stats[: len(NAMES)]]
    return {name: None if value < 0 else value for name, value in zip(NAMES, values, strict=True)}


def to_coco(pairs: Sequence[Pair]) -> tuple[JsonObject, list[JsonObject]]:
    """(annotations, results) of the boxes in COCO's form; categories are the classes on both sides."""
    names = sorted({class_of(item.desc) for pair in pairs for item in (*pair.truth, *pair.found)})
    number = {name: index for index, name in enumerate(names, 1)}
    annotations: list[JsonObject] = []
    results: list[JsonObject] = []
    for index, pair in enumerate(pairs, 1):
        for item in pair.truth:
            if isinstance(item.shape, Box):
                common = {"image_id": index, "category_id": number[class_of(item.desc)], "bbox": _xywh(item.shape)}
                annotations.append({**common, "id": len(annotations) + 1, "area": item.shape.area(), "iscrowd": 0})
        for item in pair.found:
            if isinstance(item.shape, Box):
                common = {"image_id": index, "category_id": number[class_of(item.desc)], "bbox": _xywh(item.shape)}
                results.append({**common, "score": 1.0})
    images = [{"id": index, "width": pair.size[0], "height": pair.size[1]} for index, pair in enumerate(pairs, 1)]
    categories = [{"id": index, "name": name} for name, index in number.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _xywh(shape: Box) -> list[float]:
    x1, y1, x2, y2 = shape.bounds()
    return [x1, y1, x2 - x1, y2 - y1]
