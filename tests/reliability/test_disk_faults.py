"""Disks that are full or read-only: one message with the path and what helps, exit 1, nothing half-written.

A limit on the size of a file stands for the full disk: the system refuses the same calls.
"""

import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from plumbline.errors import OutputError, disk_error, writing
from plumbline.report.run import write_run_report


@contextmanager
def room_for(size):
    """No file grows beyond `size` bytes inside the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def sealed(tmp_path):
    """A place below which nothing can be made, whoever runs the tests."""
    (tmp_path / "sealed").write_text("a file")
    return tmp_path / "sealed" / "below"


def labelme(folder):
    """A folder of LabelMe files, large enough to outgrow a small disk when converted."""
    folder.mkdir()
    shape = {"label": "标签", "shape_type": "rectangle", "points": [[1, 1], [20, 20]]}
    for number in range(40):
        content = {"imagePath": f"{number}.png", "imageWidth": 64, "imageHeight": 48, "shapes": [shape] * 5}
        (folder / f"{number}.json").write_text(json.dumps(content))
    return folder


def test_a_missing_permission_names_the_path_and_what_helps():
    refused = disk_error(PermissionError(13, "Permission denied", "/a/b"))
    assert str(refused).startswith("/a/b: cannot be read or written: Permission denied")
    assert "that you may write to" in str(refused) and refused.exit_code == 1
    assert disk_error(OSError(110, "Connection timed out")) is None


def test_an_error_that_is_no_disk_keeps_its_traceback():
    with pytest.raises(ConnectionError), writing("x"):
        raise ConnectionError("a bug of ours")


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="there is no /sys, which nobody can write to")
def test_a_read_only_place_is_named():
    with pytest.raises(OutputError, match=r"/sys/plumbline: cannot be written"), writing("/sys/plumbline"):
        Path("/sys/plumbline").mkdir()


def test_convert_on_a_full_disk(plumbline, tmp_path):
    source, target = labelme(tmp_path / "labels"), tmp_path / "out.jsonl"
    with room_for(2_000):
        code, _, error = plumbline("data", "convert", source, "--from", "labelme", "--output", target)
    assert code == 1 and f"{target}: cannot be written" in error and "make room" in error
    assert not target.exists() and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_convert_to_where_nothing_can_be_made(plumbline, tmp_path, sealed):
    code, _, error = plumbline("data", "convert", labelme(tmp_path / "labels"), "--from", "labelme", "--output", sealed)
    assert code == 2 and f"{sealed.parent}: no such folder" in error, "refused before anything was read"


def test_the_page_of_a_check_on_a_full_disk(plumbline, records, tmp_path):
    page = tmp_path / "findings.html"
    with room_for(500):
        code, _, error = plumbline("data", "check", records[0], "--html", page)
    assert code == 1 and f"{page}: cannot be written" in error
    assert not list(tmp_path.iterdir())


def test_the_page_of_a_check_where_nothing_can_be_made(plumbline, records, sealed):
    code, _, error = plumbline("data", "check", records[0], "--html", sealed / "findings.html")
    assert code == 1 and str(sealed) in error


def test_demo_on_a_full_disk(plumbline, tmp_path):
    with room_for(100_000):
        code, _, error = plumbline("demo", "--prepare-only", "--output", tmp_path / "demo")
    assert code == 1 and "make room" in error and "Traceback" not in error


@pytest.mark.slow
def test_train_merge_and_report_on_a_full_disk(plumbline, write_run, tmp_path):
    """A checkpoint that does not fit goes again, the one before it stays, and the same command goes on."""
    config = write_run(training={"max_steps": 2, "save_steps": 1})
    folder = tmp_path / "run"
    with room_for(30_000):
        code, _, error = plumbline("train", config)
    assert code == 1 and "checkpoint-1: cannot be written" in error and "Traceback" not in error
    assert not folder.exists(), "a run that has not saved anything leaves nothing"
    assert plumbline("train", config)[0] == 0
    merged = tmp_path / "merged"
    with room_for(1_000_000):
        code, _, error = plumbline("merge", "--adapter", folder, "--output", merged)
    assert code == 1 and f"{merged}: cannot be written" in error
    assert not merged.exists() and not list(tmp_path.glob(".merged*"))
    (folder / "report.html").unlink()
    with room_for(2_000), pytest.raises(OutputError, match=r"report.html: cannot be written"):
        write_run_report(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.slow
def test_train_where_nothing_can_be_made(plumbline, write_run, sealed):
    code, _, error = plumbline("train", write_run(training={"output_dir": str(sealed)}))
    assert code in (1, 2) and str(sealed) in error and "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["weights", "tokenizer", "processor", "upstream"])
def test_whatever_a_library_raises_while_a_model_loads_is_one_message(
    plumbline, write_run, tiny_model, tmp_path, damage
):
    broken = tmp_path / "model"
    shutil.copytree(tiny_model, broken)
    if damage == "weights":
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-5_000])
        said = f"{weights}: cannot be read"
    elif damage == "tokenizer":
        (broken / "tokenizer.json").write_text("{")
        said = f"{broken / 'tokenizer.json'}: is not a tokenizer"
    elif damage == "processor":
        (broken / "processor_config.json").write_text("{")
        said = f"{broken / 'processor_config.json'}: cannot be read"
    else:  # what only the upstream reads
        (broken / "tokenizer_config.json").write_text("{")
        said = f"{broken}: cannot be loaded"
    code, _, error = plumbline("train", write_run(model={"model": str(broken)}))
    assert code == 2 and said in error and "download the checkpoint again" in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_stage_b_and_its_report_where_nothing_can_be_made(plumbline, sealed, tmp_path):
    from plumbline.stage_b.edit_trial import Budget
    from plumbline.stage_b.loop import run_mission
    from stage_b_folders import Inspector, run_over, ticket_rows

    replies = tmp_path / "replies.jsonl"
    replies.write_text("")
    run_over(tmp_path, ticket_rows(4), output={"root": str(sealed)}, engine={"kind": "replay", "replies": str(replies)})
    code, _, error = plumbline("stage-b", "run", tmp_path / "stage_b.yaml")
    assert (code, str(sealed) in error, "Traceback" in error) == (1, True, False), error
    run = run_over(tmp_path, ticket_rows(4), reflection={"enabled": False})
    run_mission(run, Inspector, Budget())
    code, _, error = plumbline("stage-b", "report", tmp_path / "stage_b.yaml", "--output", sealed / "report.html")
    assert (code, str(sealed) in error, "Traceback" in error) == (1, True, False), error


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["infer", "stage-a"])
def test_captions_and_summaries_where_nothing_can_be_made(plumbline, sealed, tiny_model, tmp_path, verb):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.png")
    flags = ("--emit-norm", "none") if verb == "infer" else ()
    common = ("--model", tiny_model, "--input", tmp_path / "photos", "--max-new-tokens", 4)
    code, _, error = plumbline(verb, *common, "--output", sealed / "rows.jsonl", *flags)
    assert code in (1, 2) and str(sealed) in error and "Traceback" not in error
