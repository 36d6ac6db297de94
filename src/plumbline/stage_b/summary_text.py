"""A summary is what a model wrote about a photo that anybody took: untrusted text, cleaned and flagged.

What could act on a chat template or a terminal is removed. What only reads like an instruction stays, because a label
in the photo may say it; the ticket is flagged, so that a person looks at it.
"""

from __future__ import annotations

import re
import unicodedata

from plumbline.data.summary_items import items_of, read_statistics

MAX_SUMMARY = 2000
"""Characters of a summary that are read; Stage-A's one line of 2,048 tokens at most rarely has 300."""

CUT = "cut"
CONTROL = "control characters"
ROLE_TOKEN = "role token"
ROLE_HEAD = "role head"
OVERRIDE = "instruction"
VERDICT = "verdict"
MARKUP = "markup"

_TOKEN = re.compile(
    r"[<＜]\s*[|｜][^<>＜＞]{0,64}[|｜]\s*[>＞]|</?\s*(?:s|think|tool_call|tool_response)\s*>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)
_TOKEN_BEGINS = re.compile(r"[<＜\[]")
_HEAD = re.compile(
    r"^[\s#>*\-]*(?:(?:system|assistant|user|human|developer|tool)\s*(?:prompt|message)?|系统(?:提示)?|助手|用户)\s*[:：]",
    re.IGNORECASE,
)
_HIDDEN = ("Cc", "Cf", "Co", "Cs", "Cn")
_SPACES = "\n\r\t\u2028\u2029"
_SQUEEZED = (
    (
        OVERRIDE,
        re.compile(
            r"(?:ignore|disregard|forget|override|bypass)(?:all|any|the|your|everything|every|of|these|my)*"
            r"(?:previous|above|prior|earlier|preceding|before|instruction|rule|guidance)"
            r"|youarenow|newinstruction|systemprompt|developermode|jailbreak|donotfollow|endofprompt"
            r"|(?:answer|reply|respond|output|say|return|print|write)(?:only|just|with|exactly|directly|the|word)+"
            r"|(?:忽略|无视|忘记|忽视|跳过|不要理会|不要遵守|不必遵守|不用管|别管)(?:掉|了)?"
            r"(?:以上|上述|上面|前面|之前|先前|此前|所有|一切|全部|任何|规则|指令|指示|要求|提示)"
            r"|(?:请|务必|必须|只需|直接)(?:直接|只|仅)?(?:判定|判断|判为|输出|回答|回复|给出|返回)"
            r"|(?:你现在是|现在你是|你是一个|你的任务|新的?指令|系统提示|系统指令|管理员要求|开发者模式)"
        ),
    ),
    (
        VERDICT,
        re.compile(r"不?通过|判(?:定|断|为){0,2}(?:不?合格|pass|fail)|verdict|approve|(?:must|should)pass|passthis"),
    ),
    (
        MARKUP,
        re.compile(r"[{}]|```|理由:|[\"'](?:role|content|verdict|reason)[\"']|</?(?:script|img|iframe|system)"),
    ),
)


_RUNS_THROUGH = re.compile(
    r"(?<=[一-鿿])(?<![核定断查证以应可请该单论接不均全已])通过(?=[一-鿿A-Za-z0-9]{0,7}?"
    r"(?:管|槽|孔|架|柜|板|口|井|箱|环|扣|套|道|桥|夹|器))"
)
"""A thing, 通过, and within the same words what it runs through; 审核通过 and the like are none."""


def clean_summary(text: str) -> tuple[str, tuple[str, ...]]:
    """(the text on one line, why it is suspicious, each reason once).

    Removed: special tokens, role names at the head of a line, control, format and bidi characters, what is beyond
    MAX_SUMMARY. Cleaning what is clean changes nothing.
    """
    reasons = []
    if len(text) > MAX_SUMMARY:
        reasons.append(f"{CUT}: {len(text) - MAX_SUMMARY} characters left out")
        text = text[:MAX_SUMMARY]
    visible = text if text.isprintable() else "".join(filter(_is_visible, text))
    if visible != text:
        reasons.append(CONTROL)
    clean, removed = without_roles(visible)
    # Brackets and quotes of a JSON summary are its form; what it says is looked at text by text.
    texts = [visible] if read_statistics(visible) is None else [item.text for item in items_of(visible)]
    squeezed = [_squeeze(_RUNS_THROUGH.sub("", text)) for text in texts]
    squeezed_out = [reason for reason, pattern in _SQUEEZED if any(pattern.search(text) for text in squeezed)]
    return clean, (*reasons, *removed, *squeezed_out)


def _is_visible(char: str) -> bool:
    return char in _SPACES or unicodedata.category(char) not in _HIDDEN


def without_roles(text: str) -> tuple[str, list[str]]:
    """(the text without special tokens and role names, which kinds were removed).

    Until nothing is left to remove: taking one token out may put the halves of another together.
    """
    if not _TOKEN_BEGINS.search(text) and not _HEAD.match(text) and " ".join(text.split()) == text:
        return text, []  # nearly every text
    removed: set[str] = set()
    while True:
        bare = _TOKEN.sub("", text)
        if bare != text:
            removed.add(ROLE_TOKEN)
        lines = [line.strip() for line in re.split(f"[{_SPACES}]", bare)]
        heads = [_HEAD.sub("", line) for line in lines]
        if heads != lines:
            removed.add(ROLE_HEAD)
        joined = " ".join(" ".join(heads).split())
        if joined == text:
            return joined, sorted(removed)
        text = joined


def _squeeze(text: str) -> str:
    """As a reader sees it: compatibility forms folded, lower case, nothing between the letters to hide behind."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s.,;!?、，。；！？_*~·…-]+", "", folded)
