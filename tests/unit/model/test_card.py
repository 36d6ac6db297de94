"""`plumbline.json`: what is written is read back, anything else is refused with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plumbline.data.prompts import default_prompts
from plumbline.errors import DamagedFileError, UserError
from plumbline.model.checkpoints import CARD_FILE, Card


def make_card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "emit_norm": "norm1000",
        "prompts": default_prompts(),
        "mode": "dense",
        "object_ordering": "top_left",
        "template": "qwen3_vl",
        "max_length": 4096,
        "max_pixels": None,
    }
    return Card(**values | changes)


@pytest.mark.parametrize(
    "changes",
    [{}, {"emit_norm": "none", "mode": "summary"}, {"mode": "mixed", "max_length": None, "max_pixels": 65536}],
)
def test_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    card = make_card(**changes)
    card.write(tmp_path)
    assert Card.read(tmp_path) == card
    assert [path.name for path in tmp_path.iterdir()] == [CARD_FILE]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"emit_norm": "norm10"}, "emit_norm must be one of none, norm100, norm1000"),
        ({"mode": "both"}, "mode must be one of"),
        ({"max_length": True}, "max_length must be a positive integer"),
        ({"max_pixels": 0}, "max_pixels must be a positive integer"),
        ({"template": ""}, "template must be a name"),
        ({"prompts": {"system_dense": "x"}}, "prompts must be Prompts"),
    ],
)
def test_a_wrong_value_never_becomes_a_card(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make_card(**changes)


def test_no_card_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no card"):
        Card.read(tmp_path)


def spoil(**changes: Any) -> dict[str, Any]:
    content = json.loads(
        json.dumps({"schema": 1, "emit_norm": "norm1000", "mode": "dense", "object_ordering": "top_left"})
    )
    content |= {"prompts": default_prompts().as_dict(), "template": "qwen3_vl", "max_length": 1}
    return {key: value for key, value in (content | changes).items() if value != "REMOVE"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (json.dumps(spoil(schema=2)), "the schema is not 1"),
        (json.dumps(spoil(schema="REMOVE")), "the schema is not 1"),
        (json.dumps(spoil(colour="red")), "unknown keys: 'colour'"),
        (json.dumps(spoil(template="REMOVE")), "template"),
        (json.dumps(spoil(emit_norm=["norm1000"])), "emit_norm must be"),
        (json.dumps(spoil(prompts={"system_dense": "x"})), "user_dense"),
        (
            json.dumps(spoil(prompts={"system_dense": 1, "user_dense": "", "system_summary": "", "user_summary": ""})),
            "string",
        ),
        (json.dumps(spoil(prompts=["a"])), "Prompts"),
        (json.dumps(spoil(prompts=None)), "Prompts"),
        ("[]", "not a JSON object"),
        ("{", "cannot be read"),
        ('{"schema": 1, "schema": 1}', "a key occurs twice"),
        ("[" * 100_000, "cannot be read"),
        ("\ud800", "cannot be read"),
        (" " * (5 << 20), "longer than"),
    ],
)
def test_hostile_or_broken_cards_are_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / CARD_FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DamagedFileError, match=what):
        Card.read(tmp_path)
