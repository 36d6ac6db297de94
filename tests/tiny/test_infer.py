"""Captions with the real engine: training's own prompts, batches that change nothing, runs that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import groupby, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from adapters import make_adapter
from PIL import Image

from plumbline.data.prompts import default_prompts
from plumbline.errors import ConfigError
from plumbline.infer import verbs
from plumbline.infer.caption_run import run_captions
from plumbline.infer.config import InferSettings, Sampling
from plumbline.infer.engine import Reply, Request
from plumbline.infer.local import Row, TransformersEngine, sampled
from plumbline.infer.open_engine import open_engine
from plumbline.infer.plan import plan_captions
from plumbline.infer.verbs import TERMINAL
from plumbline.infer.vllm import as_reply, prompt_of
from plumbline.model.checkpoints import Card, mark_complete
from plumbline.report.overlay import draw_objects
from plumbline.storage.rows import read_rows
from plumbline.storage.text import printable

pytestmark = pytest.mark.slow

SHORT = Sampling(max_new_tokens=12)
SIZES = ((64, 64), (320, 200), (90, 400), (640, 480), (33, 47))


def picture(index: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


def requests_of(user: str = "描述图片", sampling: Sampling = SHORT) -> list[Request]:
    return [
        Request(f"p{index}", (picture(index, size),), "只输出JSON" * (index % 2), user + "。" * index, sampling)
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
    talkative = make_adapter(tiny_model, tmp_path / "talkative", "lora", size=0.1)
    engine = TransformersEngine(tiny_model, talkative)
    alone = engine.generate(requests_of())
    assert len({reply.text for reply in alone}) == len(SIZES), "pictures and prompts matter"
    for batch_size in (2, 5):
        engine.batch_size = batch_size
        assert engine.generate(requests_of()) == alone


def test_a_shared_beginning_is_computed_once_and_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    talkative = make_adapter(tiny_model, tmp_path / "talkative", "lora", size=0.1)
    engine = TransformersEngine(tiny_model, talkative, batch_size=3)
    system = "你是验收助手。" * 9
    asked = [Request(f"p{i}", (picture(i, size),), system, f"第{i}张", SHORT) for i, size in enumerate(SIZES)]
    asked += [Request(f"t{i}", (), system, f"没有图片{'。' * i}", SHORT) for i in range(3)]
    apart = [engine.generate([request])[0] for request in asked]
    assert engine._prefix == ([], [])
    assert engine.generate(asked) == apart
    shared = engine._prefix[0]
    assert len(shared) > 40 and all(engine.prompt_ids(request)[: len(shared)] == shared for request in asked)
    assert engine.generate(asked[:1]) == apart[:1], "one that comes alone uses it too"
    assert engine._prefix[0] is shared


def test_a_picture_is_looked_at_once(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, batch_size=2)
    image, seen = picture(0, (96, 64)), []
    tower = engine._base.model.visual
    handle = tower.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    short = Sampling(2)
    engine.generate([Request(f"q{i}", (image, image), "", f"问题{i}", short) for i in range(5)])
    assert seen == [4 * 6]
    engine.generate([Request("other", (picture(1, (96, 64)), image), "", "问题", short)])
    assert seen == [4 * 6, 4 * 6]
    handle.remove()


def test_a_reply_ends_at_the_end_mark_a_stop_text_the_limit_or_when_it_repeats_itself(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model)
    said = engine.processor.tokenizer("好的。对", add_special_tokens=False)["input_ids"]

    def ended(tokens: list[int], sampling: Sampling = SHORT) -> Reply | None:
        return engine._ended(Row(Request("k", (), "", "", sampling), [], [], tokens))

    assert ended([*said, 151645]) == Reply("k", "好的。对", tokens=len(said) + 1)
    assert ended(said) is None
    assert ended(said, Sampling(len(said))) == Reply("k", "好的。对", tokens=len(said), is_finished=False)
    assert ended(said, Sampling(99, stop=("。", "x"))) == Reply("k", "好的", tokens=len(said))
    runaway = ended([*range(500, 532), *(said * 200)][:320], Sampling(2048))
    assert runaway is not None and (runaway.is_finished, runaway.detail) == (False, "it repeats itself")


def test_sampling_depends_on_the_key_and_the_seed_alone(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, batch_size=5)
    wild = Sampling(8, temperature=10.0, top_p=1.0, seed=3)
    first = engine.generate(requests_of(sampling=wild))
    engine.batch_size = 2
    assert engine.generate(requests_of(sampling=wild)[:3]) == first[:3]
    other = engine.generate(requests_of(sampling=Sampling(8, temperature=10.0, top_p=1.0, seed=4)))
    assert all(one.text != two.text for one, two in zip(first, other, strict=True))
    # Greedy and sampled requests share a batch.
    mixed = [*requests_of(sampling=wild)[:2], *requests_of()[2:4]]
    assert [reply.text for reply in engine.generate(mixed)[:2]] == [reply.text for reply in first[:2]]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.6), (3.0, 0.9)])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float, top_p: float) -> None:
    logits = np.log(np.array([0.05, 0.4, 0.3, 0.2, 0.05], dtype=np.float32))
    weights = np.exp(logits.astype(float) / temperature)
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")
    nucleus = order[: int(np.searchsorted(np.cumsum(weights[order]), top_p)) + 1]
    wanted = np.zeros(5)
    wanted[nucleus] = weights[nucleus] / weights[nucleus].sum()
    rng = np.random.default_rng(0)
    drawn = np.bincount([sampled(logits, Sampling(1, temperature, top_p), rng) for _ in range(20_000)], minlength=5)
    assert np.abs(drawn / 20_000 - wanted).max() < 0.015


def test_one_impossible_picture_is_an_error_reply(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, batch_size=3)
    thin = Request("thin", (Image.new("RGB", (6400, 10)),), "", "描述")
    replies = engine.generate([*requests_of(sampling=Sampling(2))[:2], thin])
    assert [reply.error for reply in replies] == ["", "", "image"]
    assert "times as long as wide" in replies[2].detail


def test_a_batch_that_does_not_fit_is_tried_in_halves(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    engine = TransformersEngine(tiny_model, batch_size=5)
    alone = engine.generate(requests_of())
    begin, advance = engine._begin, engine._advance
    steps = 0

    def small_memory(rows: list[Row]) -> Any:
        if len(rows) > 2 or rows[0].request.key == "p3":
            raise torch.OutOfMemoryError("out of memory: tried to allocate 1 TiB")
        return begin(rows)

    def full_later(batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise torch.OutOfMemoryError("out of memory: tried to allocate 1 TiB")
        return advance(batch)

    monkeypatch.setattr(engine, "_begin", small_memory)
    monkeypatch.setattr(engine, "_advance", full_later)
    replies = engine.generate(requests_of())
    assert [reply.error for reply in replies] == ["", "", "", "memory", ""]
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
        images = engine._prepare(request).images
        ours = engine.processor.image_processor(images=images, do_resize=False, return_tensors="pt")
        assert ours["image_grid_thw"].tolist() == row["image_grid_thw"].tolist()
        assert bool((ours["pixel_values"] == row["pixel_values"]).all())


def test_one_bad_picture_costs_that_picture_and_a_second_run_finds_nothing_to_do(
    adapter: Path, photos: Path, tmp_path: Path
) -> None:
    settings = InferSettings(
        model=adapter, input=photos, output=tmp_path / "captions.jsonl", sampling=SHORT, batch_size=2
    )
    plan = plan_captions(settings)
    seen: list[tuple[str, tuple[int, int]]] = []
    engine = TransformersEngine(plan.model, plan.adapter, batch_size=2)
    report = run_captions(plan, lambda: engine, lambda row, image: seen.append((row["key"], image.size)))
    rows = {row["key"]: row for row in read_rows(settings.output)}
    assert sorted(rows) == ["broken.jpg", "p0.png", "p1.png", "p2.png"]
    assert rows["broken.jpg"]["status"] == "error:image"
    assert (rows["p1.png"]["width"], rows["p1.png"]["height"]) == (160, 128)
    assert sorted(seen) == [("p0.png", (96, 128)), ("p1.png", (160, 128)), ("p2.png", (224, 128))]
    assert (report.errors, report.exit_code, report.written) == (1, 3, 4)
    assert report.statuses.total() == report.items == 4

    (photos / "broken.jpg").unlink()
    again = plan_captions(settings)
    assert (again.todo, again.done.total()) == ((), 3)
    report = run_captions(again, lambda: pytest.fail("there is nothing to ask"))
    assert (report.written, report.exit_code) == (0, 3) and "(3 times)" in report.unreadable, "it learned nothing"
    assert sorted(row["key"] for row in read_rows(settings.output)) == ["p0.png", "p1.png", "p2.png"]


def test_a_run_that_is_cut_anywhere_ends_with_the_rows_of_an_undisturbed_one(
    adapter: Path, photos: Path, tmp_path: Path
) -> None:
    whole = InferSettings(model=adapter, input=photos, output=tmp_path / "whole.jsonl", sampling=SHORT)
    plan = plan_captions(whole)
    engine = TransformersEngine(plan.model, plan.adapter)
    run_captions(plan, lambda: engine)
    wanted = sorted(whole.output.read_text().splitlines())
    for cut in (1, 2, 3):
        settings = InferSettings(model=adapter, input=photos, output=tmp_path / f"cut{cut}.jsonl", sampling=SHORT)
        seen = 0

        def stop(count: int, limit: int = cut) -> None:
            nonlocal seen
            seen += count
            if seen == limit:
                raise KeyboardInterrupt

        report = run_captions(plan_captions(settings), lambda: engine, progress=stop)
        assert (report.interrupted, report.exit_code, report.written) == (True, 130, cut)
        with settings.output.open("r+b") as stream:  # and the last row torn, as by a kill
            stream.truncate(settings.output.stat().st_size - 9)
        report = run_captions(plan_captions(settings), lambda: engine)
        assert any("cut short" in warning for warning in report.warnings)
        assert sorted(settings.output.read_text().splitlines()) == wanted


def test_the_command_draws_answers_json_and_stops_cleanly_on_sigint(
    adapter: Path, photos: Path, tmp_path: Path
) -> None:
    for number in range(100):  # enough of them that the signal comes before the end
        os.link(photos / "p0.png", photos / f"q{number:03}.png")
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
    assert (plan["images"], plan["todo"], plan["mode"], plan["emit_norm"]) == (104, 104, "dense", "norm1000")
    assert not output.exists()

    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )
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
    assert report["written"] == sum(1 for _ in read_rows(output)) < 104

    written = [row["key"] for row in read_rows(output) if row["key"].startswith("q")]
    for path in sorted(photos.glob("q*.png"))[len(written) + 10 :]:
        path.unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["statuses"]["error:image"] == 1
    drawn = sorted(path.name for path in photos.glob("*.png"))
    assert sorted(row["key"] for row in read_rows(output)) == ["broken.jpg", *drawn]
    assert sorted(path.name for path in overlays.iterdir()) == drawn


def test_without_an_output_one_picture_is_described_as_it_is_written(
    adapter: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = InferSettings(model=adapter, input=photos / "p0.png", output=TERMINAL, sampling=SHORT)
    pieces: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plumbline.infer.verbs._Typed.__call__", lambda typed, text: pieces.append(text))
        assert verbs.infer(settings, None, draw_objects, as_json=False, dry_run=False) == 3
    assert len(pieces) > SHORT.max_new_tokens and all(
        later.startswith(earlier.rstrip("\ufffd")) for earlier, later in pairwise(pieces)
    )
    capsys.readouterr()
    assert verbs.infer(settings, None, draw_objects, as_json=False, dry_run=False) == 3
    told = capsys.readouterr()
    assert told.out == printable(pieces[-1], keep="\n") + "\n"
    assert "invalid: 0 objects in 96 x 128" in told.err
    assert verbs.infer(settings, None, draw_objects, as_json=True, dry_run=False) == 3
    assert json.loads(capsys.readouterr().out)["text"] == pieces[-1]
    with pytest.raises(ConfigError, match="4 pictures, and no file"):
        verbs.infer(replace(settings, input=photos), None, draw_objects, as_json=False, dry_run=False)


def test_vllm_is_asked_the_same_question(tiny_model: Path) -> None:
    """Its own processor puts as many placeholders into the prompt as the picture has cells."""
    engine = TransformersEngine(tiny_model, max_pixels=20_000)
    for request in requests_of():
        asked = prompt_of(request, engine.processor, engine.limits)
        assert [image.size for image in asked["multi_modal_data"]["image"]] == [
            image.size for image in engine._prepare(request).images
        ]
        expanded = [token for token, _ in groupby(engine.prompt_ids(request))]
        assert [token for token, _ in groupby(asked["prompt_token_ids"])] == expanded
        assert asked["prompt_token_ids"].count(151655) == 1
    completion = SimpleNamespace(text="好", token_ids=[1, 2], finish_reason="length")
    assert as_reply("k", completion) == Reply("k", "好", 2, is_finished=False)
    completion.finish_reason = "stop"
    assert as_reply("k", completion).is_finished


def test_without_vllm_it_is_said_what_to_install(adapter: Path, photos: Path, tmp_path: Path) -> None:
    settings = InferSettings(model=adapter, input=photos, output=tmp_path / "rows.jsonl", engine="vllm")
    with pytest.raises(ConfigError, match="merge it first"):
        open_engine(plan_captions(settings))
    if find_spec("vllm") is None:
        merged = replace(plan_captions(settings), adapter=None)
        with pytest.raises(ConfigError, match=r"vllm cannot be loaded[\s\S]*plumbline\[vllm\]"):
            open_engine(merged)


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


def test_a_chat_of_several_turns_is_encoded_as_the_processor_does(tiny_model: Path) -> None:
    """Two turns with three pictures: ids equal to transformers' own, and the reply depends on every turn."""
    images = [picture(number, (64 + 32 * number, 64)) for number in range(3)]
    shown = lambda number: {"type": "image", "image": f"{number}.png"}  # noqa: E731
    turns: list[dict[str, object]] = [
        {"role": "user", "content": [shown(0), {"type": "text", "text": "这是什么?"}]},
        {"role": "assistant", "content": "一个箱子"},
        {"role": "user", "content": [shown(1), {"type": "text", "text": "和"}, shown(2)]},
    ]
    engine = TransformersEngine(tiny_model)
    request = Request("k", tuple(images), "", "", SHORT, turns=tuple(turns))
    text = engine.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    resized = engine._prepare(request).images
    theirs = engine.processor(text=[text], images=resized, do_resize=False, return_tensors="pt")
    assert engine.prompt_ids(request) == theirs["input_ids"][0].tolist()
    (reply,) = engine.generate([request])
    assert not reply.error


def test_the_command_answers_a_question(tiny_model: Path, photos: Path, tmp_path: Path, plumbline) -> None:
    output = tmp_path / "answers.jsonl"
    words = ["infer", "--model", tiny_model, "--prompt", "几个?", "--max-new-tokens", "4"]
    code, out, _ = plumbline(*words, "--input", photos / "p0.png", "--json")
    assert json.loads(out)["question"] == "几个?" and code in (0, 3)
    code, out, _ = plumbline(*words, "--input", photos, "--output", output)
    rows = {row["key"]: row for row in read_rows(output)}
    assert code == 3 and sorted(rows) == ["broken.jpg", "p0.png", "p1.png", "p2.png"] and "questions" in out
    assert rows["broken.jpg"]["status"] == "error:image"
    assert plumbline(*words, "--input", photos, "--output", output, "--draw", tmp_path)[0] == 2
