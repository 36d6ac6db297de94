"""Files that ship with the package: recipes, prompts, missions."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def shipped(name: str = "") -> Path:
    """A file or folder that ships, by its path below `configs/`."""
    packed = _PACKAGE / "recipes"
    return (packed if packed.is_dir() else _PACKAGE.parents[1] / "configs") / name


def or_shipped(path: Path, default: Path) -> Path:
    """`path`; where it is the default and not there, what ships in its place."""
    return shipped(default.name) if path == default and not path.exists() else path
