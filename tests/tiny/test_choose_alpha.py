"""`plumbline merge --alpha auto`: the curve is that of merged models, and the choice keeps the budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from adapters import make_adapter

from plumbline.data.prompts import default_prompts
from plumbline.errors import UserError
from plumbline.evaluate.choose_alpha import AlphaPoint, alpha_points, choose_alpha
from plumbline.evaluate.divergence import divergence
from plumbline.evaluate.drift import read_probes
from plumbline.infer.engine import Request
from plumbline.infer.local import TransformersEngine
from plumbline.model.checkpoints import Card, is_complete, mark_complete
from plumbline.model.merge import merge

pytestmark = pytest.mark.slow


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    folder = make_adapter(tiny_model, tmp_path / "checkpoint-3", "lora", size=0.1)
    Card("norm1000", default_prompts(), "dense", "top_left", "qwen3_vl", 4096).write(folder)
    mark_complete(folder)
    return folder


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    path = tmp_path / "probe.jsonl"
    turns = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": "好的。"}] for text in ("你好", "再见")
    ]
    rows = [{"messages": turn, "metadata": {"anchor": "text"}} for turn in turns]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_best_within_the_budget_is_chosen() -> None:
    points = [
        AlphaPoint(0.2, 0.01, 3.0),
        AlphaPoint(0.4, 0.03, 2.0),
        AlphaPoint(0.6, 0.04, 2.5),
        AlphaPoint(0.8, 0.2, 1.0),
    ]
    assert choose_alpha(points, 0.05) is points[1]
    assert choose_alpha(points, 1.0) is points[3] and choose_alpha(points, 0.001) is None


def test_the_curve_is_that_of_merged_models(tiny_model, adapter, probe, records, tmp_path) -> None:
    probes = read_probes(probe, records[1], Card.read(adapter))
    engine = TransformersEngine(tiny_model, adapter)
    half, whole = alpha_points(engine, probes, (0.5, 1.0))
    assert 0 < half.drift < whole.drift and half.loss > 0
    merge(adapter, tmp_path / "half", alpha=0.5)
    base, merged = TransformersEngine(tiny_model), TransformersEngine(tmp_path / "half")
    measured = [divergence(Request("k", (), "", p.question.text), p.answer, base, merged) for p in probes[:2]]
    tokens, kl = sum(each.tokens for each in measured), sum(each.kl for each in measured)
    assert half.drift == pytest.approx(kl / tokens, rel=1e-3)
    again = alpha_points(engine, probes, (1.0,))[0]
    assert again.drift == pytest.approx(whole.drift, rel=1e-6), "the adapter is as it was"


def test_adapters_that_do_not_grow_with_a_factor_are_refused(tiny_model, probe, records, tmp_path) -> None:
    folder = make_adapter(tiny_model, tmp_path / "dora", "dora", size=0.1)
    engine = TransformersEngine(tiny_model, folder)
    with pytest.raises(UserError, match="does not grow with one factor"):
        alpha_points(engine, read_probes(probe, None, CARD))


CARD = Card("norm1000", default_prompts(), "dense", "top_left", "qwen3_vl", None)


def test_the_command_merges_what_it_chose(adapter, probe, records, plumbline, tmp_path) -> None:
    words = ["merge", "--adapter", adapter, "--output", tmp_path / "merged", "--alpha", "auto", "--no-verify"]
    files = ["--probe", probe, "--domain", records[1]]
    code, out, err = plumbline(*words, *files, "--drift-budget", "99", "--json")
    assert code == 0 and 0 < json.loads(out)["alpha"] <= 1 and "chosen" in err
    assert is_complete(tmp_path / "merged")
    code, _, err = plumbline(*words, "--overwrite", *files, "--drift-budget", "1e-9")
    assert code == 4 and "above the budget" in err
    code, _, err = plumbline(*words, "--overwrite")
    assert code == 2 and "give --probe" in err
    code, _, err = plumbline("merge", "--adapter", adapter, "--output", tmp_path / "m", "--alpha", "much")
    assert code == 2 and "not numbers" in err
