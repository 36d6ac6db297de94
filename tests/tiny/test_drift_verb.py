"""`plumbline drift` on the tiny model: the numbers are those of the definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from adapters import make_adapter

from plumbline.data.prompts import default_prompts
from plumbline.evaluate.drift import divergence
from plumbline.infer.engine import Request
from plumbline.infer.local import TransformersEngine
from plumbline.model.checkpoints import Card, mark_complete

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_adapter(tiny_model, tmp_path_factory.mktemp("tuned") / "checkpoint-3", "lora", size=0.1)
    Card("norm1000", default_prompts(), "dense", "top_left", "qwen3_vl", 4096).write(folder)
    mark_complete(folder)
    return folder


@pytest.fixture
def anchors(tmp_path: Path, records) -> Path:
    """Two questions without a picture and one about a training photo."""
    image = json.loads(records[0].read_text(encoding="utf-8").splitlines()[0])["images"][0]
    picture = {"type": "image", "image": str((records[0].parent / image).resolve())}
    rows = []
    for mark, content in (
        ("text", "一加一?"),
        ("text", "你好"),
        ("training", [picture, {"type": "text", "text": "几个?"}]),
    ):
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "两个。"}]
        rows.append({"messages": turns, "metadata": {"anchor": mark}})
    path = tmp_path / "anchors.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_divergence_is_that_of_the_definition_on_either_way(tiny_model: Path, tuned: Path) -> None:
    """Adapters on and off in one engine, two engines, and full logits through transformers."""
    request = Request("k", (), "", "你好")
    base, engine = TransformersEngine(tiny_model), TransformersEngine(tiny_model, tuned)
    tokens, shared = divergence(request, "再见。", engine, engine)
    assert (tokens, pytest.approx(shared, rel=1e-5)) == divergence(request, "再见。", base, engine)
    prompt = engine.prompt_ids(request)
    ends = engine.processor.tokenizer("再见。<|im_end|>\n", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *ends]])
    with torch.no_grad():
        logits = [model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double() for model in (base.model, engine.model)]
    q, p = (side.log_softmax(-1) for side in logits)
    assert tokens == len(ends) and shared == pytest.approx(
        float(F.kl_div(p, q, log_target=True, reduction="sum")), rel=1e-3
    )
    assert shared > 1e-3
    assert divergence(request, "再见。", base, TransformersEngine(tiny_model))[1] == pytest.approx(0, abs=1e-6)


def test_the_command_measures_every_cell_and_gates(tiny_model, tuned, anchors, records, plumbline, tmp_path) -> None:
    output = tmp_path / "drift.json"
    words = [
        "drift",
        tiny_model,
        tuned,
        "--anchors",
        anchors,
        "--domain",
        records[1],
        "--limit",
        "2",
        "--output",
        output,
    ]
    words += ["--image-root", records[0].parent, "--max-new-tokens", "4"]
    code, out, _ = plumbline(*words, "--json")
    result = json.loads(out)
    assert code == 0 and set(result["cells"]) == {"training", "text", "domain"}
    assert result == json.loads(output.read_text(encoding="utf-8"))
    assert all(cell["kl"]["value"] > 0 for cell in result["cells"].values())
    code, out, _ = plumbline(*words, "--gate", "--margin-kl", "1e-6")
    assert code == 4 and "drifted" in out
    assert plumbline(*words, "--gate", "--margin-kl", "99", "--margin-leak", "1")[0] == 0
    code, _, err = plumbline("drift", tiny_model, tuned, "--anchors", "nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl" in err
