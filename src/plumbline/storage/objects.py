"""JSON objects from files that may be hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plumbline.errors import DamagedFileError, Problem

JsonObject = dict[str, Any]
"""What a JSON object becomes: plain values by name."""

MAX_JSON_BYTES = 4 << 20


def read_json_object(path: Path, limit: int = MAX_JSON_BYTES) -> JsonObject:
    """A JSON object from a file that may be hostile: its size is capped, duplicate keys are refused."""

    def once(pairs: list[tuple[str, Any]]) -> JsonObject:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise ValueError("a key occurs twice")
        return content

    try:
        if path.stat().st_size > limit:
            raise ValueError(f"it is longer than {limit} bytes")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(Problem(str(path), f"cannot be read: {error}")) from error
    return content
