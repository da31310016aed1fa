"""How sure a model was of what it said: by the probabilities of its tokens, those of citations left aside."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rag.operators.generation.citations import MARKER
from rag.types import Answer

__all__ = ["least_probability", "sure_words"]

_WORD = re.compile(r"\S+")


def least_probability(
    tokens: Sequence[str] | None, logprobs: Sequence[float] | None, end: int | None = None
) -> float | None:
    """The least probability among the tokens before character `end`; None where no probabilities are known.

    Where the tokens themselves are not known, all count. Only when there is nothing else citations do.
    """
    if not logprobs:
        return None
    if tokens is None or len(tokens) != len(logprobs):
        return math.exp(min(logprobs))
    text = "".join(tokens)
    marks = [m.span() for m in MARKER.finditer(text)]
    spans = _spans(tokens)
    before = [row for row, (start, _) in enumerate(spans) if end is None or start < end] or [0]
    counted = [row for row in before if not any(a < spans[row][1] and spans[row][0] < b for a, b in marks)]
    return math.exp(min(logprobs[row] for row in counted or before))


def sure_words(answer: Answer, probability: float) -> str:
    """The answer's words, without citations, of which every token has at least this probability.

    All of its text where no probabilities are known.
    """
    tokens, logprobs = answer.tokens, answer.logprobs
    if not tokens or not logprobs or len(tokens) != len(logprobs):
        return answer.text
    text = "".join(tokens)
    unsure = [span for span, logprob in zip(_spans(tokens), logprobs, strict=True) if math.exp(logprob) < probability]
    out = [m.span() for m in MARKER.finditer(text)]
    for start, end in unsure:
        # The space before a word belongs to its token, and says nothing about the word before.
        while start < end and text[start].isspace():
            start += 1
        out.append((start, end))
    words = [m for m in _WORD.finditer(text) if not any(a < m.end() and m.start() < b for a, b in out)]
    return " ".join(m[0] for m in words)


def _spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Where tokens begin and end in the text that they make up."""
    spans = []
    at = 0
    for token in tokens:
        spans.append((at, at + len(token)))
        at += len(token)
    return spans
