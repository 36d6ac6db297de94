"""Layouts of YOLO and CVAT as people have them, and every reader on damaged input: no traceback."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from plumbline.errors import UserError


def picture(path: Path, size: tuple[int, int] = (100, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def labels(path: Path, text: str = "0 .5 .5 .2 .2\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def converted(tmp_path: Path, plumbline):
    """Converts and gives (exit code, records, report)."""

    def run(source: Path, source_format: str, *more: object) -> tuple[int, list[dict], dict]:
        output = tmp_path / "out.jsonl"
        command = ("data", "convert", source, "--from", source_format, "--output", output, "--overwrite", "--json")
        code, out, error = plumbline(*command, *more)
        assert out, error
        return code, [json.loads(line) for line in output.read_text().splitlines()], json.loads(out)

    return run


# ----------------------------------------------------------------------------------------------------------------- YOLO
@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "yolo"
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        picture(root / "images" / split / f"{name}.png")
        labels(root / "labels" / split / f"{name}.txt")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: 光纤}\n", "utf-8")
    return root


def test_the_splits_of_data_yaml_are_read(tree: Path, converted) -> None:
    code, rows, report = converted(tree / "data.yaml", "yolo")
    assert (code, report["lost"]) == (0, {})
    assert [(row["images"], row["metadata"]["split"]) for row in rows] == [
        (["yolo/images/train/a.png"], "train"),
        (["yolo/images/train/b.png"], "train"),
        (["yolo/images/val/c.png"], "val"),
    ]
    assert rows[0]["objects"] == [{"bbox_2d": [40, 20, 60, 30], "desc": "光纤"}]


@pytest.mark.parametrize("names", ["[光纤]", "{'0': 光纤}", "{0: 光纤}"])
def test_names_as_a_list_or_a_mapping(tree: Path, converted, names: str) -> None:
    (tree / "data.yaml").write_text(f"train: [images/train, images/val]\nnames: {names}\n", "utf-8")
    code, rows, _ = converted(tree / "data.yaml", "yolo")
    assert code == 0 and [row["objects"][0]["desc"] for row in rows] == ["光纤"] * 3


def test_a_path_that_is_elsewhere_falls_back_to_the_file_s_folder(tree: Path, converted) -> None:
    text = (tree / "data.yaml").read_text("utf-8")
    (tree / "data.yaml").write_text(text.replace("path: .", "path: /content/datasets/x"), "utf-8")
    assert len(converted(tree / "data.yaml", "yolo")[1]) == 3


def test_a_split_may_be_a_list_of_pictures(tree: Path, converted) -> None:
    (tree / "list.txt").write_text("images/train/a.png\n./images/val/c.png\n")
    (tree / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: [x]\n")
    code, rows, report = converted(tree / "data.yaml", "yolo")
    assert [row["images"][0][-5:] for row in rows] == ["a.png", "c.png"]
    assert code == 3 and report["lost"] == {"picture in several splits": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [x]\n", "names none of train, val, test"),
        ("train: images/none\nnames: [x]\n", "is not there"),
        ("train: images/train\n", "has no `names`"),
        ("- 1\n", "has no `names`"),
        ("train: [\n", "cannot be read"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_is_refused(tree: Path, plumbline, text: str, said: str) -> None:
    (tree / "data.yaml").write_text(text)
    code, _, error = plumbline("data", "convert", tree / "data.yaml", "--from", "yolo", "--output", tree / "out.jsonl")
    assert code == 2 and said in error


@pytest.mark.parametrize("images", ["images/train", "images", None])
def test_labels_are_found_by_the_convention(tree: Path, converted, images: str | None) -> None:
    code, rows, report = converted(tree, "yolo", *(() if images is None else ("--images", tree / images)))
    assert (code, report["lost"]) == (0, {})
    assert len(rows) == (2 if images == "images/train" else 3) and all(row["objects"] for row in rows)


def test_labels_without_a_picture_are_still_counted(tree: Path, converted) -> None:
    labels(tree / "labels" / "train" / "lone.txt")
    assert converted(tree, "yolo")[2]["lost"] == {"labels without a picture": 1}


def test_labels_in_another_encoding_are_named(tree: Path, converted) -> None:
    (tree / "labels" / "train" / "a.txt").write_text("0 .5 .5 .2 .2\n", encoding="utf-16")
    _, _, report = converted(tree, "yolo")
    assert "UTF-16" in report["examples"]["labels that cannot be read"][0]


# ----------------------------------------------------------------------------------------------------------------- CVAT
TRACKS = """<annotations><meta/>
<track id="0" label="车"><box frame="0" outside="0" occluded="0" xtl="1" ytl="2" xbr="30" ybr="40"/>
<box frame="1" outside="1" occluded="0" xtl="1" ytl="2" xbr="30" ybr="40"/></track>
<track id="1" label="线">
<polyline frame="1" outside="0" points="0,0;20,20"><attribute name="色">红</attribute></polyline>
<polyline frame="7" outside="0" points="0,0;20,20"/></track></annotations>"""


def test_tracks_are_read_where_their_frames_are(tmp_path: Path, converted) -> None:
    for number in range(3):
        picture(tmp_path / "frames" / f"frame_{number:06d}.PNG")
    (tmp_path / "a.xml").write_text(TRACKS, "utf-8")
    code, rows, report = converted(tmp_path / "a.xml", "cvat", "--images", tmp_path / "frames", "--keep-empty")
    assert [row["images"][0] for row in rows] == [f"frames/frame_{number:06d}.PNG" for number in range(3)]
    assert rows[0]["objects"] == [{"bbox_2d": [1, 2, 30, 40], "desc": "车"}]
    assert [item["desc"] for item in rows[1]["objects"]] == ["线/色:红"]
    assert rows[2]["objects"] == []
    assert code == 3 and report["lost"] == {"shape of a frame without a picture": 1}


def test_without_frames_a_track_is_lost(tmp_path: Path, converted) -> None:
    (tmp_path / "a.xml").write_text(TRACKS, "utf-8")
    code, rows, report = converted(tmp_path / "a.xml", "cvat")
    assert (code, rows, report["lost"]) == (3, [], {"track of a video": 2})
    assert "--images" in report["examples"]["track of a video"][0]


# ----------------------------------------------------------------------------------------------------------------- fuzz
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 50}],
    "categories": [{"id": 1, "name": "x"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 0, "attributes": {"desc": "y"}},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 8, 8]},
        {
            "id": 3,
            "image_id": 1,
            "category_id": 1,
            "segmentation": {"counts": [0, 4], "size": [2, 2]},
            "keypoints": [1],
        },
    ],
}
LABELME = {
    "imagePath": "a.png",
    "imageWidth": 100,
    "imageHeight": 50,
    "flags": {"night": True},
    "shapes": [
        {"label": "x", "shape_type": "rectangle", "points": [[1, 1], [9, 9]], "flags": {"new": True}, "group_id": 1},
        {"label": "y", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 9]], "description": "d"},
        {"label": "z", "shape_type": "circle", "points": [[20, 20], [25, 20]]},
    ],
}
LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"image": "/data/upload/a.png"},
        "annotations": [
            {
                "id": 5,
                "ground_truth": True,
                "was_cancelled": False,
                "result": [
                    {
                        "id": "r1",
                        "type": "rectanglelabels",
                        "from_name": "label",
                        "to_name": "image",
                        "original_width": 100,
                        "original_height": 50,
                        "image_rotation": 0,
                        "value": {"x": 1, "y": 2, "width": 30, "height": 40, "rotation": 15, "rectanglelabels": ["x"]},
                    },
                    {
                        "id": "r2",
                        "type": "polygonlabels",
                        "original_width": 100,
                        "original_height": 50,
                        "value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["y"]},
                    },
                    {"id": "r1", "type": "choices", "from_name": "state", "value": {"choices": ["ok"]}},
                    {"id": "r2", "type": "textarea", "from_name": "note", "value": {"text": ["t"]}},
                    {"type": "choices", "from_name": "state", "value": {"choices": ["ok"]}},
                ],
            }
        ],
    }
]
CVAT = """<annotations><image id="0" name="a.png" width="100" height="50">
<box label="x" xtl="1" ytl="1" xbr="9" ybr="9" rotation="20" occluded="1"><attribute name="a">b</attribute></box>
<polygon label="y" points="1,1;9,1;9,9"/><ellipse label="z" cx="20" cy="20" rx="5" ry="4"/>
<mask label="m" left="1" top="1" width="4" height="4" rle="0,16"/><tag label="t"/></image>
<track id="0" label="v"><box frame="0" outside="0" xtl="1" ytl="2" xbr="30" ybr="40"/></track></annotations>"""
WRONG: tuple[Any, ...] = (None, True, 0, -1, 1e400, 10**400, "", "\ud800", "x", [], {}, [[]], [None], {"a": 1}, [{}])


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from spots(inner)


def damaged(value: Any) -> Iterator[Any]:
    """The value with each spot dropped, and replaced by each wrong value."""
    for number in range(sum(1 for _ in spots(value))):
        for wrong in ("drop", *WRONG):
            fresh = copy.deepcopy(value)
            container, key = list(spots(fresh))[number]
            if wrong == "drop" and isinstance(wrong, str):
                del container[key]
            else:
                container[key] = copy.deepcopy(wrong)
            yield fresh


@pytest.fixture
def survives(tmp_path: Path):
    """Converts a source: a report or a UserError, whatever it holds."""
    from plumbline.data.convert.picture import ConversionReport
    from plumbline.data.convert.verbs import ConvertOptions, _lines, _open

    def run(source: Path, source_format: str, images: Path | None = None) -> None:
        options, report = ConvertOptions(images=images, keep_empty=True), ConversionReport()
        try:
            pictures, folder = _open(source, source_format, options, report)
            for line in _lines(pictures, folder, tmp_path / "out.jsonl", options, report):
                json.loads(line)
        except UserError:
            pass

    return run


@pytest.mark.parametrize(
    ("source_format", "content"), [("coco", COCO), ("lvis", COCO), ("labelme", LABELME), ("label-studio", LABEL_STUDIO)]
)
def test_no_json_reader_ends_in_a_traceback(tmp_path: Path, survives, source_format: str, content: Any) -> None:
    source = tmp_path / "a.json"
    for found in damaged(content):
        source.write_text(json.dumps(found))
        survives(source, source_format)


def test_the_cvat_reader_never_ends_in_a_traceback(tmp_path: Path, survives) -> None:
    source = tmp_path / "a.xml"
    picture(tmp_path / "frames" / "frame_000000.png")
    picture(tmp_path / "frames" / "a.png")
    whole = ElementTree.fromstring(CVAT)
    count = sum(1 for _ in whole.iter())
    for number in range(count):
        for name in list(list(whole.iter())[number].attrib):
            for wrong in (None, "", "x", "-1", "nan", "1e400", "9" * 400, "1,2;3", ";;"):
                fresh = copy.deepcopy(whole)
                element = list(fresh.iter())[number]
                if wrong is None:
                    del element.attrib[name]
                else:
                    element.set(name, wrong)
                source.write_bytes(ElementTree.tostring(fresh))
                survives(source, "cvat", tmp_path / "frames")


def test_the_yolo_reader_never_ends_in_a_traceback(tree: Path, survives) -> None:
    rng = random.Random(0)
    tokens = ["0", "1", ".5", "-1", "nan", "inf", "1e400", "x", "\x00", "9" * 400, "\n", " "]
    for _ in range(300):
        text = " ".join(rng.choices(tokens, k=rng.randrange(12)))
        (tree / "labels" / "train" / "a.txt").write_text(text)
        survives(tree, "yolo")
        survives(tree, "yolo-obb")
    settings = {"path": ".", "train": "images/train", "names": ["x"]}
    for found in damaged(settings):
        (tree / "data.yaml").write_text(json.dumps(found, ensure_ascii=True))
        survives(tree / "data.yaml", "yolo")


def test_a_file_in_a_chinese_encoding_is_named(tmp_path: Path, plumbline) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        json.dumps({"images": ["a.png"], "summary": "光纤有保护"}, ensure_ascii=False).encode("gbk") + b"\n"
    )
    code, out, _ = plumbline("data", "check", path)
    assert code == 3 and "GB18030" in out and "iconv -f GB18030 -t UTF-8" in out
