"""How many tokens a text has, by the checkpoint's own tokenizer, at the price of a few table look-ups.

An answer is mostly coordinates. Qwen's pre-tokenizer makes every digit a word of its own, so that a text may be cut at
its digits: each digit is one token, and the pieces between them repeat from answer to answer and are counted once.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import DamagedFileError, Problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_DIGITS = re.compile("[0-9]+")
_LONE_DIGIT = r"|\p{N}|"
"""The part of a pre-tokenizer's pattern that makes each digit a token of its own (others write `\\p{N}{1,3}`)."""
TEXTS, PIECES = 4096, 65536
"""Cached counts: of whole texts (prompts repeat) and of the pieces between digits."""


class TokenCounter:
    """Counts tokens. Pickles to workers by its folder. Raises DamagedFileError for an unusable `tokenizer.json`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._tokenizer, self._cuts = _load(self.folder)
        self.count = lru_cache(TEXTS)(self._count_pieces if self._cuts else self._count_whole)
        self._count_piece = lru_cache(PIECES)(self._count_between_digits)
        self._count_first = lru_cache(TEXTS)(self._count_before_digit)
        self._count_last = lru_cache(TEXTS)(self._count_after_digit)

    def __reduce__(self) -> tuple[type[TokenCounter], tuple[Path]]:
        return TokenCounter, (self.folder,)

    @property
    def cuts_at_digits(self) -> bool:
        """Whether texts may be counted in pieces between their digits."""
        return self._cuts

    def _count_whole(self, text: str) -> int:
        """Special tokens are recognised, none are added."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _count_pieces(self, text: str) -> int:
        pieces = _DIGITS.split(text)
        if len(pieces) == 1:
            return self._count_whole(text)
        digits = len(text) - sum(map(len, pieces))
        inner = sum(map(self._count_piece, pieces[1:-1]))
        return digits + self._count_first(pieces[0]) + inner + self._count_last(pieces[-1])

    # A digit marks the side that was cut: white space before a digit is split otherwise than at a text's end.

    def _count_between_digits(self, piece: str) -> int:
        return self._count_whole(f"0{piece}0") - 2

    def _count_before_digit(self, piece: str) -> int:
        return self._count_whole(f"{piece}0") - 1

    def _count_after_digit(self, piece: str) -> int:
        return self._count_whole(f"0{piece}") - 1


class TokenBytes(dict[int, bytes]):
    """Bytes of a token by its id, of a byte-level vocabulary; none for special tokens."""

    def __init__(self, tokenizer: Any):
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        super().__init__()
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        self._byte = {letter: byte for byte, letter in bytes_to_unicode().items()}

    def __missing__(self, token: int) -> bytes:
        text = "" if token in self._special else self._tokenizer.convert_ids_to_tokens(token)
        self[token] = bytes(self._byte[letter] for letter in text)
        return self[token]


def _load(folder: Path) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether a text may be cut at its digits."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DamagedFileError(Problem(str(path), "no such file", "give the folder of a complete checkpoint"))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise DamagedFileError(Problem(str(path), f"is not a tokenizer: {error}")) from error
    return tokenizer, _digits_stand_alone(tokenizer)


def _digits_stand_alone(tokenizer: Tokenizer) -> bool:
    """Read from the pre-tokenizer's pattern and from the added tokens, which are looked for before it."""
    added = "".join(token.content for token in tokenizer.get_added_tokens_decoder().values())
    keeps_digits = _described(tokenizer.normalizer).get("type") in (None, "NFC")
    pattern = json.dumps(_described(tokenizer.pre_tokenizer)).replace("\\\\", "\\")
    return keeps_digits and not _DIGITS.search(added) and _LONE_DIGIT in pattern


def _described(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as `tokenizer.json` spells it; empty where there is none.

    Its pickled state says so too: the file itself, with its vocabulary, takes as long to parse again as to load.
    """
    return {} if part is None else json.loads(part.__getstate__())
