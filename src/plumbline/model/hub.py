"""Names of models on a hub: recognised against paths, downloaded where a run wants that."""

from __future__ import annotations

import re
from pathlib import Path

from plumbline.errors import Problem, UserError

EXAMPLE = "Qwen/Qwen3-VL-4B-Instruct"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_LISTED = 5


def is_hub_name(text: str) -> bool:
    """Whether `text` is `owner/name` of a hub: one slash, and its first part is no folder here."""
    return bool(_NAME.fullmatch(text)) and not Path(text.partition("/")[0]).exists()


def missing_model(text: str) -> tuple[str, str]:
    """(what a text that names no folder here is, what to do about it)."""
    if is_hub_name(text):
        folder = f"models/{text.partition('/')[2]}"
        what = "is the name of a model on a hub, and no folder here"
        return what, f"download it, then name {folder}: {download_command(text, folder)}"
    near = next(parent for parent in Path(text).absolute().parents if parent.is_dir())
    there = sorted(entry.name for entry in near.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    names = ", ".join(there[:_LISTED]) + (", ..." if len(there) > _LISTED else "") if there else "no folder"
    fix = f"correct it ({near} has {names}), or download a model: {download_command(EXAMPLE, text)}"
    return "no such folder", fix


def download_command(name: str, folder: str) -> str:
    """The commands that put a model into a folder, one per hub."""
    return f"hf download {name} --local-dir {folder} (or modelscope download --model {name} --local_dir {folder})"


def downloaded(name: str, *, only_local: bool) -> Path:
    """The folder of a model of the hub, downloaded into Hugging Face's cache unless it is there.

    only_local: look in the cache alone. Raises UserError where it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=only_local, ignore_patterns=["*.bin", "*.pth", "*.pt"]))
    except Exception as error:  # of the network, the hub and the disk: the library has dozens of kinds
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        what = "is not in the cache of downloads" if only_local else f"cannot be downloaded: {text[:300]}"
        raise UserError(Problem(name, what, download_command(name, f"models/{name.partition('/')[2]}"))) from error
