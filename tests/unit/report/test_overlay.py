from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from plumbline.data.record import DataObject
from plumbline.geometry import Box, Polygon, Polyline, Quad
from plumbline.report import overlay
from plumbline.report.overlay import class_colour, class_name, draw_objects, drawable

GREY = (128, 128, 128)
SHAPES = [
    Box([[40, 60], [200, 150]]),
    Quad([[60, 60], [220, 90], [200, 180], [40, 150]]),
    Polygon([[100, 40], [200, 90], [150, 190], [60, 160], [120, 110]]),
    Polyline([[30, 200], [120, 120], [260, 150]]),
]


def picture(width=320, height=240):
    return Image.new("RGB", (width, height), GREY)


def changed(before, after):
    return np.abs(np.asarray(before, int) - np.asarray(after, int)).max(axis=2) > 6


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_outline_is_drawn_in_the_class_colour_where_the_points_say(shape, scale):
    drawn = np.asarray(draw_objects(picture(), [DataObject("光纤", shape)], scale=scale, labels=False), int)
    assert drawn.shape[:2] == (round(240 * scale), round(320 * scale))
    points = np.vstack([shape.points, shape.points[:1]]) if shape.kind in {"quad", "poly"} else shape.points
    if shape.kind == "bbox_2d":
        points = np.array([[40, 60], [200, 60], [200, 150], [40, 150], [40, 60]])
    for start, end in pairwise(points):
        for share in (0.35, 0.5, 0.65):  # away from the tag at a corner
            x, y = (start + share * (end - start)) * scale
            near = drawn[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].reshape(-1, 3)
            assert np.abs(near - class_colour("光纤")).max(axis=1).min() < 40


def test_the_input_is_left_as_it_is_and_nothing_is_drawn_without_objects():
    image = picture()
    draw_objects(image, [DataObject("标签", SHAPES[0])])
    assert not changed(image, picture()).any()
    assert not changed(draw_objects(image, []), image).any()


def test_labels_are_legible_chinese_not_replacement_marks():
    assert overlay._draws_chinese()
    box = [DataObject(desc, SHAPES[0]) for desc in ("光纤", "??", "纤光")]
    first, marks, swapped = (np.asarray(draw_objects(picture(), [item]), int) for item in box)
    assert changed(first, marks).any() and changed(first, swapped).any()


def test_without_the_font_the_numbers_stay(monkeypatch):
    monkeypatch.setattr(overlay, "_draws_chinese", lambda: False)
    with_label = draw_objects(picture(), [DataObject("光纤", SHAPES[0])])
    number_only = draw_objects(picture(), [DataObject("光纤", SHAPES[0])], labels=False)
    assert not changed(with_label, number_only).any()


def test_tags_avoid_each_other():
    areas: list[overlay._Area] = []
    for _ in range(6):
        areas.append(overlay._place(SHAPES[0], 1.0, 70, 18, (240, 320, 3), areas))
    assert sum(a.overlap(b) for i, a in enumerate(areas) for b in areas[:i]) == 0
    assert all(min(a.left, a.top) >= 0 and a.right <= 320 and a.bottom <= 240 for a in areas)


@pytest.mark.parametrize(
    "desc",
    [
        "",
        " ",
        "\x00\n\t",
        "a" * 10_000,
        "\ud800 lone",
        "עברית עם 光纤",
        "<script>alert(1)</script>",
        "😀" * 40,
        "％s %n",
    ],
)
def test_hostile_labels_are_only_text(desc):
    drawn = draw_objects(picture(), [DataObject(desc, SHAPES[0])])
    assert changed(drawn, picture()).any()
    assert "\n" not in drawable(desc) and len(drawable(desc)) <= 28


@pytest.mark.parametrize("far", [1e7, -1e15, 1e300])
def test_coordinates_far_outside_do_not_disturb(far):
    shapes = [Box([[-far, -far], [far, far]]), Polyline([[10, 10], [far, 20]]), Polygon([[0, 0], [far, 0], [0, far]])]
    drawn = draw_objects(picture(), [DataObject("标签", shape) for shape in shapes])
    assert drawn.size == (320, 240)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_pictures_smaller_than_a_tag(size):
    drawn = draw_objects(picture(*size), [DataObject("标签/文字:BBU-1", Box([[0, 0], size]))])
    assert drawn.size == size


def test_grey_and_transparent_pictures_are_accepted():
    for mode in ("L", "P", "RGBA", "1"):
        assert draw_objects(Image.new(mode, (60, 50)), [DataObject("a", Box([[5, 5], [40, 40]]))]).mode == "RGB"


def test_colour_depends_on_the_class_alone():
    assert class_name("BBU设备/品牌:华为") == class_name("类别=BBU设备,品牌=华为") == class_name("BBU设备") == "BBU设备"
    assert class_name("/a") == "/a"
    assert class_colour("BBU设备/品牌:华为") == class_colour("BBU设备/品牌:中兴")
    assert len({class_colour(name) for name in ("BBU设备", "挡风板", "螺丝", "标签", "光纤", "电线")}) == 6
