import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from plumbline.errors import DamagedFileError
from plumbline.report.charts import ChartLine, curve_picture, curve_svg, lay_out, nice_ticks
from plumbline.report.html import data_url, number, render_page, write_page
from plumbline.report.log import Curve, read_log
from plumbline.report.run import write_run_report
from plumbline.storage.text import duration

PAYLOADS = [
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</pre></details><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "--><iframe src=javascript:alert(1)>",
    "{{ 7*7 }}{% include '/etc/passwd' %}",
    "]]><script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "光纤\u202e\x00\ud800",
]


class Tags(HTMLParser):
    """Every tag with its attributes, in order."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))


def line(step, total=4, **values):
    return json.dumps({**values, "global_step/max_steps": f"{step}/{total}"}) + "\n"


def run_folder(folder: Path, text="x", name="train/loss"):
    folder.mkdir(exist_ok=True)
    rows = [line(step, **{name: 5.0 / step, "train/loss": 5.0 / step, "learning_rate": 1e-3}) for step in (1, 2, 3, 4)]
    rows.append(line(4, **{"eval/loss": 1.5, "eval/token_acc": 0.5}))
    (folder / "logging.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "versions.json").write_text(json.dumps({text: text}), encoding="utf-8")
    (folder / "resolved.yaml").write_text(text, encoding="utf-8", errors="replace")
    manifest = {"files": [{"file": text, "records": 3, "images": {text: {}}, "sha256": "00"}]}
    (folder / "data_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "checkpoint-4").mkdir(exist_ok=True)
    return folder


# ------------------------------------------------------------------------------------------------------------------ log
def test_log_is_read_as_curves(tmp_path):
    log = read_log(run_folder(tmp_path / "run") / "logging.jsonl")
    assert log.curves["train/loss"] == Curve("train/loss", (1, 2, 3, 4), (5.0, 2.5, 5.0 / 3, 1.25))
    assert log.metric_names() == ["eval/loss", "eval/token_acc", "train/loss"]
    assert (log.steps, log.planned_steps, log.unreadable) == (4, 4, ())


def test_a_step_logged_twice_counts_once_and_the_later_wins(tmp_path):
    path = tmp_path / "logging.jsonl"
    path.write_text(line(1, a=1) + line(2, a=9) + line(2, a=2) + line(3, a=3), encoding="utf-8")
    assert read_log(path).values("a") == (1.0, 2.0, 3.0)


def test_torn_end_is_forgiven_and_other_damage_is_named(tmp_path):
    path = tmp_path / "logging.jsonl"
    path.write_text(line(1, a=1) + "garbage\n" + "[1]\n" + line(2, a=2) + '{"a": 3, "glo', encoding="utf-8")
    log = read_log(path)
    assert log.unreadable == (2, 3)
    assert log.values("a") == (1.0, 2.0)


def test_values_that_are_not_finite_stay_in_the_curve_and_out_of_the_numbers(tmp_path):
    path = tmp_path / "logging.jsonl"
    path.write_text(line(1, a=1.0) + line(2, a=math.nan) + line(3, a=math.inf) + line(4, a=True), encoding="utf-8")
    log = read_log(path)
    assert len(log.curves["a"].values) == 3
    assert log.values("a") == (1.0,)


def test_a_missing_log_is_one_clean_message(tmp_path):
    with pytest.raises(DamagedFileError, match="cannot be read"):
        write_run_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- charts
def curve(values):
    return Curve("loss", tuple(range(1, len(values) + 1)), tuple(values))


def test_chart_is_the_same_twice_and_well_formed():
    import xml.etree.ElementTree as ElementTree

    lines = [ChartLine("train", curve([5, 4, 3, 2] * 5)), ChartLine("eval", curve([4, 3]), "#ff0000", "points")]
    svg = str(curve_svg(lines))
    assert svg == str(curve_svg(lines))
    texts = {element.text for element in ElementTree.fromstring(svg).iter()}
    assert {"train", "eval", "step", "5", "step 2: 3"} <= texts


@pytest.mark.parametrize("values", [[], [1.0], [math.nan] * 20, [math.inf, 1, 2], [1e300, 1, 2], [3.0] * 30])
def test_chart_of_strange_values(values):
    chart = lay_out([ChartLine("a", curve(values))], 400, 200)
    for x, y in (point for stroke in chart.strokes for point in stroke.points):
        assert chart.left <= x <= chart.right and chart.top <= y <= chart.bottom
    assert "nan" not in str(curve_svg([ChartLine("a", curve(values))]))
    assert curve_picture([ChartLine("a", curve(values))], 120, 90).size == (120, 90)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.013, 11.7), (-3, 4), (5, 5), (0, 0), (1e-9, 2e-9), (-1e11, 1e11)])
def test_ticks_are_round_and_enclose_the_values(low, high):
    ticks = nice_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low and high <= ticks[-1]
    assert ticks == sorted(set(ticks))


def test_a_gap_stays_a_gap_and_the_mean_does_not_move_a_level_line():
    values = [2.0] * 10 + [math.nan] + [2.0] * 10
    strokes = lay_out([ChartLine("a", curve(values))], 400, 200).strokes
    assert [len(stroke.points) for stroke in strokes] == [10, 10, 10, 10]
    assert len({y for stroke in strokes for _, y in stroke.points}) == 1


def test_chart_as_picture():
    chart = lay_out([ChartLine("train", curve([3, 2, 1]), "#ff0000")], 400, 200)
    picture = curve_picture([ChartLine("train", curve([3, 2, 1]), "#ff0000")], 400, 200)
    assert picture.size == (400, 200) and picture.getpixel((0, 0)) == (255, 255, 255)
    x, y = chart.strokes[0].points[1]
    red, green, blue = picture.getpixel((int(x), int(y)))
    assert red > 240 and green < 90 and blue < 90


# ----------------------------------------------------------------------------------------------------------------- page
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_from_outside_becomes_markup(tmp_path, payload):
    """File names, metric names and documents are hostile: the page has the same tags as with a harmless word."""
    plain = write_run_report(run_folder(tmp_path / "plain", "word", "train/word")).read_text(encoding="utf-8")
    hostile = write_run_report(run_folder(tmp_path / "hostile", payload, f"train/{payload}")).read_text(
        encoding="utf-8"
    )
    assert Tags(hostile).found == Tags(plain).found
    assert not any(name.startswith("on") for _, names in Tags(hostile).found for name in names)
    assert "script" not in {tag for tag, _ in Tags(hostile).found}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_chart_labels_cannot_reach_the_markup(payload):
    plain, hostile = (
        str(curve_svg([ChartLine(text, curve([1, 2])), ChartLine("b", curve([2]))])) for text in ("word", payload)
    )
    assert [tag for tag, _ in Tags(hostile).found] == [tag for tag, _ in Tags(plain).found]


def test_the_page_is_self_contained_and_forbids_scripts(tmp_path):
    html = write_run_report(run_folder(tmp_path / "run")).read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    links = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'>\s]+)", html)
    assert all(link.startswith(("data:", "#")) for link in links)


def test_the_page_shows_what_the_run_left_and_names_what_is_missing(tmp_path):
    folder = run_folder(tmp_path / "run", "marker-text")
    (folder / "resolved.yaml").unlink()
    html = write_run_report(folder).read_text(encoding="utf-8")
    assert "5 → 1.25" in html and "checkpoint-4" in html and "not complete" in html
    assert "records 3, pictures 1" in html
    assert "resolved.yaml is not in the run folder" in html


def test_missing_template_values_are_errors_not_blanks():
    with pytest.raises(Exception, match="undefined"):
        render_page("run.html", {})


def test_a_page_is_replaced_whole_and_survives_lone_surrogates(tmp_path):
    write_page(tmp_path / "a.html", "old")
    write_page(tmp_path / "a.html", "光纤 \ud800")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "光纤 ?"
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_pictures_travel_inside_the_page():
    assert data_url(Image.new("RGBA", (4, 4))).startswith("data:image/jpeg;base64,/9j/")


def test_numbers_for_people():
    assert [duration(seconds) for seconds in (0.44, 47.6, 185, 7800)] == ["0.4 s", "48 s", "3 min 05 s", "2 h 10 min"]
    assert [number(value) for value in (None, 0.0, 1234567, 0.25, 1.2e-7, 123456.0)] == [
        "–", "0", "1,234,567", "0.25", "1.200e-07", "1.235e+05",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.00972, 0.01), ("0.0097", "0.01")),
        ((2.5e-5, 9e-5), ("2e-05", "0.0001")),
        ((0.0, 3.0), ("0", "3")),
        ((17.6, 18.2), ("17.6", "18.2")),
        ((1.2e7, 1.3e7), ("1.2e+07", "1.3e+07")),
    ],
)
def test_labels_of_small_numbers_are_whole(values, texts):
    chart = lay_out([ChartLine("drift", Curve("drift", (1, 2), values))], 640, 290)
    labels = [tick.text for tick in chart.y_ticks]
    assert set(texts) <= set(labels)
    assert all(chart.left - 9 - 7.4 * len(text) >= 0 for text in labels), "nothing is cut at the left edge"
    assert len(set(labels)) == len(labels)
