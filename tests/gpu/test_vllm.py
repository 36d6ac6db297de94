"""vLLM on a real GPU says what the engine of this process says."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def test_greedy_replies_are_those_of_the_reference(tiny_model, tmp_path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("vllm", reason="vllm is not installed (extra `vllm`)")
    from PIL import Image

    from plumbline.infer.config import Sampling
    from plumbline.infer.engine import Request
    from plumbline.infer.local import TransformersEngine
    from plumbline.infer.vllm import VllmEngine

    sampling = Sampling(16)
    pictures = [Image.new("RGB", (96 + 32 * number, 128), (40 * number, 90, 200)) for number in range(4)]
    requests = [Request(f"p{number}", (image,), "", "描述图片", sampling) for number, image in enumerate(pictures)]
    wanted = {reply.key: reply.text for reply in TransformersEngine(tiny_model, batch_size=4).generate(requests)}
    found = {reply.key: reply.text for reply in VllmEngine(tiny_model, max_length=2048).stream(requests)}
    assert found == wanted
