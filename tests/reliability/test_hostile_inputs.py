"""Names that lead out of the folder, checkpoints and configs that carry code, and batches that do not fit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from PIL import Image

from plumbline.cli import app
from plumbline.data.prompts import default_prompts
from plumbline.errors import ConfigError, DataError, UserError
from plumbline.infer.caption_run import run_captions
from plumbline.infer.config import InferSettings, Sampling
from plumbline.infer.engine import Reply
from plumbline.infer.plan import plan_captions
from plumbline.model.checkpoints import Card, locate, mark_complete
from plumbline.storage.rows import read_rows
from plumbline.train.config import load_run

LEADING_OUT = (
    "../secret/s.png",
    "in/../../secret/s.png",
    "../data2/s.png",  # begins like the allowed folder's name
    "{tmp}/secret/s.png",
    "/etc/hostname",
    "escape.png",
    "folder/s.png",
    "loop.png",
    "in/a.png\x00.png",
    "//server/share/s.png",
    "\\\\server\\share\\s.png",
    "C:\\s.png",
    "file:///etc/hostname",
    "file://{tmp}/secret/s.png",
    "FILE:{tmp}/secret/s.png",
    "ftp://server/s.png",
    "http://169.254.169.254/s.png",
    "data:text/html;base64,PGI+",
    "in",
    "x" * 5000,
)


class Whatever:
    identity = "whatever"

    def stream(self, requests):
        for request in requests:
            yield Reply(request.key, '{"object_1": {"bbox_2d": [0, 0, 500, 500], "desc": "标签"}}')


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3VLForConditionalGeneration"]}))
    (folder / "model.safetensors").write_bytes(b"")
    Card("norm1000", default_prompts(), "dense", "top_left", "qwen3_vl", 4096).write(folder)
    mark_complete(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a JSONL, with links and neighbours that a name could reach."""
    for name in ("data/in/a.png", "secret/s.png", "data2/s.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    (tmp_path / "data/escape.png").symlink_to(tmp_path / "secret/s.png")
    (tmp_path / "data/folder").symlink_to(tmp_path / "secret")
    (tmp_path / "data/loop.png").symlink_to(tmp_path / "data/loop.png")
    return tmp_path / "data"


def write_jsonl(data: Path, names: list[str]) -> Path:
    rows = [{"images": [name], "width": 32, "height": 32, "objects": [], "summary": "标签×1"} for name in names]
    path = data / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_names_that_lead_out_are_quarantined_and_nothing_is_opened(model, data, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("ROOT_IMAGE_DIR", raising=False)
    names = [name.format(tmp=tmp_path) for name in LEADING_OUT if "\x00" not in name]
    source = write_jsonl(data, [*names, "in/a.png"])
    opened: list[str] = []
    load = Image.open
    monkeypatch.setattr(
        Image, "open", lambda file, *more, **also: opened.append(str(file)) or load(file, *more, **also)
    )
    settings = InferSettings(model=model, input=source, output=tmp_path / "captions.jsonl")
    report = run_captions(plan_captions(settings), Whatever)
    rows = list(read_rows(settings.output))
    assert [row["image"] for row in rows if row["status"] == "ok"] == ["in/a.png"]
    assert sorted(row["image"] for row in rows if row["status"] == "error:image") == sorted(names)
    assert (report.errors, report.exit_code, len(opened)) == (len(names), 3, 1)
    quarantined = (tmp_path / "captions.jsonl.quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(quarantined) == len(names)


def test_a_nul_byte_breaks_the_contract_of_the_file(model, data, tmp_path) -> None:
    source = write_jsonl(data, ["in/a.png", "in/a.png\x00.png"])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: images\[0\]: holds a NUL byte"):
        plan_captions(InferSettings(model=model, input=source, output=tmp_path / "captions.jsonl"))


@pytest.mark.parametrize("name", LEADING_OUT)
def test_training_data_that_leads_out_is_a_finding(name, data, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("ROOT_IMAGE_DIR", raising=False)
    source = write_jsonl(data, [name.format(tmp=tmp_path), "in/a.png"])
    code = app(["data", "check", str(source), "--images", "--json"], result_action="return_value")
    told = json.loads(capsys.readouterr().out)
    refused = [item for item in told["items"] if item["code"] not in ("no-target", "no-objects")]
    assert code == 3 and [item["line"] for item in refused] == [1], told


class Evil:
    """Unpickling it leaves a file behind."""

    def __init__(self, sentinel: Path):
        self.sentinel = str(sentinel)

    def __reduce__(self):
        return os.mkdir, (self.sentinel,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "model.pt", "model.pth", "weights.pkl"])
def test_pickled_weights_are_not_unpickled(name, model, tmp_path) -> None:
    sentinel = tmp_path / "executed"
    (model / "model.safetensors").unlink()
    (model / "COMPLETE").unlink()
    (model / name).write_bytes(pickle.dumps(Evil(sentinel)))
    with pytest.raises(UserError):
        locate(model)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "payload",
    [
        "!!python/object/apply:os.mkdir ['{sentinel}']",
        "!!python/object/new:os.mkdir ['{sentinel}']",
        "!!python/name:os.mkdir",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
        "!<tag:yaml.org,2002:python/object/apply:os.mkdir> ['{sentinel}']",
    ],
)
def test_tags_of_a_config_are_not_obeyed(payload, tmp_path) -> None:
    sentinel = tmp_path / "executed"
    config = tmp_path / "run.yaml"
    config.write_text(f"model:\n  model: {payload.format(sentinel=sentinel)}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.yaml:2:"):
        load_run(config)
    assert not sentinel.exists()


EVIL_MODULE = "open({sentinel!r}, 'w').close()\nclass C: pass\nclass M: pass\nclass P: pass\n"


@pytest.mark.slow
def test_code_that_a_checkpoint_names_is_not_run(tiny_model, tmp_path) -> None:
    from plumbline.model.loading import load_model, load_processor

    sentinel, folder = tmp_path / "executed", tmp_path / "copy"
    shutil.copytree(tiny_model, folder)
    (folder / "COMPLETE").unlink(missing_ok=True)
    (folder / "evil.py").write_text(EVIL_MODULE.format(sentinel=str(sentinel)))
    classes = {"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.M", "AutoProcessor": "evil.P"}
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"auto_map": classes}))
    load_model(folder)
    load_processor(folder)
    assert not sentinel.exists()


@pytest.mark.slow
@pytest.mark.parametrize("fits", [3, 1])
def test_a_batch_that_does_not_fit_is_made_smaller_and_one_that_never_fits_is_quarantined(
    tiny_model, data, tmp_path, monkeypatch, fits
) -> None:
    """The engine runs out of memory above `fits` rows, and always on the widest picture."""
    import torch

    from plumbline.infer.local import TransformersEngine

    for number in range(6):
        Image.new("RGB", (64 + 32 * number, 64), "blue").save(data / f"p{number}.png")
    engine = TransformersEngine(tiny_model, batch_size=6)
    begin = engine._begin
    asked: list[int] = []

    def small_memory(rows):
        asked.append(len(rows))
        if len(rows) > fits or any(row.request.key == "p5.png" for row in rows):
            raise torch.OutOfMemoryError("out of memory: tried to allocate 1 TiB")
        return begin(rows)

    monkeypatch.setattr(engine, "_begin", small_memory)
    source = write_jsonl(data, [f"p{number}.png" for number in range(6)])
    settings = InferSettings(
        model=tiny_model,
        input=source,
        output=tmp_path / "captions.jsonl",
        emit_norm="norm1000",
        batch_size=6,
        sampling=Sampling(4),
    )
    report = run_captions(plan_captions(settings), lambda: engine)
    statuses = {row["key"]: row["status"] for row in read_rows(settings.output)}
    assert statuses.pop("p5.png") == "error:memory"
    assert set(statuses.values()) == {"invalid"}  # four tokens are no whole answer
    assert (report.errors, report.exit_code) == (1, 3)
    assert asked[0] > fits and min(asked) == 1
    quarantine = tmp_path / "captions.jsonl.quarantine.jsonl"
    assert [json.loads(line)["key"] for line in quarantine.read_text().splitlines()] == ["p5.png"]
