import numpy as np
import pytest

from plumbline.demo.paint import PAINTERS
from plumbline.demo.scenes import cable_width, outline, plan_scene, render_scene, scene_record, summarise

MANY = range(300)


def test_the_same_key_gives_the_same_scene_and_another_key_another():
    first, again, other = plan_scene(3, 5), plan_scene(3, 5), plan_scene(3, 6)
    assert first == again
    assert np.array_equal(render_scene(first), render_scene(again))
    assert first != other


def test_every_point_lies_in_the_picture():
    for index in MANY:
        scene = plan_scene(0, index)
        for part in scene.parts:
            x1, y1, x2, y2 = part.shape.bounds()
            assert min(x1, y1) >= 0 and x2 <= scene.width and y2 <= scene.height


def test_all_geometries_and_every_description_occur():
    parts = [part for index in MANY for part in plan_scene(0, index).parts]
    assert {part.shape.kind for part in parts} == {"bbox_2d", "quad", "poly", "line"}
    assert {part.desc for part in parts} == set(PAINTERS)


def test_slanted_devices_are_quads_and_upright_ones_boxes():
    for index in MANY:
        scene = plan_scene(0, index)
        assert scene.parts[0].shape.kind == ("quad" if scene.slant else "bbox_2d")


def test_a_positive_slant_lifts_the_right_side():
    scenes = [scene for scene in (plan_scene(0, index) for index in MANY) if scene.slant]
    assert {scene.slant > 0 for scene in scenes} == {True, False}
    for scene in scenes:
        left, right = scene.parts[0].shape.points[:2]
        lift = (left[1] - right[1]) / scene.height * scene.width / (right[0] - left[0])
        assert lift == pytest.approx(scene.slant, abs=0.001)


@pytest.mark.parametrize("index", range(10))
def test_a_part_is_painted_where_its_label_says(index):
    """Take one part away: exactly the pixels of its geometry change, up to the edge's smoothing."""
    scene = plan_scene(1, index)
    whole = render_scene(scene).astype(int)
    for part in scene.parts:
        without = render_scene(scene, [other for other in scene.parts if other is not part]).astype(int)
        rows, columns = np.nonzero(np.abs(whole - without).max(axis=2) > 8)
        x1, y1, x2, y2 = part.shape.bounds()
        reach = cable_width(scene) / 2 if part.shape.kind == "line" else 0.0
        slack = reach + 1.0
        assert x1 - slack <= columns.min() + 0.5 and columns.max() + 0.5 <= x2 + slack
        assert y1 - slack <= rows.min() + 0.5 and rows.max() + 0.5 <= y2 + slack
        if part.shape.kind != "line":  # other parts may cover a cable's end, never a plate's edges
            assert columns.min() + 0.5 - x1 <= 1.6 and x2 - columns.max() - 0.5 <= 1.6


def test_a_box_is_painted_by_its_four_corners():
    scene = next(scene for scene in (plan_scene(0, index) for index in MANY) if not scene.slant)
    box = scene.parts[0].shape
    x1, y1, x2, y2 = box.bounds()
    assert outline(box).tolist() == [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def test_summary_counts_descriptions_as_they_first_appear():
    assert summarise(["BBU设备/品牌:华为", "标签/无法识别", "标签/文字:BBU-1"]) == "BBU设备×1，标签×2"
    assert summarise(["猫/部位:眼睛", "猫"]) == "猫×2"
    scene = plan_scene(0, 4)
    record = scene_record(scene, "scenes/a.png")
    assert record.summary == "BBU设备/品牌:中兴×1，光纤/无保护措施×1，电线/捆扎整齐×1", "whole: it decides verdicts"
    assert (record.images, record.width, record.height) == (("scenes/a.png",), scene.width, scene.height)
    assert record.objects == scene.parts
