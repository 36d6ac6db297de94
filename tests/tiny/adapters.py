"""Real adapters on the tiny model, with random weights, so that they change every logit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT = r".*language_model.*\.(q_proj|v_proj|down_proj)$"
TEXT_AND_MERGER = r".*(language_model.*\.(q_proj|v_proj|down_proj)|visual\.merger\.linear_fc1)$"
KINDS = (
    "lora",
    "dora",
    "rslora",
    "adalora",
    "boft",
    "fourierft",
    "merger_copies",
    "only_copies",
    "lm_head",
    "head_copy",
)
TOUCHES_EMBEDDINGS = {"lm_head", "head_copy"}


def config_of(kind: str) -> Any:
    """The PEFT configuration behind a name of KINDS."""
    from peft import AdaLoraConfig, BOFTConfig, FourierFTConfig, LoraConfig

    from plumbline.model.parts import aligner_modules

    lora = {"r": 4, "lora_alpha": 8}
    copies = list(aligner_modules(3))
    return {
        "lora": lambda: LoraConfig(**lora, target_modules=TEXT_AND_MERGER),
        "dora": lambda: LoraConfig(**lora, target_modules=TEXT_AND_MERGER, use_dora=True),
        "rslora": lambda: LoraConfig(**lora, target_modules=TEXT_AND_MERGER, use_rslora=True),
        "adalora": lambda: AdaLoraConfig(init_r=8, target_r=4, total_step=10, target_modules=TEXT_AND_MERGER),
        "boft": lambda: BOFTConfig(boft_block_size=4, target_modules=TEXT_AND_MERGER),
        "fourierft": lambda: FourierFTConfig(n_frequency=50, scaling=30.0, target_modules=TEXT_AND_MERGER),
        "merger_copies": lambda: LoraConfig(**lora, target_modules=TEXT, modules_to_save=copies),
        "only_copies": lambda: LoraConfig(**lora, target_modules="dummy-target-modules", modules_to_save=copies),
        "lm_head": lambda: LoraConfig(**lora, target_modules=r"(lm_head|.*language_model.*\.q_proj)$"),
        "head_copy": lambda: LoraConfig(**lora, target_modules=TEXT, modules_to_save=["lm_head"]),
    }[kind]()


def make_adapter(model: Path, folder: Path, kind: str = "merger_copies", size: float = 0.05) -> Path:
    """Save an adapter of a kind, every trainable tensor moved by noise of standard deviation `size`."""
    import torch
    from peft import get_peft_model

    from plumbline.model.loading import load_model

    wrapped = get_peft_model(load_model(model, dtype="float32"), config_of(kind))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder)
    return folder
