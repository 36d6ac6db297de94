"""Plumbline: fine-tune Qwen3-VL from YAML, keep it true to its base model, and use what was trained."""

__version__ = "0.1.0"
