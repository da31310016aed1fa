"""Counting tokens: by an encoder's own tokenizer, or by words and punctuation marks when there is none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from rag.encoders.protocol import Encoder

__all__ = ["CountTokens", "count_words", "token_counter", "word_ends", "words"]

CountTokens: TypeAlias = Callable[[Sequence[str]], list[int]]

# Scripts without spaces count by the character. A "word" of more than 24 characters is data, and counts by pieces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|\w{1,24}|[^\w\s]")
_JOINER = "\u200d"


def count_words(texts: Sequence[str]) -> list[int]:
    """Words and punctuation marks of each text; English sub-word tokenizers make about 1.2 tokens of one."""
    return [len(_WORD.findall(text)) for text in texts]


def words(text: str) -> list[str]:
    """The words and punctuation marks that `count_words` counts."""
    return _WORD.findall(text)


def token_counter(encoder: Encoder | None) -> CountTokens:
    """How to count tokens: as this encoder does, or by words without one."""
    return count_words if encoder is None else encoder.count_tokens


def word_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Where the words of text[start:end] end, white space behind them included; never inside a written character."""
    words = _WORD.finditer(text, start, end)
    next(words, None)  # white space before the first word goes with it
    for word in words:
        at = word.start()
        if text[at] < "\u0300" or not _joined(text, at):
            yield at
    yield end


def _joined(text: str, at: int) -> bool:
    """Whether the character belongs to the one before: combining marks, emoji modifiers and joined emoji."""
    char = text[at]
    return (
        unicodedata.category(char)[0] == "M"
        or char == _JOINER
        or text[at - 1] == _JOINER
        or "\U0001f3fb" <= char <= "\U0001f3ff"
    )
