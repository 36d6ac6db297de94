"""`plumbline drift` on the tiny model: the numbers are those of the definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from adapters import make_adapter

from plumbline.data.prompts import default_prompts
from plumbline.evaluate.divergence import divergence
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
    shared, apart = divergence(request, "再见。", engine, engine), divergence(request, "再见。", base, engine)
    assert shared.tokens == apart.tokens and shared.kl == pytest.approx(apart.kl, rel=1e-5)
    assert shared.gain == pytest.approx(apart.gain, rel=1e-4)
    prompt = engine.prompt_ids(request)
    ends = engine.processor.tokenizer("再见。<|im_end|>\n", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *ends]])
    with torch.no_grad():
        logits = [model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double() for model in (base.model, engine.model)]
    q, p = (side.log_softmax(-1) for side in logits)
    assert apart.tokens == len(ends)
    assert apart.kl == pytest.approx(float(F.kl_div(p, q, log_target=True, reduction="sum")), rel=1e-3)
    assert [tokens for tokens, _ in apart.kinds] == [1, 0, len(ends) - 1], "the end mark, and text"
    assert sum(kl for _, kl in apart.kinds) == pytest.approx(apart.kl, rel=1e-5)
    target = torch.tensor(ends)[:, None]
    assert apart.gain == pytest.approx(float((p.gather(1, target) - q.gather(1, target)).sum()), rel=1e-3)
    same = divergence(request, "再见。", base, TransformersEngine(tiny_model))
    assert apart.kl > 1e-3 > 1e-6 > max(same.kl, same.noise)


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
    words += ["--image-root", records[0].parent, "--max-new-tokens", "4", "--page", tmp_path / "drift.html"]
    own = tmp_path / "own.jsonl"
    own.write_text('{"question": "一加一?", "answers": ["二", "2"]}\n', encoding="utf-8")
    code, out, _ = plumbline(*words, "--json", "--tasks", own, "--tasks", records[1])
    result = json.loads(out)
    groups = {"text": 2, "photos": 2, "own": 1, records[1].stem: 2}
    assert {name: task["tasks"] for name, task in result["tasks"].items()} == groups
    assert len(result["cells"]["training"]["vision"]) == 4 and result["cells"]["text"]["vision"] == []
    assert set(result["cells"]["domain"]["by_kind"]) == {"structure", "coordinates", "descriptions"}
    html = (tmp_path / "drift.html").read_text(encoding="utf-8")
    assert "no photo" in html and "<script" not in html and 'class="plane"' in html
    words.append("--no-bundled-tasks")
    assert code == 0 and set(result["cells"]) == {"training", "text", "domain"}
    assert result == json.loads(output.read_text(encoding="utf-8"))
    assert all(cell["kl"]["value"] > 0 for cell in result["cells"].values())
    code, out, _ = plumbline(*words, "--gate", "--margin-kl", "1e-6")
    assert code == 4 and "drifted" in out
    assert plumbline(*words, "--gate", "--margin-kl", "99", "--margin-leak", "1")[0] == 0
    code, _, err = plumbline("drift", tiny_model, tuned, "--anchors", "nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl" in err
