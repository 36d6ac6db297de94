"""Fixtures for every test; torch is imported only where a fixture that needs it is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, built once per session, also when the session runs in several processes."""
    from filelock import FileLock

    from plumbline.model.tiny import build_tiny

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = shared / "tiny-model"
    with FileLock(shared / "tiny-model.lock"):
        return folder if folder.exists() else build_tiny(folder)
