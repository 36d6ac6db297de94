"""Captions with the real engine: training's own prompts, batches that change nothing, runs that can be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import make_adapter
from PIL import Image

from plumbline.data.prompts import default_prompts
from plumbline.infer.config import InferSettings, Sampling
from plumbline.infer.engine import Reply, Request, TransformersEngine
from plumbline.infer.plan import plan_captions
from plumbline.infer.rows import read_rows
from plumbline.infer.runner import run_captions
from plumbline.model.checkpoints import Card, mark_complete

pytestmark = pytest.mark.slow

SHORT = Sampling(max_new_tokens=12)
SIZES = ((64, 64), (320, 200), (90, 400), (640, 480), (33, 47))


def picture(index: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


def requests_of(user: str = "描述图片") -> list[Request]:
    return [
        Request(f"p{index}", (picture(index, size),), "只输出JSON" * (index % 2), user + "。" * index)
        for index, size in enumerate(SIZES)
    ]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a card, as training leaves it."""
    folder = make_adapter(tiny_model, tmp_path_factory.mktemp("run") / "checkpoint-7")
    Card("norm1000", default_prompts(), "dense", "top_left", "qwen3_vl", 4096).write(folder)
    mark_complete(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures, one of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        picture(index, (96 + 64 * index, 128)).save(folder / f"p{index}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    return folder


def test_greedy_replies_do_not_depend_on_the_batch(tiny_model: Path, tmp_path: Path) -> None:
    talkative = make_adapter(tiny_model, tmp_path / "talkative", "lora", size=0.3)
    engine = TransformersEngine(tiny_model, talkative, sampling=SHORT)
    alone = engine.generate(requests_of())
    assert len({reply.text for reply in alone}) == len(SIZES), "pictures and prompts matter"
    for batch_size in (2, 5):
        engine.batch_size = batch_size
        assert engine.generate(requests_of()) == alone


def test_a_reply_ends_at_the_end_mark(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, sampling=SHORT)
    tokenizer = engine.processor.tokenizer
    said = tokenizer("好的", add_special_tokens=False)["input_ids"]
    end, pad = 151645, 151643
    assert engine._reply("k", [*said, end, pad, pad]) == Reply("k", "好的", tokens=len(said) + 1, is_finished=True)
    assert engine._reply("k", [*said, pad]) == Reply("k", "好的", tokens=len(said) + 1, is_finished=True)
    assert engine._reply("k", said) == Reply("k", "好的", tokens=len(said), is_finished=False)


def test_sampling_is_repeatable_and_follows_the_temperature(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, sampling=Sampling(8, temperature=10.0, top_p=1.0))
    first, again = engine.generate(requests_of()), engine.generate(requests_of())
    assert first == again
    engine.sampling = Sampling(8)
    assert [reply.text for reply in engine.generate(requests_of())] != [reply.text for reply in first]


def test_one_impossible_picture_is_an_error_reply(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, sampling=Sampling(2), batch_size=3)
    thin = Request("thin", (Image.new("RGB", (6400, 10)),), "", "描述")
    replies = engine.generate([*requests_of()[:2], thin])
    assert [reply.error for reply in replies] == ["", "", "image"]
    assert "times as long as wide" in replies[2].detail


def test_a_batch_that_does_not_fit_is_tried_in_halves(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    engine = TransformersEngine(tiny_model, sampling=Sampling(2), batch_size=5)
    alone = engine.generate(requests_of())
    whole = engine._run

    def small_memory(batch: Any) -> list[Reply]:
        if len(batch) > 1 or batch[0].key == "p3":
            raise torch.OutOfMemoryError("out of memory: tried to allocate 1 TiB")
        return whole(batch)

    monkeypatch.setattr(engine, "_run", small_memory)
    replies = engine.generate(requests_of())
    assert [reply.error for reply in replies] == ["", "", "", "engine", ""]
    assert [reply for reply in replies if not reply.error] == [reply for reply in alone if reply.key != "p3"]


def write_records(folder: Path) -> Path:
    """A JSONL about pictures of several sizes, each with one object."""
    rows = []
    for index, (width, height) in enumerate(SIZES):
        picture(index, (width, height)).save(folder / f"r{index}.png")
        objects = [{"bbox_2d": [1, 2, width - 1, height - 2], "desc": "BBU设备/品牌:华为"}]
        rows.append({"images": [f"r{index}.png"], "width": width, "height": height, "objects": objects})
    path = folder / "val.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("max_pixels", [None, 20_000])
def test_the_prompt_is_the_one_of_training_token_for_token(
    tiny_model: Path, tmp_path: Path, max_pixels: int | None
) -> None:
    """Against what training's own encoder makes of a record: ids up to the answer, grids and pixels."""
    from swift.model import get_model_processor
    from swift.template import get_template

    from plumbline.batch.lengths import PixelLimits
    from plumbline.data.dataset import DatasetSettings, RecordDataset, RecordFile
    from plumbline.data.images import load_image
    from plumbline.train.batches import Encoder

    _, processor = get_model_processor(
        str(tiny_model), model_type="qwen3_vl", load_model=False, trust_remote_code=False
    )
    template = get_template(processor)
    template.set_mode("train")
    limits = PixelLimits.of_processor(processor.image_processor, max_pixels)
    encoder = Encoder(template=template, limits=limits, max_length=4096, image_token_id=151655, merge=2)
    dataset = RecordDataset(RecordFile(write_records(tmp_path)), DatasetSettings())
    engine = TransformersEngine(tiny_model, max_pixels=max_pixels)
    prompts = default_prompts()
    for index in range(len(SIZES)):
        row = encoder(dataset.item(index))
        start = next(place for place, label in enumerate(row["labels"]) if label != -100)
        image = load_image(tmp_path / f"r{index}.png")
        request = Request("k", (image,), prompts.system_dense, prompts.user_dense)
        assert engine.prompt_ids(request) == [int(token) for token in row["input_ids"][:start]]
        ours = engine._encode([engine._prepare(request)])
        assert ours["image_grid_thw"].tolist() == row["image_grid_thw"].tolist()
        assert bool((ours["pixel_values"] == row["pixel_values"]).all())


def test_one_bad_picture_costs_that_picture_and_a_second_run_finds_nothing_to_do(
    adapter: Path, photos: Path, tmp_path: Path
) -> None:
    settings = InferSettings(adapter, photos, tmp_path / "captions.jsonl", sampling=SHORT, batch_size=2)
    plan = plan_captions(settings)
    seen: list[tuple[str, tuple[int, int]]] = []
    engine = TransformersEngine(plan.model, plan.adapter, sampling=SHORT, batch_size=2)
    report = run_captions(plan, engine, lambda row, image: seen.append((row.key, image.size)))
    rows = {row["key"]: row for row in read_rows(settings.output)}
    assert sorted(rows) == ["broken.jpg", "p0.png", "p1.png", "p2.png"]
    assert rows["broken.jpg"]["status"] == "error:image"
    assert (rows["p1.png"]["width"], rows["p1.png"]["height"]) == (160, 128)
    assert sorted(seen) == [("p0.png", (96, 128)), ("p1.png", (160, 128)), ("p2.png", (224, 128))]
    assert (report.errors, report.exit_code, report.written) == (1, 3, 4)
    assert report.statuses.total() == report.images == 4

    (photos / "broken.jpg").unlink()
    again = plan_captions(settings)
    assert (again.todo, again.done.total()) == ((), 3)
    report = run_captions(again, engine)
    assert (report.written, report.exit_code) == (0, 0)
    assert sorted(row["key"] for row in read_rows(settings.output)) == ["p0.png", "p1.png", "p2.png"]


def test_a_run_that_is_cut_anywhere_ends_with_the_rows_of_an_undisturbed_one(
    adapter: Path, photos: Path, tmp_path: Path
) -> None:
    whole = InferSettings(adapter, photos, tmp_path / "whole.jsonl", sampling=SHORT)
    plan = plan_captions(whole)
    engine = TransformersEngine(plan.model, plan.adapter, sampling=SHORT)
    run_captions(plan, engine)
    wanted = sorted(whole.output.read_text().splitlines())
    for cut in (1, 2, 3):
        settings = InferSettings(adapter, photos, tmp_path / f"cut{cut}.jsonl", sampling=SHORT)
        seen = 0

        def stop(count: int, limit: int = cut) -> None:
            nonlocal seen
            seen += count
            if seen == limit:
                raise KeyboardInterrupt

        report = run_captions(plan_captions(settings), engine, progress=stop)
        assert (report.interrupted, report.exit_code, report.written) == (True, 130, cut)
        with settings.output.open("r+b") as stream:  # and the last row torn, as by a kill
            stream.truncate(settings.output.stat().st_size - 9)
        report = run_captions(plan_captions(settings), engine)
        assert any("cut short" in warning for warning in report.warnings)
        assert sorted(settings.output.read_text().splitlines()) == wanted


def test_the_command_draws_answers_json_and_stops_cleanly_on_sigint(
    adapter: Path, photos: Path, tmp_path: Path
) -> None:
    for number in range(30):  # enough of them that the signal comes before the end
        shutil.copy(photos / "p0.png", photos / f"q{number:02}.png")
    output, overlays = tmp_path / "captions.jsonl", tmp_path / "overlays"
    program = Path(sys.executable).with_name("plumbline")
    command = [
        program,
        "infer",
        "--model",
        adapter,
        "--input",
        photos,
        "--output",
        output,
        "--draw",
        overlays,
        "--json",
    ]
    command += ["--max-new-tokens", "20"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    dry = subprocess.run([*command, "--dry-run"], env=environment, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    plan = json.loads(dry.stdout)
    assert (plan["images"], plan["todo"], plan["mode"], plan["emit_norm"]) == (34, 34, "dense", "norm1000")
    assert not output.exists()

    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:  # the first row, then the interrupt
        if output.exists() and b"\n" in output.read_bytes():
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.005)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "the same command goes on from here" in stderr
    report = json.loads(stdout)
    assert report["interrupted"]
    assert report["written"] == sum(1 for _ in read_rows(output)) < 34

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["statuses"]["error:image"] == 1
    drawn = ["p0.png", "p1.png", "p2.png", *(f"q{number:02}.png" for number in range(30))]
    assert sorted(row["key"] for row in read_rows(output)) == ["broken.jpg", *drawn]
    assert sorted(path.name for path in overlays.iterdir()) == drawn


def test_the_scripts_of_the_documents_work(adapter: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    merged = tmp_path / "merged"
    done = subprocess.run(
        [root / "scripts" / "merge_stage2_lora.sh", adapter, merged, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["max_abs_logit_diff"] <= 1e-4
    done = subprocess.run(
        [sys.executable, root / "scripts" / "inspect_lora_ckpts.py", adapter],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "aligner" in done.stdout
