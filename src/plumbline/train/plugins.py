"""Importing what `custom.plugins` names. It is code of the user's own: a run of somebody else's YAML runs it too."""

from __future__ import annotations

import importlib
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def import_plugin(name: str) -> str:
    """Import a Python file (`a/b.py`, from the working directory) or a module (`a.b`), once per process.

    Returns why it cannot be imported, with the line that failed; empty when it is there.
    """
    try:
        _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except FileNotFoundError:
        return f"{name} does not exist; paths start at the working directory"
    except Exception as error:  # noqa: BLE001  # whatever the user's own code raises
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        place = f" (line {lines[-1].lineno} of {lines[-1].filename})" if len(lines) > 1 else ""
        return f"{name} cannot be imported: {type(error).__name__}: {error}{place}"
    return ""


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(path)
    name = f"plumbline_plugin_{path.resolve().as_posix().strip('/').replace('/', '_').removesuffix('.py')}"
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module_from_spec(spec)  # dataclasses and their docstrings look for it there
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
