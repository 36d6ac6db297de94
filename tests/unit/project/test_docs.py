"""The documentation speaks of files, commands, flags and keys that exist, and shows YAML that passes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from plumbline.cli import app
from plumbline.config.types import AnyOf, Field, ListOf, Section, ValueType
from plumbline.train.config import check_file, root_section

ROOT = Path(__file__).parents[3]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "src" / "plumbline" / "README.md",
]
GUIDES = [page for page in PAGES if "decisions" not in page.parts]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
KEY = re.compile(r"(?<![\w./-])(custom|rlhf|tuner|training|model|template|data|prompts|deepspeed)\.([a-z_]+[a-z])\b")
PATH = re.compile(r"(?<![\w/.-])((?:configs|scripts|docs|tests|src)/[\w./-]*[\w/])")
MODULE = re.compile(r"\bmodel\.(visual|language_model)\b")  # parts of the network, not of the configuration
OWN_NAME = re.compile(r"(^|/)my_\w+\.(yaml|jsonl)$")  # what a reader is told to write


def identity(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def pages(of: list[Path] = PAGES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", of, ids=identity)


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def fences(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text_of(page)) if kind == language]


# ---------------------------------------------------------------------------------------------------------------- links
def slug(title: str) -> str:
    """A heading's anchor as the usual renderers make it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    return {slug(title) for title in re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)}


@pages()
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(file), f"{target}: no such heading"


# ------------------------------------------------------------------------------------------------------------- commands
def command_lines(page: Path) -> Iterator[list[str]]:
    """Every `plumbline ...` of shell blocks and of inline code, as words."""
    shell = "\n".join(fences(page, "bash")).replace("\\\n", " ")
    for line in [*shell.splitlines(), *SPAN.findall(prose_of(page))]:
        found = re.search(r"(?:^|[\s/])(?:plumbline|train\.sh) +(\S.*)$", line)
        if found and line.lstrip().startswith(("plumbline", ".venv", "NPROC", "scripts/", "python")):
            yield (["train"] if "train.sh" in line else []) + shlex.split(found[1], comments=True)


def verb_of(words: list[str]) -> tuple[list[str], list[str]]:
    """(the verb, what follows it)."""
    group = words[0] in ("anchors", "config", "data", "stage-b")
    return words[: 1 + group], words[1 + group :]


def names_of(verb: list[str]) -> set[str]:
    """The flags that a verb knows, none for a group of verbs; KeyError for a verb that does not exist."""
    command = app
    for word in verb:
        command = command[word]
    arguments = command.assemble_argument_collection() if command.default_command else ()
    return {name for argument in arguments for name in argument.names}


@pages(GUIDES)
def test_commands_and_flags_exist(page: Path) -> None:
    for words in command_lines(page):
        if words[0].startswith(("-", ".")):  # `plumbline --help`, `plumbline ...`
            continue
        verb, rest = verb_of(words)
        for choice in verb[-1].split("|"):  # `plumbline config show|diff`
            if choice.startswith("."):
                continue
            try:
                known = names_of([*verb[:-1], choice])
            except KeyError:
                pytest.fail(f"plumbline {' '.join(verb)}: no such verb")
            flags = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert flags <= known, f"plumbline {' '.join(verb)} does not know {sorted(flags - known)}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        shown = re.findall(r"^make ([\w-]+)", "\n".join(fences(page, "bash")), re.MULTILINE)
        named = re.findall(r"`make ([\w-]+)`", text_of(page))
        assert {*shown, *named} <= targets, identity(page)


# --------------------------------------------------------------------------------------------------- files and settings
@pages(GUIDES)
def test_paths_exist(page: Path) -> None:
    for path in PATH.findall(text_of(page)):
        assert (ROOT / path).exists() or OWN_NAME.search(path), path


def settings_below(kind: ValueType) -> set[str]:
    """Keys of a section, nested ones included."""
    if isinstance(kind, AnyOf):
        return set().union(*map(settings_below, kind.options))
    if isinstance(kind, ListOf):
        return settings_below(kind.item)
    if not isinstance(kind, Section):
        return set()
    return {*kind.fields, *(name for item in kind.fields.values() for name in settings_below(item.type))}


@pages()
def test_configuration_keys_exist(page: Path) -> None:
    root: dict[str, Field] = root_section().fields
    for span in SPAN.findall(prose_of(page)):
        if "/" in span or "(" in span or MODULE.search(span):
            continue
        for section, key in KEY.findall(span):
            assert key in settings_below(root[section].type), f"{section}.{key} in `{span}`"


def shown_yaml() -> list[tuple[str, str]]:
    return [(identity(page), body) for page in GUIDES for body in fences(page, "yaml")]


@pytest.mark.parametrize(("page", "body"), shown_yaml(), ids=lambda value: value if value.endswith(".md") else "")
def test_shown_yaml_passes(page: str, body: str, tmp_path: Path) -> None:
    """As written, on top of a recipe; `extends` starts in configs/, where the text says the file lies."""
    file = tmp_path / "shown.yaml"
    file.write_text(re.sub(r"^extends: ", f"extends: {ROOT}/configs/", body, flags=re.MULTILINE), encoding="utf-8")
    checked = check_file(file, ROOT / "configs" / "tiny" / "smoke.yaml")
    assert checked.problems == ()
    assert checked.notes == (), "shown YAML uses today's names"


# ----------------------------------------------------------------------------------------------------------- the tables
def test_every_recipe_is_in_the_readme_with_its_twin() -> None:
    row = re.compile(r"^\| \[(\w+)\]\(configs/\1\.yaml\) .*\(configs/tiny/(\w+)\.yaml\) \|$", re.MULTILINE)
    rows = dict(row.findall(text_of(ROOT / "README.md")))
    recipes = {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"missions", "stage_b_training_free"}
    assert rows == {name: name for name in recipes}


def test_every_decision_is_in_their_index() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\| \[(\d{4})\]\((\1-[\w-]+\.md)\) \|", text_of(folder / "README.md"), re.MULTILINE)
    assert [name for _, name in listed] == sorted(path.name for path in folder.glob("0*.md"))


def test_the_layout_page_names_every_folder_and_every_file_says_what_it_is() -> None:
    package = ROOT / "src" / "plumbline"
    listed = set(re.findall(r"^\| `([\w/]+)/` \|", text_of(package / "README.md"), re.MULTILINE))
    folders = {path.parent.relative_to(package).as_posix() for path in package.rglob("__init__.py")} - {"."}
    assert listed == folders - {"augment/ops", "data/convert"}
    silent = [path for path in package.rglob("*.py") if not text_of(path).startswith('"""')]
    assert [path.relative_to(package).as_posix() for path in silent if text_of(path).strip()] == []


def test_the_readme_tree_names_what_is_there() -> None:
    """Cells are parted by two spaces; a cell without a space is a name below the names above it."""
    tree = next(body for kind, body in FENCE.findall(text_of(ROOT / "README.md")) if not kind)
    parents: list[str] = []
    named: set[str] = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = [cell.rstrip("/") for cell in re.split(r"  +", line.strip()) if " " not in cell]
        parents = [*parents[:depth], names[0]]
        named |= {"/".join([*parents[:depth], name]) for name in names}
    assert {path for path in named if not (ROOT / path).exists()} == set()
    packages = {path.parent for path in (ROOT / "src" / "plumbline").rglob("__init__.py")}
    assert {path.relative_to(ROOT).as_posix() for path in packages} <= named
