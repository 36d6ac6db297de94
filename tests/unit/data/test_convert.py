"""`data convert`: each format's geometry by numbers worked out by hand, every loss counted, damage named."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
from PIL import Image

from plumbline.cli import main
from plumbline.data.convert import coco, verbs
from plumbline.data.convert.outlines import coco_counts, ellipse, mask_outlines, turned_box
from plumbline.data.read import read_records
from plumbline.errors import EXIT_FAILURE, EXIT_FINDINGS, EXIT_OK, EXIT_USAGE


def run(*arguments: object) -> int:
    with (
        mock.patch("sys.argv", ["plumbline", "data", "convert", *map(str, arguments)]),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return int(end.value.code or 0)


def convert(capsys, source: Path, source_format: str, *options: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(records, report) of a conversion that ends well or with losses."""
    output = (source if source.is_dir() else source.parent) / "out.jsonl"
    code = run(source, "--from", source_format, "--output", output, "--json", *options)
    report = json.loads(capsys.readouterr().out)
    assert code == (EXIT_FINDINGS if report["lost"] else EXIT_OK)
    assert len(list(read_records(output))) == report["records"]
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()], report


def saved(folder: Path, value: Any, name: str = "a.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def photo(folder: Path, name: str, size: tuple[int, int] = (200, 100)) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(folder / name)


# COCO and LVIS


def coco_file(folder: Path, annotations: list[dict], **change: Any) -> Path:
    whole = {
        "annotations": [{"image_id": 7, "category_id": 3} | item for item in annotations],  # before what they refer to
        "images": [{"id": 7, "file_name": "p/a.jpg", "width": 200, "height": 100}],
        "categories": [{"id": 3, "name": " cabinet "}],
    }
    return saved(folder, whole | change)


def test_coco_boxes_and_outlines(tmp_path, capsys) -> None:
    outline = [10, 10, 60, 10, 60, 50.5, 10, 50]
    file = coco_file(tmp_path, [{"bbox": [1.5, 2, 30, 40]}, {"bbox": [10, 10, 50, 40.5], "segmentation": [outline]}])
    records, report = convert(capsys, file, "coco")
    assert records == [
        {
            "schema": 1,
            "images": ["p/a.jpg"],
            "width": 200,
            "height": 100,
            "objects": [{"bbox_2d": [1.5, 2, 31.5, 42], "desc": "cabinet"}, {"poly": outline, "desc": "cabinet"}],
        }
    ]
    assert (report["lost"], report["changed"]) == ({}, {})
    assert (report["pictures"], report["records"], report["objects"]) == (1, 1, 2)


def test_outlines_as_boxes_on_request(tmp_path, capsys) -> None:
    file = coco_file(tmp_path, [{"bbox": [10, 10, 50, 40], "segmentation": [[10, 10, 60, 10, 60, 50]]}])
    records, report = convert(capsys, file, "coco", "--boxes")
    assert records[0]["objects"] == [{"bbox_2d": [10, 10, 60, 50], "desc": "cabinet"}]
    assert report["changed"] == {"outline, written as its box": 1}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"bbox": [1, 2, 3, 4], "iscrowd": 1}, "crowd region"),
        ({"bbox": [1, 2, 3, 4], "category_id": 9}, "annotation of an unknown category"),
        ({"bbox": [1, 2, 3, 4], "category_id": [9]}, "annotation of an unknown category"),
        ({"bbox": [1, 2, 3, 4], "image_id": 8}, "annotation of an unknown picture"),
        ({"bbox": [1, 2, 3, 4], "image_id": {}}, "annotation of an unknown picture"),
        ({"bbox": [1, 2, 0, 4]}, "box that encloses nothing"),
        ({"bbox": [1, 2, "3", 4]}, "geometry that cannot be read"),
        ({"bbox": [1, 2, 3]}, "geometry that cannot be read"),
        ({"bbox": None}, "geometry that cannot be read"),
        ({}, "geometry that cannot be read"),
        ({"caption": "a cabinet"}, "caption"),
        ({"bbox": [1, 2, 3, 4], "num_keypoints": 5}, "keypoints"),
        ({"segmentation": [[1, 1, 5, 5, 9, 9]]}, "outline that encloses nothing"),
    ],
)
def test_what_coco_says_and_a_record_cannot(tmp_path, capsys, item, reason) -> None:
    records, report = convert(capsys, coco_file(tmp_path, [{"bbox": [5, 5, 5, 5]}, item]), "coco")
    assert report["lost"] == {reason: 1}
    assert len(records[0]["objects"]) == (2 if reason == "keypoints" else 1)
    assert str(tmp_path) in report["examples"][reason][0]


def test_an_outline_of_several_parts_becomes_its_box(tmp_path, capsys) -> None:
    parts = [[0, 0, 10, 0, 10, 10], [50, 50, 60, 50, 60, 61]]
    records, report = convert(capsys, coco_file(tmp_path, [{"segmentation": parts}]), "coco")
    assert records[0]["objects"] == [{"bbox_2d": [0, 0, 60, 61], "desc": "cabinet"}]
    assert report["changed"] == {"outline of several parts, written as its box": 1}


def test_a_mask_becomes_the_outline_of_its_pixels(tmp_path, capsys) -> None:
    mask = np.zeros((100, 200), dtype=np.uint8)
    mask[20:60, 30:90] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flat, [1 - flat[-1]]))))
    counts = np.diff(np.concatenate(([0], edges))).tolist()
    file = coco_file(tmp_path, [{"bbox": [30, 20, 60, 40], "segmentation": {"counts": counts, "size": [100, 200]}}])
    records, report = convert(capsys, file, "coco")
    points = np.array(records[0]["objects"][0]["poly"]).reshape(-1, 2)
    assert points.min(axis=0).tolist() == [30, 20]
    assert points.max(axis=0).tolist() == [90, 60]
    assert cv2.contourArea(points.astype(np.float32)) == 2400
    assert report["changed"] == {"mask, written as its outer outline": 1}


@pytest.mark.parametrize("counts", [[5], [-5, 20005], [1, 2, 3], "", "~~", "P", None, [1e300], ["x"], [True] * 3, {}])
def test_a_broken_mask_falls_back_to_the_box(tmp_path, capsys, counts) -> None:
    item = {"bbox": [1, 2, 3, 4], "segmentation": {"counts": counts, "size": [100, 200]}}
    records, report = convert(capsys, coco_file(tmp_path, [item]), "coco")
    assert records[0]["objects"] == [{"bbox_2d": [1, 2, 4, 6], "desc": "cabinet"}]
    assert report["changed"] == {"broken mask, written as its box": 1}


def test_lvis_names_its_pictures_by_url(tmp_path, capsys) -> None:
    image = {
        "id": 7,
        "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
        "width": 200,
        "height": 100,
        "neg_category_ids": [5],
    }
    file = coco_file(tmp_path, [{"segmentation": [[1, 1, 50, 1, 50, 50]]}], images=[image])
    records, _ = convert(capsys, file, "lvis")
    assert records[0]["images"] == ["train2017/000000391895.jpg"]
    assert records[0]["metadata"] == {"neg_category_ids": [5]}
    assert "poly" in records[0]["objects"][0]


def test_coco_pictures_without_objects_or_size_are_counted(tmp_path, capsys) -> None:
    images = [
        {"id": 7, "file_name": "a.jpg", "width": 200, "height": 100},
        {"id": 8, "file_name": "b.jpg", "width": 200, "height": 100},
        {"id": 7, "file_name": "c.jpg", "width": 200, "height": 100},
        {"id": 9, "width": 200, "height": 100},
        "no picture",
        {"id": 10, "file_name": "d.jpg", "width": 2.5, "height": -1},
    ]
    boxes = [{"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4], "image_id": 10}]
    records, report = convert(capsys, coco_file(tmp_path, boxes, images=images), "coco")
    assert [record["images"] for record in records] == [["a.jpg"]]
    assert report["lost"] == {
        "picture without objects": 1,
        "picture without an id of its own": 2,
        "picture without a file name": 1,
        "picture whose record breaks the contract (size)": 1,
    }


def test_many_annotations_keep_their_order_and_their_pictures(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(coco, "_BATCH", 7)
    images = [{"id": str(n), "file_name": f"{n}.jpg", "width": 200, "height": 100} for n in range(40)]
    boxes = [{"bbox": [k, n, 10, 10], "image_id": str(n)} for k in range(5) for n in reversed(range(40))]
    records, report = convert(capsys, coco_file(tmp_path, boxes, images=images), "coco")
    assert [record["images"][0] for record in records] == [f"{n}.jpg" for n in range(40)]
    assert all([o["bbox_2d"][:2] for o in r["objects"]] == [[k, n] for k in range(5)] for n, r in enumerate(records))
    assert report["objects"] == 200


@pytest.mark.parametrize("written", [2, 2.0, "2"])
def test_coco_ids_are_one_however_they_are_written(tmp_path, capsys, written) -> None:
    images = [{"id": written, "file_name": "a.jpg", "width": 200, "height": 100}]
    boxes = [{"bbox": [1, 2, 3, 4], "image_id": image} for image in (2, 2.0, "2")]
    records, report = convert(capsys, coco_file(tmp_path, boxes, images=images), "coco")
    assert [len(record["objects"]) for record in records] == [3]
    assert report["lost"] == {}


def test_an_output_that_is_there_is_replaced_only_on_request(tmp_path, capsys) -> None:
    source, output = coco_file(tmp_path, [{"bbox": [1, 2, 3, 4]}]), tmp_path / "out.jsonl"
    output.write_text("mine", encoding="utf-8")
    assert run(source, "--from", "coco", "--output", output) == EXIT_USAGE
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_text(encoding="utf-8") == "mine"
    assert run(source, "--from", "coco", "--output", output, "--overwrite") == EXIT_OK
    assert len(list(read_records(output))) == 1


def test_the_way_back_to_coco_and_again_to_the_contract(tmp_path, capsys) -> None:
    objects = [
        {"bbox_2d": [1, 2, 30, 40], "desc": "BBU设备/品牌:华为"},
        {"quad": [60, 10, 90, 20, 80, 50, 50, 40], "desc": "BBU设备/品牌:中兴"},
        {"poly": [100, 10, 150, 10, 150, 50, 125, 25], "desc": "标签"},
    ]
    line = {"line_points": 2, "line": [0, 0, 50, 50], "desc": "光纤"}
    size = {"width": 200, "height": 100}
    source = saved(
        tmp_path,
        "\n".join(
            json.dumps(row)
            for row in (
                {"schema": 1, "images": ["p/a.jpg"], **size, "objects": [*objects, line], "summary": "BBU设备×2"},
                {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
                {"images": ["b.jpg"], **size, "objects": objects[:1], "metadata": {"site": 3}},
            )
        ),
        "in.jsonl",
    )
    target = tmp_path / "coco.json"
    assert run(source, "--to", "coco", "--output", target, "--json") == EXIT_FINDINGS
    assert json.loads(capsys.readouterr().out)["lost"] == {"line": 1, "chat": 1, "metadata of a record": 1}
    made = json.loads(target.read_text(encoding="utf-8"))
    assert [row["name"] for row in made["categories"]] == ["BBU设备", "标签"]
    assert made["annotations"][0]["bbox"] == [1, 2, 29, 38]
    assert [row["area"] for row in made["annotations"]] == [29 * 38, 1000, 875, 29 * 38]
    assert made["annotations"][1]["segmentation"] == [objects[1]["quad"]]
    records, report = convert(capsys, target, "coco")
    assert report["lost"] == {}
    assert records[0] == {"schema": 1, "images": ["p/a.jpg"], **size, "objects": objects, "summary": "BBU设备×2"}
    assert records[1]["objects"] == objects[:1]


# LabelMe


def test_caption_rows_become_coco_too(tmp_path, capsys) -> None:
    shared = {"image": "a.jpg", "width": 200, "height": 100, "text": "...", "problems": []}
    rows = [
        shared | {"key": "a.jpg", "status": "ok", "objects": [{"bbox_2d": [1, 2, 11, 22], "desc": "标签/4G"}]},
        shared | {"key": "b.jpg", "status": "error:image", "objects": [], "width": 0, "height": 0},
        shared | {"key": "c.jpg", "image": "c.jpg", "status": "invalid", "objects": []},
    ]
    source, target = tmp_path / "captions.jsonl", tmp_path / "coco.json"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(source, "--to", "coco", "--output", target, "--json") == EXIT_FINDINGS
    assert json.loads(capsys.readouterr().out)["lost"] == {"picture without a reply": 1}
    whole = json.loads(target.read_text(encoding="utf-8"))
    assert [image["file_name"] for image in whole["images"]] == ["a.jpg", "c.jpg"]
    assert whole["annotations"][0]["bbox"] == [1, 2, 10, 20] and whole["categories"][0]["name"] == "标签"


def labelme(shape: dict, **change: Any) -> dict:
    return {"shapes": [shape], "imagePath": "a.jpg", "imageWidth": 200, "imageHeight": 100} | change


@pytest.mark.parametrize(
    ("shape", "item"),
    [
        ({"shape_type": "rectangle", "points": [[30, 40], [10, 5.5]]}, {"bbox_2d": [10, 5.5, 30, 40]}),
        ({"shape_type": "rectangle", "points": [[1, 2], [9, 2], [9, 8], [1, 8]]}, {"bbox_2d": [1, 2, 9, 8]}),
        ({"shape_type": "polygon", "points": [[0, 0], [50, 0], [50, 50]]}, {"poly": [0, 0, 50, 0, 50, 50]}),
        ({"points": [[0, 0], [50, 0], [50, 50]]}, {"poly": [0, 0, 50, 0, 50, 50]}),
        (
            {"shape_type": "rotation", "points": [[20, 10], [40, 20], [30, 40], [10, 30]]},
            {"quad": [20, 10, 40, 20, 30, 40, 10, 30]},
        ),
        ({"shape_type": "line", "points": [[0, 0], [50, 20]]}, {"line": [0, 0, 50, 20], "line_points": 2}),
        (
            {"shape_type": "linestrip", "points": [[0, 0], [0, 0], [50, 20], [60, 60]]},
            {"line": [0, 0, 50, 20, 60, 60], "line_points": 3},
        ),
    ],
)
def test_labelme_shapes(tmp_path, capsys, shape, item) -> None:
    records, report = convert(capsys, saved(tmp_path, labelme({"label": "cabinet"} | shape)), "labelme")
    assert records[0]["objects"] == [item | {"desc": "cabinet"}]
    assert (report["lost"], report["changed"]) == ({}, {})


def test_a_labelme_circle_is_a_polygon_within_half_a_pixel(tmp_path, capsys) -> None:
    shape = {"label": "plug", "shape_type": "circle", "points": [[100, 50], [140, 50]], "description": "ok"}
    records, report = convert(capsys, saved(tmp_path, labelme(shape)), "labelme")
    item = records[0]["objects"][0]
    points = np.array(item["poly"]).reshape(-1, 2)
    middles = (points + np.roll(points, 1, axis=0)) / 2
    assert np.abs(np.hypot(*(points - [100, 50]).T) - 40).max() < 0.01
    assert 39.5 <= np.hypot(*(middles - [100, 50]).T).min() < 40
    assert item["desc"] == "plug/ok"
    assert report["changed"] == {"circle, written as a polygon": 1}


def test_labelme_folders_names_and_losses(tmp_path, capsys) -> None:
    box = {"label": "x", "shape_type": "rectangle", "points": [[0, 0], [9, 9]], "flags": {"cut": True, "far": False}}
    saved(tmp_path, labelme(box, imagePath="..\\pics\\a.jpg"), "one/a.json")
    saved(tmp_path, labelme(box | {"shape_type": "point", "points": [[0, 0]]}), "b.json")
    saved(tmp_path, labelme(box | {"label": " "}), "c.json")
    saved(tmp_path, labelme(box | {"group_id": 4}), "d.json")
    saved(tmp_path, "{broken", "e.json")
    saved(tmp_path, "[" * 100_000, "f.json")
    saved(tmp_path, {"other": 1}, "g.json")
    records, report = convert(capsys, tmp_path, "labelme")
    assert [(record["images"], record["objects"][0]["desc"]) for record in records] == [
        (["a.jpg"], "x/cut"),
        (["pics/a.jpg"], "x/cut"),
    ]
    assert report["lost"] == {
        "file that is no LabelMe annotation": 3,
        "picture without objects": 2,
        "shape of the kind 'point'": 1,
        "object without a label": 1,
        "group of shapes": 1,
    }


def test_paths_follow_the_folder_of_pictures(tmp_path, capsys) -> None:
    photo(tmp_path / "pics", "a.jpg")
    box = {"label": "x", "shape_type": "rectangle", "points": [[0, 0], [9, 9]]}
    file = saved(tmp_path, labelme(box, imageWidth=None, imageHeight=None), "labels/a.json")
    records, _ = convert(capsys, file, "labelme", "--images", tmp_path / "pics")
    assert (records[0]["images"], records[0]["width"], records[0]["height"]) == (["../pics/a.jpg"], 200, 100)
    records, report = convert(capsys, saved(tmp_path, labelme(box, imagePath="b.jpg")), "labelme", "--images", tmp_path)
    assert records == []
    assert report["lost"] == {"picture that is not in the folder of pictures": 1}


# Label Studio


def task(*results: dict, image: str = "/data/upload/1/ab12-a.jpg", **change: Any) -> dict:
    size = {"original_width": 200, "original_height": 100, "image_rotation": 0, "from_name": "label"}
    return {"data": {"image": image}, "annotations": [{"result": [size | item for item in results]}]} | change


def test_label_studio_results_without_an_id_belong_to_the_picture(tmp_path, capsys) -> None:
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["cabinet"]}
    results = [
        {"type": "rectanglelabels", "value": box},
        {"type": "choices", "from_name": "state", "value": {"choices": ["ok"]}},
    ]
    records, report = convert(capsys, saved(tmp_path, [task(*results)]), "label-studio")
    assert [item["desc"] for item in records[0]["objects"]] == ["cabinet"]
    assert records[0]["metadata"]["state"] == ["ok"]
    assert report["lost"] == {}


def test_label_studio_percents_become_pixels(tmp_path, capsys) -> None:
    box = {"x": 10, "y": 20, "width": 30, "height": 40}
    results = [
        {"type": "rectanglelabels", "id": "r", "value": box | {"rotation": 0, "rectanglelabels": ["cabinet"]}},
        {"type": "rectanglelabels", "value": box | {"rotation": 90, "rectanglelabels": ["cabinet"]}},
        {"type": "polygonlabels", "value": {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["door"]}},
        {"type": "choices", "id": "r", "from_name": "state", "value": {"choices": ["ok"]}},
        {"type": "textarea", "id": "w", "from_name": "note", "value": {"text": ["dark photo"]}},
        {
            "type": "vectorlabels",
            "value": {"vertices": [{"x": 0, "y": 0}, {"x": 50, "y": 10}], "closed": False, "vectorlabels": ["fibre"]},
        },
    ]
    records, report = convert(capsys, saved(tmp_path, [task(*results)]), "label-studio")
    assert (
        records[0]["objects"]
        == [
            {"bbox_2d": [20, 20, 80, 60], "desc": "cabinet/state:ok"},
            {
                "quad": [20, 20, 20, 80, -20, 80, -20, 20],
                "desc": "cabinet",
            },  # a quarter clockwise about its first corner
            {"poly": [0, 0, 100, 0, 100, 50], "desc": "door"},
            {"line": [0, 0, 100, 10], "line_points": 2, "desc": "fibre"},
        ]
        or records[0]["objects"][1] is None
    )
    assert records[0]["metadata"] == {"note": ["dark photo"]}
    assert report["lost"] == {}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/data/upload/1/ab12-a%20b.jpg", "1/ab12-a b.jpg"),
        ("/data/local-files/?d=site%2Fa.jpg", "site/a.jpg"),
        ("s3://bucket/site/a.jpg", "site/a.jpg"),
        ("https://host/a.jpg", "https://host/a.jpg"),
        ("site/a.jpg", "site/a.jpg"),
    ],
)
def test_label_studio_names(tmp_path, capsys, url, name) -> None:
    box = {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["x"]}
    records, _ = convert(
        capsys, saved(tmp_path, [task({"type": "rectanglelabels", "value": box}, image=url)]), "label-studio"
    )
    assert records[0]["images"] == [name]


def test_label_studio_losses(tmp_path, capsys) -> None:
    box = {"type": "rectanglelabels", "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["x", "y"]}}
    brush = {"type": "brushlabels", "value": {"rle": [1], "brushlabels": ["x"]}}
    other = box | {"original_width": 300}
    sizeless = box | {"original_width": None}
    unlabelled = {"type": "rectangle", "value": {"x": 1, "y": 2, "width": 3, "height": 4}}
    two = task(box)
    two["annotations"] += [{"ground_truth": True, "result": two["annotations"][0]["result"]}, {"was_cancelled": True}]
    tasks = [task(box, brush, other, sizeless, unlabelled), two, task(), {"image": "min.jpg", "label": []}, 5]
    records, report = convert(capsys, saved(tmp_path, tasks), "label-studio")
    assert len(records) == 2
    assert report["lost"] == {
        "further label of a region": 2,
        "result of the kind 'brushlabels'": 1,
        "region of a turned or other picture": 1,
        "region without the picture's size": 1,
        "object without a label": 1,
        "annotation by a further annotator": 1,
        "picture without objects": 1,
        "task that is not of the JSON export (JSON-MIN?)": 2,
    }


# CVAT


def cvat(*shapes: str, extra: str = "") -> str:
    image = f'<image id="0" name="p/a.jpg" width="200" height="100">{"".join(shapes)}</image>'
    return f'<?xml version="1.0"?><annotations><version>1.1</version><meta><task/></meta>{image}{extra}</annotations>'


def test_cvat_shapes(tmp_path, capsys) -> None:
    file = saved(
        tmp_path,
        cvat(
            '<box label="BBU" xtl="10" ytl="20" xbr="50" ybr="40"><attribute name="品牌">华为</attribute></box>',
            '<box label="BBU" xtl="10" ytl="20" xbr="50" ybr="40" rotation="90"/>',
            '<polygon label="door" points="0,0;50.25,0;50,50" occluded="0"/>',
            '<polyline label="fibre" points="0,0;50,10"/>',
            '<mask label="plug" left="0" top="7" width="4" height="3" rle="1,2,2,2,2,2,1"/>',
            '<tag label="dark"/>',
        ),
        "a.xml",
    )
    records, report = convert(capsys, file, "cvat")
    assert records[0]["objects"] == [
        {"bbox_2d": [10, 20, 50, 40], "desc": "BBU/品牌:华为"},
        {"quad": [40, 10, 40, 50, 20, 50, 20, 10], "desc": "BBU"},  # about its middle (30, 30)
        {"poly": [0, 0, 50.25, 0, 50, 50], "desc": "door"},
        {"line": [0, 0, 50, 10], "line_points": 2, "desc": "fibre"},
        records[0]["objects"][4],
    ]
    plug = np.array(records[0]["objects"][4]["poly"], dtype=np.float32).reshape(-1, 2)
    assert sorted(map(tuple, plug.tolist())) == [(1, 7), (1, 10), (3, 7), (3, 10)]
    assert records[0]["metadata"] == {"tags": ["dark"]}
    assert report["changed"] == {"mask, written as its outer outline": 1}


def test_cvat_losses(tmp_path, capsys) -> None:
    file = saved(
        tmp_path,
        cvat(
            '<box label="a" xtl="1" ytl="2" xbr="5" ybr="9" occluded="1"/>',
            '<points label="a" points="1,1"/>',
            '<cuboid label="a"/>',
            '<polygon label="a" points="0,0;50"/>',
            '<box label="a" xtl="1" ytl="x" xbr="5" ybr="9"/>',
            '<mask label="a" left="0" top="7" width="4" height="3" rle="1,x"/>',
            "<thing/>",
            extra='<track id="1"><box/></track>',
        ),
        "a.xml",
    )
    records, report = convert(capsys, file, "cvat")
    assert len(records[0]["objects"]) == 1
    assert report["lost"] == {
        "mark of occlusion": 1,
        "shape of the kind points": 1,
        "shape of the kind cuboid": 1,
        "geometry that cannot be read": 2,
        "broken mask": 1,
        "element that is not known": 1,
        "track of a video": 1,
    }


def test_a_hostile_xml_is_refused(tmp_path, capsys) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>'
    assert run(saved(tmp_path, bomb, "a.xml"), "--from", "cvat", "--output", tmp_path / "out.jsonl") == EXIT_FAILURE
    assert "is not CVAT's XML" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


# YOLO


def yolo(folder: Path, text: str, classes: str = "cabinet\ndoor\n") -> Path:
    photo(folder, "images/train/a.jpg")
    saved(folder, text, "labels/train/a.txt")
    saved(folder, classes, "labels/train/classes.txt")
    return folder / "labels/train"


def test_yolo_boxes_and_outlines(tmp_path, capsys) -> None:
    folder = yolo(tmp_path, "0 0.5 0.5 0.25 0.5\n\n1 0 0 0.5 0 0.5 0.5\n")
    records, report = convert(capsys, folder, "yolo")
    assert records[0]["images"] == ["../../images/train/a.jpg"]
    assert records[0]["objects"] == [
        {"bbox_2d": [75, 25, 125, 75], "desc": "cabinet"},
        {"poly": [0, 0, 100, 0, 100, 50], "desc": "door"},
    ]
    assert report["lost"] == {}


def test_yolo_obb_corners_are_a_quad(tmp_path, capsys) -> None:
    folder = yolo(tmp_path, "1 0.3 0.1 0.45 0.2 0.4 0.5 0.25 0.4\n1 0.5 0.5 0.1 0.1\n")
    saved(tmp_path, "names: {0: cabinet, 1: 门}\n", "data.yaml")
    (folder / "classes.txt").unlink()
    records, report = convert(capsys, folder, "yolo-obb")
    assert records[0]["objects"] == [{"quad": [60, 10, 90, 20, 80, 50, 50, 40], "desc": "门"}]
    assert report["lost"] == {"line with a count of numbers that is none of the format's": 1}


def test_yolo_losses(tmp_path, capsys) -> None:
    folder = yolo(tmp_path, "0 0.5 0.5 0.25 0.5 0.9\n7 0.5 0.5 0.1 0.1\n0 nan 0.5 0.1 0.1\nx 1\n0 1 2 3\n")
    photo(tmp_path, "images/train/empty.png")
    saved(tmp_path, "not a picture", "images/train/bad.jpg")
    saved(tmp_path, "0 0.5 0.5 0.1 0.1", "labels/train/orphan.txt")
    records, report = convert(capsys, folder, "yolo")
    assert len(records) == 1
    assert report["lost"] == {
        "confidence of a detection": 1,
        "label of an unknown class": 2,
        "geometry that cannot be read": 1,
        "line with a count of numbers that is none of the format's": 1,
        "picture that cannot be read": 1,
        "picture without objects": 1,
        "labels without a picture": 1,
    }


def test_yolo_without_names_or_pictures_is_refused(tmp_path, capsys) -> None:
    folder = yolo(tmp_path, "0 0.5 0.5 0.1 0.1")
    (folder / "classes.txt").unlink()
    assert run(folder, "--from", "yolo", "--output", tmp_path / "out.jsonl") == EXIT_USAGE
    assert "--classes" in capsys.readouterr().err
    saved(tmp_path, "names: 5", "data.yaml")
    assert run(folder, "--from", "yolo", "--output", tmp_path / "out.jsonl") == EXIT_USAGE
    assert "has no `names`" in capsys.readouterr().err
    assert run(tmp_path / "none", "--from", "yolo", "--output", tmp_path / "out.jsonl") == EXIT_USAGE
    code = run(folder, "--from", "yolo", "--images", tmp_path / "none", "--output", tmp_path / "out.jsonl")
    assert code == EXIT_USAGE
    assert "--images" in capsys.readouterr().err


# all of them


@pytest.mark.parametrize("source_format", ["coco", "lvis", "label-studio"])
@pytest.mark.parametrize("text", ["{broken", "", '{"images": [1,', "\x00\x01"])
def test_a_damaged_file_leaves_nothing_behind(tmp_path, capsys, source_format, text) -> None:
    file = saved(tmp_path, text)
    code = run(file, "--from", source_format, "--output", tmp_path / "out.jsonl")
    assert code == EXIT_FAILURE
    assert "is not JSON" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{src}", "--output", "{out}"], "--from FORMAT"),
        (["{src}", "--from", "coco", "--to", "coco", "--output", "{out}"], "names one way"),
        (["{src}", "--from", "coco", "--output", "{src}"], "is the source"),
        (["{dir}/none.json", "--from", "coco", "--output", "{out}"], "no such file"),
        (["{dir}", "--from", "coco", "--output", "{out}"], "is a folder"),
        (["{src}", "--from", "coco", "--output", "{dir}/no/out.jsonl"], "no such folder"),
        (["{src}", "--from", "coco", "--images", "{dir}/no", "--output", "{out}"], "no such folder"),
        (["{src}", "--from", "coco", "--classes", "{src}", "--output", "{out}"], "carries its own names"),
    ],
)
def test_wrong_usage_says_what_to_do(tmp_path, capsys, arguments, says) -> None:
    places = {"src": coco_file(tmp_path, []), "dir": tmp_path, "out": tmp_path / "out.jsonl"}
    assert run(*(argument.format(**places) for argument in arguments)) == EXIT_USAGE
    assert says in capsys.readouterr().err


def test_the_report_as_text_names_places(tmp_path, capsys) -> None:
    file = coco_file(tmp_path, [{"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 0, 4]}])
    assert run(file, "--from", "coco", "--output", tmp_path / "out.jsonl") == EXIT_FINDINGS
    text = capsys.readouterr().out
    assert "Not kept:" in text
    assert "annotations[1]: [1, 2, 1, 6]" in text
    assert "1 pictures -> 1 records, 1 objects" in text


# outlines


def many_pictures(folder: Path, source_format: str, count: int) -> Path:
    """A file of `count` pictures with one outline each, about 3 kB a picture."""
    outline = [ellipse(500, 500, 100 + number, 400) for number in range(count)]
    names = [f"{number}.jpg" for number in range(count)]
    if source_format == "cvat":
        points = (";".join(f"{x},{y}" for x, y in np.reshape(o, (-1, 2))) for o in outline)
        images = (
            f'<image name="{name}" width="1000" height="1000"><polygon label="a" points="{told}"/></image>'
            for name, told in zip(names, points, strict=True)
        )
        return saved(folder, f"<annotations>{''.join(images)}</annotations>", f"{count}.xml")
    if source_format == "coco":
        whole = {
            "images": [{"id": n, "file_name": name, "width": 1000, "height": 1000} for n, name in enumerate(names)],
            "annotations": [{"image_id": n, "category_id": 1, "segmentation": [o]} for n, o in enumerate(outline)],
            "categories": [{"id": 1, "name": "a"}],
        }
        return saved(folder, whole, f"{count}.json")
    if source_format == "label-studio":
        value = {"polygonlabels": ["a"]}
        size = {"original_width": 1000, "original_height": 1000}
        results = [
            {"type": "polygonlabels", "value": value | {"points": (np.reshape(o, (-1, 2)) / 10).tolist()}, **size}
            for o in outline
        ]
        return saved(
            folder, [task(result, image=name) for result, name in zip(results, names, strict=True)], f"{count}.json"
        )
    rows = [
        {"images": [name], "width": 1000, "height": 1000, "objects": [{"poly": o, "desc": "a"}]}
        for name, o in zip(names, outline, strict=True)
    ]
    return saved(folder, "".join(json.dumps(row) + "\n" for row in rows), f"{count}.jsonl")


@pytest.mark.parametrize("source_format", ["coco", "label-studio", "cvat", None])
def test_memory_does_not_grow_with_the_file(tmp_path, capsys, monkeypatch, source_format) -> None:
    """Held as Python's numbers, the larger file would cost ten times its bytes more; None: the contract to COCO."""
    monkeypatch.setattr(coco, "_BATCH", 10)
    target = "coco" if source_format is None else "plumbline"
    sizes, peaks = [], []
    for count in (5, 60, 180):  # the first pays for the imports
        source = many_pictures(tmp_path, source_format, count)
        if sizes:
            tracemalloc.start()
        code = verbs.convert(
            source, source_format, target, tmp_path / "out", verbs.ConvertOptions(overwrite=True), as_json=True
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(source.stat().st_size)
        assert code == EXIT_OK and json.loads(capsys.readouterr().out)["objects"] == count
    assert peaks[2] - peaks[1] < (sizes[2] - sizes[1]) / 5


def test_turned_boxes_by_hand() -> None:
    assert turned_box(0, 0, 4, 2, 90, about=(0, 0)) == pytest.approx([0, 0, 0, 4, -2, 4, -2, 0])


def test_an_ellipse_is_turned_clockwise_on_screen() -> None:
    points = np.array(ellipse(50, 50, 20, 5, degrees=90)).reshape(-1, 2)
    assert points[0].tolist() == pytest.approx([50, 70])
    assert np.isnan(ellipse(0, 0, -1, 5)).all()


@pytest.mark.parametrize("by_columns", [True, False])
def test_outlines_of_random_masks_have_the_masks_area(by_columns) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        mask = np.zeros((40, 50), dtype=np.uint8)
        hull = cv2.convexHull(rng.integers(3, 37, (6, 2)).astype(np.int32))
        cv2.fillPoly(mask, [hull], 1)
        flat = mask.ravel(order="F" if by_columns else "C")
        counts = np.diff(np.concatenate(([0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]))).tolist()
        outlines = mask_outlines(counts, 50, 40, by_columns)
        assert outlines is not None
        assert len(outlines) == 1
        points = np.array(outlines[0], dtype=np.float32).reshape(-1, 2)
        assert cv2.contourArea(points) == pytest.approx(mask.sum(), rel=0.15, abs=6)


def test_compressed_counts_are_read() -> None:
    # As pycocotools 2.0 writes a mask of 10 x 9: two lone pixels and a box of 4 x 5.
    assert coco_counts("01V10lN340000000N") == [0, 1, 38, 1, 2, 4, 6, 4, 6, 4, 6, 4, 6, 4, 4]
    with pytest.raises(ValueError, match="cut off"):
        coco_counts("P")
