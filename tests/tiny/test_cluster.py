"""The runner on a cluster of two cores: the same rows as in one process, whatever happens to its processes."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.errors import EXIT_BUDGET
from plumbline.infer.cluster import on_cluster
from plumbline.infer.config import Sampling
from plumbline.infer.runner import RunOptions, run_work
from plumbline.stage_a.config import StageASettings
from plumbline.stage_a.verbs import stage_a
from plumbline.storage.rows import read_rows
from replaying_cluster import Mortal, Notes, Refusing, Thing

pytestmark = pytest.mark.slow

MISSION = "挡风板安装检查"
PROMPTS = Path(__file__).parents[2] / "configs" / "prompts"
THINGS = [Thing(f"t{number}") for number in range(90)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(
            "PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep
        )  # its processes find what the tests send them
        ray.init(num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def test_a_process_that_dies_costs_time_alone(tmp_path: Path) -> None:
    options = RunOptions(tmp_path / "rows.jsonl", window=10)
    engine = partial(Mortal, tmp_path / "grave")
    report = run_work(THINGS, Notes(), engine, options, {"model": "m"}, runner=on_cluster(2))
    assert (report.exit_code, report.written) == (0, 90)
    rows = list(read_rows(options.output))
    assert {row["key"]: row["text"] for row in rows} == {thing.key: f"said {thing.key}" for thing in THINGS}
    assert len(rows) == 90 and (tmp_path / "grave").exists()
    again = run_work(THINGS, Notes(), engine, options, {"model": "m"}, runner=on_cluster(2))
    assert (again.written, again.statuses["ok"]) == (0, 90)


def test_errors_are_counted_where_the_rows_are_written(tmp_path: Path) -> None:
    options = RunOptions(tmp_path / "rows.jsonl", window=10, max_error_rate=0.5)
    report = run_work(THINGS, Notes(), Refusing, options, {"model": "m"}, runner=on_cluster(1))
    assert report.exit_code == EXIT_BUDGET
    assert 20 <= report.written <= 30
    assert report.failures[0].endswith("it is down")


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    for label, count in (("审核通过", 2), ("审核不通过", 3)):
        folder = tmp_path / "tickets" / MISSION / label / "QC-1"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([number, count]).integers(0, 255, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 96), Image.Resampling.BILINEAR).save(folder / f"p{number}.png")
        (folder / "p9.png").write_bytes(b"no picture")
    return tmp_path / "tickets"


def test_stage_a_gives_the_files_of_the_local_runner(tiny_model: Path, tickets: Path, tmp_path: Path, capsys) -> None:
    gathered, rows = [], []
    for runner, workers in (("local", None), ("ray", 1)):
        settings = StageASettings(
            model=tiny_model,
            input=tickets,
            output=tmp_path / runner,
            prompts=PROMPTS,
            sampling=Sampling(8),
            runner=runner,
            workers=workers,
        )
        assert stage_a(settings, as_json=True, dry_run=False) == 3  # two files are no pictures
        (run,) = json.loads(capsys.readouterr().out)["runs"]
        assert (run["items"], run["written"], run["errors"]) == (7, 7, 2)
        gathered.append((tmp_path / runner / f"{MISSION}_stage_a.jsonl").read_bytes())
        rows.append({row["key"]: row for row in read_rows(tmp_path / runner / f"{MISSION}_stage_a.rows.jsonl")})
    assert gathered[0] == gathered[1] and len(gathered[0].splitlines()) == 2
    assert rows[0] == rows[1]
