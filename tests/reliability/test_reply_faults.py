"""Servers, replies and pictures that go wrong: each costs itself, with a status and a reason on its row."""

import io
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.data.prompts import default_prompts
from plumbline.infer.captions import caption_row
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Reply, Request
from plumbline.infer.replay import ReplayEngine
from plumbline.infer.runner import RunOptions, RunReport, run_work
from plumbline.infer.served import OpenAIEngine
from plumbline.infer.verbs import print_report
from plumbline.model.checkpoints import Card, mark_complete
from plumbline.stage_a.config import StageASettings
from plumbline.stage_a.summaries import plan_summaries, read_reply, run_summaries
from plumbline.storage.rows import read_rows
from serving import Answering


class VerdictItem:
    """A question without a picture."""

    def __init__(self, number):
        self.key = f"q{number}"


class Questions:
    def ask(self, item):
        return Request(item.key, (), "", f"问{item.key}", Sampling(8))

    def row(self, item, request, reply):
        summary, status, problems = read_reply(reply)
        return {"key": item.key, "status": status, "summary": summary, "problems": problems}


@pytest.mark.parametrize("trouble", [429, 500, "slow", "reset", "half"])
def test_a_server_in_trouble_costs_time_and_one_that_stays_so_an_error_row(tmp_path, monkeypatch, trouble):
    """Case 13: for a while, and for good."""
    monkeypatch.setattr("plumbline.model.server._FIRST_WAIT", 0.01)
    items = [VerdictItem(number) for number in range(12)]
    with Answering(trouble=trouble, for_first=6) as server:
        engine = OpenAIEngine([server.url], timeout=0.3, tries=8)
        report = run_work(items, Questions(), lambda: engine, RunOptions(tmp_path / "a.jsonl"), {})
        assert report.statuses == {"ok": 12}
    with Answering(trouble=trouble, for_first=10**6) as server:
        engine = OpenAIEngine([server.url], timeout=0.1, tries=2)
        options = RunOptions(tmp_path / "b.jsonl", tries=2)
        report = run_work(items[:4], Questions(), lambda: engine, options, {})
        kind = {"slow": "timeout", "half": "reset"}.get(trouble, trouble if trouble == "reset" else f"http_{trouble}")
        assert report.statuses == {f"error:{kind}": 4} and report.exit_code == 3
        assert len(server.asked) == 4 * 2 * 2, "bounded"
    rows = list(read_rows(tmp_path / "b.jsonl"))
    assert all(row["problems"][0] and row["summary"] == "" for row in rows)


GOOD = (
    '{"object_1": {"bbox_2d": [10, 20, 300, 400], "desc": "标签"}, '
    '"object_2": {"quad": [1, 1, 9, 1, 9, 9, 1, 9], "desc": "螺丝"}}'
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        GOOD[:-1],
        GOOD[:40],
        GOOD.replace('"desc": "标签"', '"desc": ""'),
        GOOD.replace("bbox_2d", "bbox"),
        GOOD.replace("300", "3000"),
        GOOD.replace("object_2", "object_1"),
        GOOD.replace("object_2", "object_4"),
        GOOD.replace('"desc": "螺丝"', '"desc": "螺丝", "desc": "标签"'),
        GOOD.replace("[10, 20, 300, 400]", '"10, 20"'),
        GOOD.replace("[10, 20, 300, 400]", "[10, 20, 300]"),
        '{"answer": 3}',
        "抱歉，我无法回答。",
        "[]",
        GOOD + GOOD,
    ],
)
def test_a_reply_that_is_not_whole_is_never_ok(text):
    """Case 14, dense captions."""
    row = caption_row("x.png", (200, 100), Reply("k", text), "dense", "norm1000").as_dict()
    assert row["status"] == "invalid" and row["problems"] and row["text"] == text


@pytest.mark.parametrize("around", ["好的：\n```json\n{}\n```", "答案是 {} 。", "{}\n以上。"])
def test_prose_around_an_answer_is_read_past(around):
    row = caption_row("x.png", (200, 100), Reply("k", around.replace("{}", GOOD)), "dense", "norm1000").as_dict()
    assert row["status"] == "ok" and len(row["objects"]) == 2


def test_a_reply_that_never_ends_is_not_ok_however_it_reads():
    for mode, text in (("dense", GOOD), ("summary", "标签×1")):
        reply = Reply("k", text, tokens=2048, is_finished=False, detail="it repeats itself")
        row = caption_row("x.png", (200, 100), reply, mode, "norm1000").as_dict()
        assert row["status"] == "invalid" and "repeats itself" in row["problems"][0]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pictures():
    """name -> (bytes, whether it can be read)."""
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    deep = Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
    jpeg, png = encoded(scene, "JPEG"), encoded(scene, "PNG")
    rgba = scene.convert("RGBA")
    readable = {
        "plain.jpg": jpeg,
        "wrong_extension.jpg": png,
        "cmyk.jpg": encoded(scene.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(scene.convert("L"), "JPEG"),
        "progressive.jpg": encoded(scene, "JPEG", progressive=True),
        "deep.png": encoded(deep, "PNG"),
        "palette.png": encoded(scene.convert("P"), "PNG"),
        "palette_alpha.png": encoded(rgba.quantize(), "PNG", transparency=0),
        "alpha.png": encoded(rgba, "PNG"),
        "grey_alpha.png": encoded(rgba.convert("LA"), "PNG"),
        "one_bit.png": encoded(scene.convert("1"), "PNG"),
        "animated.gif": encoded(scene, "GIF", save_all=True, append_images=[scene.rotate(90)] * 3),
        "animated.webp": encoded(scene, "WEBP", save_all=True, append_images=[scene.rotate(90)] * 3),
        "lossy.webp": encoded(scene, "WEBP"),
        "cmyk.tiff": encoded(scene.convert("CMYK"), "TIFF"),
        "plain.bmp": encoded(scene, "BMP"),
        "one_pixel_wide.png": encoded(scene.resize((1, 40)), "PNG"),
        "text_chunk.png": png[:33] + chunk(b"tEXt", b"a\0" + b"x" * 1000) + png[33:],
    }
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[274] = turn
        readable[f"turned_{turn}.jpg"] = encoded(scene, "JPEG", exif=exif)
    unreadable = {
        "empty.jpg": b"",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header_alone.jpg": jpeg[:20],
        "truncated.png": png[: len(png) // 2],
        "no_pixels.png": png[:33],
        "damaged.png": png[:60] + b"\xff" * 40 + png[100:],
        "bomb.png": bomb(),
        "text.jpg": "这不是图片".encode(),
        "page.png": b"<html><script>alert(1)</script></html>",
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        "document.jpg": b"%PDF-1.7\n",
        "float.tiff": encoded(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"),
        "zeros.gif": b"\0" * 500,
    }
    return {name: (data, True) for name, data in readable.items()} | {
        name: (data, False) for name, data in unreadable.items()
    }


def test_a_bad_picture_costs_itself_never_its_group_or_the_run(tmp_path):
    """Cases 15, 16 and 17 in a Stage-A run over 40 odd files, all in one ticket."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["Qwen3VLForConditionalGeneration"]}')
    (model / "model.safetensors").write_bytes(b"")
    Card("norm1000", default_prompts(), "summary", "top_left", "qwen3_vl", None).write(model)
    mark_complete(model)
    group = tmp_path / "tickets" / "挡风板安装检查" / "审核通过" / "QC-1"
    group.mkdir(parents=True)
    odd = pictures()
    for name, (data, _) in odd.items():
        (group / name).write_bytes(data)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "挡风板安装检查.txt").write_text("看挡风板。", encoding="utf-8")
    settings = StageASettings(
        model=model, input=tmp_path / "tickets", output=tmp_path / "out", prompts=tmp_path / "prompts"
    )
    (plan,), _ = plan_summaries(settings)
    engine = ReplayEngine({photo.key: "标签×1" for photo in plan.found.photos})
    report = run_summaries(plan, lambda: engine)
    assert len(odd) == 40 == report.items
    rows = {row["key"].rsplit("/", 1)[1]: row for row in read_rows(plan.run_options.rows_path)}
    assert {name for name, row in rows.items() if row["status"] == "ok"} == {n for n, (_, good) in odd.items() if good}
    assert all(row["problems"][0] for row in rows.values() if row["status"] != "ok")
    assert "too many pixels to be decoded" in rows["bomb.png"]["problems"][0]
    quarantine = plan.run_options.rows_path.with_name(f"{plan.run_options.rows_path.name}.quarantine.jsonl")
    assert len(list(read_rows(quarantine))) == 14


def test_terminal_escapes_are_printed_escaped(capsys):
    """Case 23: in what a model says, in a key, in the name of a file."""
    report = RunReport(1, Path("rows.jsonl"), Counter(["error:image"]))
    payloads = ["\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x9b31m", "a\rb", "\x1b]8;;http://x\x07link\x1b]8;;\x07"]
    report.failures += payloads
    report.warnings += payloads
    print_report(report, "pictures", as_json=False)
    told = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(told.out + told.err)
    assert "\\x1b[2J" in told.err
