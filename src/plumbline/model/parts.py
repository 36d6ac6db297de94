"""Which part of Qwen3-VL a parameter or module belongs to, whatever tuner has wrapped it.

The three parts are those of the freezing switches: the vision encoder (`vit`: blocks, patch embedding, position
embedding), the projectors (`aligner`: the merger and every deepstack merger), and the language model (`llm`: everything
else, `lm_head` included). Names may carry PEFT's prefixes and infixes (`base_model.model.`, `.base_layer`,
`.lora_A.default`, `.modules_to_save.default`, `.original_module`); they never hide the part.
"""

from __future__ import annotations

from typing import Literal

Part = Literal["vit", "aligner", "llm"]

PARTS: tuple[Part, ...] = ("llm", "vit", "aligner")

VIT = ("model.visual",)
ALIGNER = ("model.visual.merger", "model.visual.deepstack_merger_list")
LLM = ("model.language_model", "lm_head")

WRAPPERS = ("base_model.model.", "module.", "_orig_mod.")


def plain_name(name: str) -> str:
    """Drop what PEFT, DDP and `torch.compile` put in front: `base_model.model.model.visual...` -> `model.visual...`."""
    while prefix := next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), None):
        name = name.removeprefix(prefix)
    return name


def part_of(name: str) -> Part:
    """Part of a parameter or module name of Qwen3-VL.

    Raises ValueError for a name of another architecture: guessing a part would freeze or train the wrong tensors.
    """
    plain = plain_name(name)
    for part, prefixes in (("aligner", ALIGNER), ("vit", VIT), ("llm", LLM)):
        if any(plain == prefix or plain.startswith(f"{prefix}.") for prefix in prefixes):
            return part  # type: ignore[return-value]
    raise ValueError(f"{name!r} is not a parameter of Qwen3-VL: it starts with none of {', '.join((*VIT, *LLM))}")


def aligner_modules(deepstack: int) -> tuple[str, ...]:
    """Names for `modules_to_save`: the merger and each of `deepstack` deepstack mergers, never their list."""
    return (ALIGNER[0], *(f"{ALIGNER[1]}.{index}" for index in range(deepstack)))
