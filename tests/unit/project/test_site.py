"""The documentation as a site: strict links, nothing from another host, every page in llms.txt."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import plumbline

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does; a broken link or anchor fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_public_name_is_described(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    headings = set(re.findall(r'<h2 id="[\w.]*?(\w+)" class="doc', page))
    assert headings == set(plumbline.__all__) - {"__version__"}


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loads = re.compile(
        r'<(?:script|img|iframe)\b[^>]*src="https?:|<link\b[^>]*rel="stylesheet"[^>]*href="https?:|@import'
    )
    assert [path.name for path in site.rglob("*.html") if loads.search(path.read_text(encoding="utf-8"))] == []


def test_llms_txt_names_pages_that_exist(site: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text(encoding="utf-8"))
    assert {"index.html", "TRAINING_GUIDE.html", "zh/quick-start.html", "api.html", "results.html"} <= set(links)
    assert [link for link in links if not (site / link).is_file()] == []


def test_recipes_and_examples_are_shown_whole(site: Path) -> None:
    recipes = (site / "recipes.html").read_text(encoding="utf-8")
    names = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert {name for name in names if f'id="{name}"' in recipes} == names
    assert "custom_op.py" in (site / "examples.html").read_text(encoding="utf-8")


def test_every_page_of_the_folder_is_in_the_navigation() -> None:
    """Decisions are reached by their index."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!python/object/apply:pymdownx.slugs.slugify", "")
    names = re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"]))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not page.startswith("decisions/0")} <= set(names)
