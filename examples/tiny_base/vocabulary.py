"""The part of the vocabulary that the small base learns, and chats as tokens of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from lessons import DENSE_PROMPTS, LONG_DENSE, LONG_SUMMARY, SUMMARY_PROMPTS, Lesson, dense_answer
from transformers import Qwen2Tokenizer

from plumbline.demo.everyday import LETTERS, everyday_record, plan_everyday
from plumbline.demo.everyday_talk import describe_en, describe_zh, random_exchange, text_exchanges
from plumbline.demo.paint import PAINTERS
from plumbline.demo.recipes import FOCUS
from plumbline.infer.anchors import question_texts
from plumbline.model.qwen_tokenizer import SPECIAL_IDS, VOCAB_SIZE, build_tokenizer, ranks_file, read_ranks
from plumbline.model.tiny import CHAT_TEMPLATE

_SAMPLED = 3000  # scenes in whose answers tokens are looked for
# Words of the first domain: the base can spell them, but has never seen what they mean.
DOMAIN_WORDS = [
    "RRU设备",
    "机柜",
    "接地",
    "地排",
    "端",
    "光纤插头",
    "安装螺丝",
    "尾纤",
    "接地线",
    "紧固件",
    "站点距离",
    "显示完整",
    "只显示部分",
    "爱立信",
    "未拧紧",
    "露铜",
    "复接",
    "生锈",
    "蛇形管",
    "铠装",
    "弯曲半径",
    "合理",
    "不合理",
    "型号",
    "类别",
    "品牌",
    "通过",
    "不通过",
    "理由",
    "无关图片",
    "挡风板安装检查",
    "需要",
    "无需",
    "光模块",
    "线缆",
    "yes",
    "no",
    "ok",
    "true",
    "false",
    "null",
]


@dataclass
class Vocabulary:
    """ids: the tokens that are learned, ascending."""

    ids: list[int]
    tokenizer: Qwen2Tokenizer = field(repr=False)

    @classmethod
    def build(cls) -> Vocabulary:
        """Every token of sampled lessons, of the demonstration, of single bytes and of control marks."""
        tokenizer = build_tokenizer(CHAT_TEMPLATE.read_text(encoding="utf-8"))
        found = set(SPECIAL_IDS.values())
        found |= {rank for token, rank in read_ranks(ranks_file()).items() if len(token) == 1}
        for text in _texts():
            found.update(tokenizer(text)["input_ids"])
        return cls(sorted(found), tokenizer)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def unused(self) -> int:
        """Rows of the full vocabulary that are not learned."""
        return VOCAB_SIZE - len(self)

    @property
    def pad(self) -> int:
        return self.index(SPECIAL_IDS["<|endoftext|>"])

    @cached_property
    def _places(self) -> dict[int, int]:
        return {token: place for place, token in enumerate(self.ids)}

    @cached_property
    def words(self) -> list[str]:
        """Whole pieces of text, one token each, for repeating."""
        texts = [self.tokenizer.decode([token]) for token in self.ids if token not in SPECIAL_IDS.values()]
        return [text.strip() for text in texts if text.strip() and "\ufffd" not in text and text.isprintable()]

    def index(self, token: int) -> int:
        """Row of a token of the full vocabulary; the row of `?` for one that is not learned."""
        return self._places.get(token, self._places[self.tokenizer.encode("?")[0]])

    def encode(self, lesson: Lesson) -> tuple[list[int], list[bool]]:
        """Rows of a chat, and which of them are answers."""
        rows: list[int] = []
        supervised: list[bool] = []

        def add(text: str, is_answer: bool = False) -> None:
            own = [self.index(token) for token in self.tokenizer(text)["input_ids"]]
            rows.extend(own)
            supervised.extend([is_answer] * len(own))

        if lesson.system:
            add(f"<|im_start|>system\n{lesson.system}<|im_end|>\n")
        for number, exchange in enumerate(lesson.exchanges):
            picture = ""
            if number == 0 and lesson.picture is not None:
                count = int(np.prod(lesson.picture.shape[:2])) // 32**2
                picture = f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>"
            add(f"<|im_start|>user\n{picture}{exchange.question}<|im_end|>\n<|im_start|>assistant\n")
            add(f"{exchange.answer}<|im_end|>", is_answer=True)
            add("\n")
        return rows, supervised


def _texts() -> list[str]:
    texts = ["system\nuser\nassistant\n"]
    draw = np.random.default_rng(1)
    for number in range(_SAMPLED):
        scene = plan_everyday(1, number)
        exchanges = [random_exchange(scene, draw) for _ in range(3)]
        texts += [dense_answer(scene), str(everyday_record(scene, "").summary), describe_zh(scene), describe_en(scene)]
        texts += [text for pair in exchanges for text in (pair.question, pair.answer)]
    texts += [text for pair in text_exchanges() for text in (pair.question, pair.answer)]
    texts += [text for prompts in (*DENSE_PROMPTS, *SUMMARY_PROMPTS, LONG_DENSE, LONG_SUMMARY) for text in prompts[:2]]
    texts += ["12加7等于多少?", "What is 12 plus 7?", "19。", "19.", "复述: ", "Repeat: "]
    texts += [f'"文字:{first}{second}"' for first in LETTERS for second in LETTERS + "0123456789"]
    about_pictures, without = question_texts(None)
    return [*texts, *PAINTERS, *DOMAIN_WORDS, FOCUS, "挡风板×1，标签×2", *about_pictures, *without]
