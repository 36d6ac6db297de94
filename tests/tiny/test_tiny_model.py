"""The tiny checkpoint is a real Qwen3-VL in everything but size."""

from __future__ import annotations

import filecmp
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import UserError
from plumbline.model.checkpoints import is_complete
from plumbline.model.qwen_tokenizer import SPECIAL_IDS, VOCAB_SIZE, ranks_file, read_ranks
from plumbline.model.tiny import DEEPSTACK, build_tiny

pytestmark = pytest.mark.slow

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "你好"}],
    [
        {"role": "system", "content": "只输出JSON"},
        {"role": "user", "content": [{"type": "image", "image": "x"}, {"type": "text", "text": "描述图片\n"}]},
    ],
    [
        {"role": "user", "content": [{"type": "image", "image": "x"}, {"type": "image", "image": "x"}]},
        {"role": "assistant", "content": '{"object_1": {}}'},
        {"role": "user", "content": "再来 "},
    ],
]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny_model: Path, tmp_path: Path) -> None:
    again = build_tiny(tmp_path / "again", seed=0)
    names = sorted(path.name for path in tiny_model.iterdir())
    assert filecmp.cmpfiles(tiny_model, again, names, shallow=False) == (names, [], [])
    other = build_tiny(tmp_path / "other", seed=1)
    assert filecmp.cmpfiles(tiny_model, other, names, shallow=False)[1] == ["model.safetensors"]
    assert is_complete(again)
    with pytest.raises(UserError, match="not empty"):
        build_tiny(again)


def test_names_and_ids_are_the_real_ones(tiny_model: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_IDS} == SPECIAL_IDS
    assert SPECIAL_IDS["<|endoftext|>"] == 151643
    assert SPECIAL_IDS["<|image_pad|>"] == 151655
    assert SPECIAL_IDS["</think>"] == 151668
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    config = AutoConfig.from_pretrained(tiny_model)
    assert (config.image_token_id, config.vision_start_token_id) == (151655, 151652)
    assert config.text_config.vocab_size == VOCAB_SIZE == 151936
    assert config.tie_word_embeddings
    assert len(DEEPSTACK) == 3
    assert max(config.vision_config.deepstack_visual_indexes) < config.vision_config.depth - 1
    generation = json.loads((tiny_model / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == ([151645, 151643], 151643)


def test_the_tokenizer_gives_the_ids_of_the_original(tiny_model: Path) -> None:
    import tiktoken
    from transformers import AutoTokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    ranks = read_ranks(ranks_file())
    original = tiktoken.Encoding("qwen", pat_str=PRETOKENIZE_REGEX, mergeable_ranks=ranks, special_tokens={})
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    pieces, draw = list(ranks), random.Random(0)
    texts = ["BBU设备/品牌:华为/型号:5900", '{"object_1": {"bbox_2d": [100, 200, 300, 400]', "a\r\n\n  b\t١٢٣ 0x1F 🛠️"]
    texts += [b"".join(draw.choices(pieces, k=draw.randint(1, 30))).decode("utf-8", "ignore") for _ in range(500)]
    for text in texts:
        normal = unicodedata.normalize("NFC", text)
        assert tokenizer.encode(normal) == original.encode(normal, disallowed_special=())
        assert tokenizer.decode(tokenizer.encode(normal)) == normal


def test_the_chat_template_renders_what_the_upstream_renders(tiny_model: Path) -> None:
    from PIL import Image
    from swift.model import get_model_processor
    from swift.template import get_template
    from transformers import AutoProcessor

    _, upstream_processor = get_model_processor(
        str(tiny_model), model_type="qwen3_vl", load_model=False, trust_remote_code=False
    )
    template = get_template(upstream_processor)
    processor = AutoProcessor.from_pretrained(tiny_model)
    image = Image.new("RGB", (64, 96), "teal")
    for chat in CHATS:
        filled = json.loads(json.dumps(chat))
        pictures = []
        for part in (part for turn in filled if isinstance(turn["content"], list) for part in turn["content"]):
            if part["type"] == "image":
                part["image"] = image
                pictures.append(image)
        text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ours = processor(text=[text], images=pictures or None, do_resize=False)["input_ids"][0]
        assert list(ours) == list(template.encode({"messages": filled})["input_ids"])


@pytest.mark.parametrize("content", [[{"type": "audio"}], [{"type": "text", "txet": "x"}]])
def test_the_chat_template_refuses_what_it_would_drop(tiny_model: Path, content: list[dict[str, str]]) -> None:
    from jinja2 import TemplateError
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model)
    with pytest.raises(TemplateError):
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)


def test_it_loads_whole_and_pictures_change_what_it_says(tiny_model: Path) -> None:
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, info = AutoModelForImageTextToText.from_pretrained(tiny_model, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert 10e6 < sum(parameter.numel() for parameter in model.parameters()) < 12e6
    processor = AutoProcessor.from_pretrained(tiny_model)
    text = processor.apply_chat_template(CHATS[1], tokenize=False, add_generation_prompt=True)
    logits = []
    for colour in ("navy", "gold"):
        inputs = processor(text=[text], images=[Image.new("RGB", (320, 200), colour)], return_tensors="pt")
        assert 4 <= int((inputs["input_ids"] == 151655).sum()) <= 64
        with torch.inference_mode():
            logits.append(model(**inputs).logits[0, -1])
    assert all(bool(row.isfinite().all()) for row in logits)
    assert float((logits[0] - logits[1]).abs().max()) > 0.1


def test_gradients_reach_every_part_at_a_healthy_size(tiny_model: Path) -> None:
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from plumbline.model.parts import part_of

    model = AutoModelForImageTextToText.from_pretrained(tiny_model)
    processor = AutoProcessor.from_pretrained(tiny_model)
    text = processor.apply_chat_template(CHATS[1], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.linear_gradient("L").convert("RGB")], return_tensors="pt")
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    reached = {"llm": 0.0, "vit": 0.0, "aligner": 0.0}
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.bias") or "pos_embed" in name:
            continue  # a bias of keys shifts every score alike; most positions are unused
        assert parameter.grad is not None, name
        norm = float(parameter.grad.norm())
        assert 0 < norm < 1e4, f"{name}: {norm}"
        reached[part_of(name)] = max(reached[part_of(name)], norm)
    assert min(reached.values()) > 1e-3
