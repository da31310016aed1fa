"""How much texts tell a language model, and the words that they consist of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray

from rag.models import ScoringModel

__all__ = ["SPARE", "Word", "self_information", "tail", "words_of"]

Word = tuple[int, int, int]
"""Start and end in a text, the white space before included, and how many tokens it has."""

SPARE = 8
"""Tokens of a model's window that are left free: joined texts may have a few more than their parts."""

_LONG = 64  # tokens; longer runs without a space, such as encoded data, are cut


def self_information(texts: Sequence[str], scorer: ScoringModel) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each text where its tokens end, and -log2 p(token | text before it) in bits; all in one batch.

    A text that is longer than the model's window goes through in parts, each behind as much as fits of what is before.
    """
    size = max((scorer.context_tokens - SPARE) // 2, 1)
    items: list[tuple[str, str]] = []
    rows: list[int] = []
    for row, text in enumerate(texts):
        ends = scorer.token_ends(text)
        cuts = [0, *ends[size - 1 : -1 : size].tolist(), len(text)]
        for start, end in pairwise(cuts):
            items.append((tail(text[:start], size, scorer) if start else "", text[start:end]))
            rows.append(row)
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in texts]
    at = [0] * len(texts)
    for row, scored in zip(rows, scorer.score_batch(items), strict=True):
        found[row][0].extend((scored.ends + at[row]).tolist())
        found[row][1].extend((-scored.logprobs / np.log(2)).tolist())
        at[row] += len(scored.text)
    return [(np.array(ends, np.int64), np.array(bits, np.float64)) for ends, bits in found]


def tail(text: str, tokens: int, scorer: ScoringModel) -> str:
    """The end of a text that has at most so many tokens."""
    if tokens <= 0:
        return ""
    ends = scorer.token_ends(text)
    return text if len(ends) <= tokens else text[int(ends[-tokens - 1]) :]


def words_of(text: str, ends: NDArray[np.int64]) -> list[Word]:
    """The words of a text whose tokens end at `ends`, int64[n]; together they are the text.

    A word is what stands between spaces, so that no number or name is taken apart. In scripts without spaces it is a
    token.
    """
    words: list[Word] = []
    start, tokens = 0, 0
    for end in ends.tolist():
        tokens += 1
        if end > start and (end == len(text) or tokens >= _LONG or _begins_word(text, end)):
            words.append((start, end, tokens))
            start, tokens = end, 0
    if len(words) > 1 and text[slice(*words[-1][:2])].isspace():  # white space behind the last word
        _, end, more = words.pop()
        words[-1] = (words[-1][0], end, words[-1][2] + more)
    if tokens and words:  # empty tokens behind the last character
        words[-1] = (*words[-1][:2], words[-1][2] + tokens)
    return words


def _begins_word(text: str, at: int) -> bool:
    if text[at - 1].isspace():
        return False
    here = text[at]
    return here.isspace() or east_asian_width(here) in "WF" or "\u0e00" <= here < "\u1100"  # Thai to Burmese
