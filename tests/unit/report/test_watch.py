"""`plumbline watch`: what runs have different, pages that follow them, and nothing else on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from test_runs import write_run_folder

from plumbline.report.serving import HEADERS
from plumbline.report.watch import POLICY, watch_app

HOSTILE = "<script>document.title='owned'</script>"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, rate in (("low", 1e-4), ("high", 1e-3)):
        folder = write_run_folder(tmp_path / name, 3, 3 if name == "low" else 9, **{"eval/loss": 1.0})
        training = {"learning_rate": rate, "seed": 1, "output_dir": name}
        settings = {"training": training, "model": {"model": HOSTILE}}
        (folder / "resolved.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return tmp_path


@pytest.fixture
def client(runs: Path) -> TestClient:
    return TestClient(watch_app([runs]), base_url="http://127.0.0.1:8000")


def test_runs_stand_side_by_side_with_only_what_differs(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["Refresh"] == "15"
    assert {**HEADERS, "Content-Security-Policy": POLICY}.items() <= {
        name: page.headers.get(name) for name in (*HEADERS, "Content-Security-Policy")
    }.items()
    differences = page.text.partition('id="differences"')[2]
    assert "training.learning_rate" in differences and "0.0001" in differences
    assert "training.seed" not in differences and "output_dir" not in differences
    assert "3 of 9 steps" in page.text and "finished" in page.text and page.text.count("<svg") == 2


def test_each_run_has_its_own_page_and_a_run_that_begins_later_is_found(client: TestClient, runs: Path) -> None:
    write_run_folder(runs / "later", 1, 5)
    page = client.get("/").text
    links = [part.partition('"')[0] for part in page.split('href="')[1:]]
    assert len(links) == 3
    for link in links:
        answer = client.get(link)
        assert answer.status_code == 200 and "<script" not in answer.text
    assert client.get("/run/0123456789abcdef").status_code == 404
    assert client.get("/run/..%2f..%2fetc%2fpasswd").status_code == 404


def test_hostile_settings_and_damaged_files_stay_text(client: TestClient, runs: Path) -> None:
    (runs / "low" / "resolved.yaml").write_text("model: {model: '<b>x</b>'}\n", encoding="utf-8")
    page = client.get("/").text
    assert "<script" not in page and "&lt;script" in page and "<b>x" not in page
    (runs / "low" / "resolved.yaml").write_text("a: [", encoding="utf-8")
    answer = client.get("/")
    assert answer.status_code == 500 and "resolved.yaml" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


def test_other_names_of_this_machine_are_refused(client: TestClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_the_same_page_as_a_file(runs: Path, plumbline, tmp_path: Path) -> None:
    output = tmp_path / "out" / "runs.html"
    code, _, err = plumbline("watch", runs, "--output", output)
    assert code == 0, err
    text = output.read_text("utf-8")
    assert "training.learning_rate" in text and "http" not in text.partition("<main")[2] and "href=" not in text
    (tmp_path / "empty").mkdir()
    code, _, err = plumbline("watch", tmp_path / "empty", "--output", output)
    assert code == 2 and "holds no run" in err
