"""The committed table of the upstream's argument names."""

from __future__ import annotations

import json

from plumbline.config.snapshot import TABLE, render, snapshot
from plumbline.config.upstream import KNOWN, SECTIONS, home, table, upstream_fields


def test_the_table_is_that_of_the_installed_version() -> None:
    fresh = render(snapshot())
    assert TABLE.read_text(encoding="utf-8") == fresh, "run: python -m plumbline.config.snapshot"
    assert json.loads(fresh)["keys"].keys() == table().keys()


def test_the_table_knows_the_resolution_order_of_the_classes() -> None:
    keys = table()
    assert len(keys) > 450
    assert keys["adam_beta2"]["default"] == 0.95  # the upstream's own value, not transformers' 0.999
    assert keys["report_to"]["types"] == ["list[str]"]
    assert keys["learning_rate"]["default"] is None
    assert keys["gkd_logits_topk"]["programs"] == ["rlhf"]
    assert keys["packing"]["programs"] == ["sft", "rlhf"]


def test_choices_come_from_literals_enums_and_registries() -> None:
    keys = table()
    assert set(keys["torch_dtype"]["choices"]) == {"bfloat16", "float16", "float32"}
    assert "cosine_warmup_with_min_lr" in keys["lr_scheduler_type"]["choices"]
    assert "multimodal" in keys["optimizer"]["choices"]
    assert {"lora", "full", "adalora", "boft", "fourierft"} <= set(keys["tuner_type"]["choices"])
    assert keys["save_strategy"]["choices"] == ["no", "steps", "epoch", "best"]


def test_every_described_key_exists_and_has_a_home() -> None:
    assert KNOWN.keys() <= table().keys()
    assert {home(name) for name in upstream_fields()} == {*SECTIONS, "rlhf"}


def test_described_keys_say_something() -> None:
    for name, (doc, _) in KNOWN.items():
        assert doc.endswith("."), name
        assert len(doc) < 120, name
