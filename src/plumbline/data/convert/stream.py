"""Large JSON files item by item, with damage named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbline.data.read import BOM, open_data
from plumbline.errors import DamagedFileError, Problem
from plumbline.storage.text import printable, shown_path


def json_items(file: Path, prefix: str) -> Iterator[Any]:
    """The items at `prefix` (`annotations.item`, or `item` for a list at the top), numbers as int and float.

    Raises DataError when the file cannot be opened, DamagedFileError where it is no JSON.
    """
    import ijson

    with open_data(file) as stream:
        if stream.read(len(BOM)) != BOM:
            stream.seek(0)
        try:
            yield from ijson.items(stream, prefix, use_float=True)
        except (ijson.JSONError, UnicodeDecodeError, ValueError, RecursionError, OverflowError) as error:
            first = str(error).partition("\n")[0]
            what = f"is not JSON: {printable(first)[:200]}"
            raise DamagedFileError(Problem(shown_path(file), what, "export it again, or copy it again")) from error
