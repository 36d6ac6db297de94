"""What words mean, without a model: faults, doubt, absence; phrases, and how much of one is in a text.

Chinese is written without spaces, so texts are compared by their pairs of neighbouring characters (bigrams).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

TREATED = 0.5
"""A text treats a phrase when it has this share of its bigrams: 接地螺丝 treats 机柜处接地螺丝, 螺丝 does not."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class Wording:
    """Words by meaning; a domain adds its own.

    fault: something does not comply. cleared: phrases that hold such a word and say that nothing is wrong. unsure: the
    photo does not show it. absent: something is not there. filler: separates phrases, means nothing. seen: a focus asks
    for no more than that a thing is there. complying: what a focus asks of a thing.
    """

    fault: tuple[str, ...] = _words(
        "不符合 不合 不整齐 不正确 不完整 不规范 未 缺失 缺少 没有 错误 无保护 松动 松脱 脱落 散乱 破损 生锈"
    )
    cleared: tuple[str, ...] = _words(
        "未发现异常 未见异常 未发现问题 没有问题 没有异常 没有缺失 无异常 无问题 无缺失 "
        "品牌未显示完整 未显示完整 显示不完整 未完全显示"
    )
    unsure: tuple[str, ...] = _words("无法识别 无法判断 无法确认 看不清 模糊 无关图片")
    absent: tuple[str, ...] = _words("缺失 缺少 没有 未安装 未见 未发现 看不到")
    filler: tuple[str, ...] = _words(
        "需要 必须 应当 应该 是否 如果 至少 检查 判断 以及 并且 或者 图片 因为 所以 因此 "
        "且 和 与 及 或 的 应 需 均 都 已 则 若"
    )

    seen: tuple[str, ...] = _words("看到 看见 可见 拍到")
    complying: tuple[str, ...] = _words(
        "符合要求 符合规范 捆扎整齐 整齐 正确 合理 完好 牢固 有保护措施 能够识别 可以识别 要求安装 安装时 安装"
    )

    def names_fault(self, text: str) -> bool:
        """Whether a text says that something does not comply."""
        for phrase in self.cleared:
            text = text.replace(phrase, "")
        return holds(text, self.fault)

    def kinds(self, focus: str) -> tuple[str, ...]:
        """The things that a focus asks about: its phrases without what they must comply with.

        What need only be seen, and what is in brackets, is no such thing.
        """
        bare = re.sub(r"[（(][^（）()]*[）)]", "", focus)
        phrases = (part for part in self.phrases(bare) if not holds(part, self.seen))
        return tuple(dict.fromkeys(thing for thing in map(self._thing, phrases) if len(thing) >= 2))

    def _thing(self, phrase: str) -> str:
        """A phrase of a focus without the requirement on the thing: BBU安装螺丝符合要求 is about BBU安装螺丝."""
        for word in self.complying:
            phrase = phrase.removeprefix(word).removesuffix(word)
        return phrase

    def phrases(self, text: str) -> tuple[str, ...]:
        """The phrases of a text that mean something, each once: two characters or more between marks and fillers."""
        return tuple(dict.fromkeys(part for part in _splitter(self.filler).split(text) if len(part) >= 2))


@lru_cache(maxsize=16)
def _splitter(filler: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(re.escape(word) for word in sorted(filler, key=len, reverse=True))
    return re.compile(rf"(?:[\W\d_]|×|{words})+")


def holds(text: str, words: Iterable[str]) -> bool:
    """Whether one of the words is in the text."""
    return any(word in text for word in words)


def bigrams(text: str) -> frozenset[str]:
    """The pairs of neighbouring characters of a text."""
    return frozenset(text[place : place + 2] for place in range(len(text) - 1))


def treats(phrase: str, pairs: frozenset[str]) -> bool:
    """Whether a text, given by its bigrams, treats a phrase."""
    wanted = bigrams(phrase)
    return len(wanted & pairs) >= TREATED * len(wanted) > 0
