"""JSON Schema (draft 2020-12) of a Section, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from plumbline.config.types import Section


def json_schema(section: Section, title: str) -> dict[str, Any]:
    """The schema with every nested section under `$defs`."""
    defs: dict[str, Any] = {}
    section.schema(defs)
    root = defs.pop(section.name)
    for name, item in root["properties"].items():
        if "$ref" in item:  # a section with nothing under it says nothing
            root["properties"][name] = {"anyOf": [{"$ref": item.pop("$ref")}, {"type": "null"}], **item}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **root, "$defs": defs}
