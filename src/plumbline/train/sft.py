"""Plain supervised fine-tuning: upstream's trainer with our step."""

from __future__ import annotations

from plumbline.model.upstream import Seq2SeqTrainer
from plumbline.train.step import StepMixin


class SftTrainer(StepMixin, Seq2SeqTrainer):
    """Cross-entropy over the supervised rows."""
