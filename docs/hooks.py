"""Pages that the site makes from files elsewhere in the repository, and `llms.txt`."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
OUTSIDE = {
    "examples/README.md": "examples.md",
    "benchmarks/README.md": "benchmarks.md",
    "src/plumbline/README.md": "source.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that live outside `docs/`, and their names in the site."""

DEMO = ROOT / "output" / "demo"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    made = {
        **{name: _moved(ROOT / source) for source, name in OUTSIDE.items()},
        "api.md": _api(),
        "gallery.md": _gallery(),
        "recipes.md": _recipes(),
        "results.md": _results(),
    }
    made["examples.md"] += _examples()
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the pages in `docs/` to files outside it lead to the pages made of them."""
    source = page.file.abs_src_path
    return _relinked(markdown, Path(source).parent) if source else markdown


def on_post_build(config: MkDocsConfig) -> None:
    """The demonstration's pages, as they are, next to the gallery."""
    for found in _demo_pages():
        target = Path(config.site_dir) / "demo" / found.relative_to(DEMO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, target)


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """`llms.txt`: every page with its address, for readers that are programs."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for item in nav.items:
        lines += ["", f"## {item.title}", ""]
        lines += [f"- [{page.title}]({page.file.url})" for page in ([item] if item.is_page else item.children or [])]
    files.append(File.generated(config, "llms.txt", content="\n".join(lines) + "\n"))
    return nav


def _moved(source: Path) -> str:
    return _relinked(source.read_text(encoding="utf-8"), source.parent)


def _relinked(markdown: str, folder: Path) -> str:
    """Relative links from `folder` as links between pages of the site; what has no page is named by its path."""
    in_docs = folder.is_relative_to(ROOT / "docs")
    depth = "../" * len(folder.relative_to(ROOT / "docs").parts) if in_docs else ""

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = (folder / target).resolve()
        if "://" in target or (in_docs and path.is_relative_to(ROOT / "docs")):
            return found[0]
        name = path.relative_to(ROOT).as_posix()
        if name in OUTSIDE:
            return f"[{text}]({depth}{OUTSIDE[name]}{anchor})"
        if path.is_relative_to(ROOT / "docs"):
            return f"[{text}]({name.removeprefix('docs/')}{anchor})"
        return text if text in (name, path.name) else f"{text} (`{name}`)"

    return LINK.sub(link, markdown)


def _examples() -> str:
    parts = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        parts += [f"\n## {path.name}\n", "```python", path.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(parts)


def _api() -> str:
    """The names that `plumbline` exports, read without importing it."""
    tree = ast.parse((ROOT / "src" / "plumbline" / "__init__.py").read_text(encoding="utf-8"))
    table = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_PUBLIC"
    )
    names: dict[str, tuple[str, str]] = ast.literal_eval(table)
    intro = "# Python\n\nImport these from `plumbline`; they are loaded when first used.\n\n"
    return intro + "\n\n".join(f"::: {module}.{name}" for module, name in names.values()) + "\n"


def _recipes() -> str:
    parts = ["# Recipes\n\n`plumbline config new NAME -o FILE` starts your own configuration from one of these.\n"]
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        parts.append(f"## {path.stem}\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n")
    return "\n".join(parts)


def _results() -> str:
    """A table per kept measurement; nested values as one row each."""
    parts = ["# Measured\n\nMade from `benchmarks/results/`; each figure names its command, date and hardware.\n"]
    kept = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    for path in kept:
        made = json.loads(path.read_text(encoding="utf-8"))
        title = Path(made["command"].split()[1]).stem
        where = f"`{made['command']}`, {made['date']}, {made['hardware']}, commit {made['commit']}"
        rows = "\n".join(f"| {name} | {value} |" for name, value in _flat(made["figures"]))
        parts.append(f"## {title}, {made['hardware']}\n\n{where}\n\n| figure | value |\n|---|---|\n{rows}\n")
    return "\n".join(parts if kept else [*parts, "Nothing is kept yet.\n"])


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _flat(item, f"{name}.{key}" if name else key)]
    return [(name, f"{value:,.4g}" if isinstance(value, float) else str(value).replace("|", "\\|"))]


def _demo_pages() -> list[Path]:
    return sorted(DEMO.rglob("*.html")) if DEMO.is_dir() else []


def _gallery() -> str:
    intro = "# Gallery\n\nWhat the product writes, made by `make demo` on a tiny model.\n\n"
    picture = "![Annotation next to the trained model's answer, and the loss curves](images/demo.png)\n\n"
    found = [path.relative_to(DEMO).as_posix() for path in _demo_pages()]
    pages = "\n".join(f'- <a href="demo/{name}">{name}</a>' for name in found)
    return intro + picture + (pages or "Run `make demo`, then `make site`: its reports are shown here.") + "\n"
