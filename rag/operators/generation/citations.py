"""Citations in a text: finding them, and checking that what they cite says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rag.encoders.protocol import Encoder
from rag.operators.generation.words import content_stems
from rag.operators.indexing import sentences
from rag.types import Citation, Context, Passage

__all__ = ["MARKER", "Checker", "cite", "numbers_in"]

MARKER = re.compile(r"\[\s*\d{1,4}(?:\s*(?:,|;|and|-|–)\s*\d{1,4})*\s*\]")
"""A citation in a text: [1], [2, 3], [1-3]."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WIDEST_RANGE = 50


def numbers_in(marker: str) -> list[int]:
    """The passages that a citation such as "[1, 3-5]" names, in order, each once."""
    numbers: dict[int, None] = {}
    for part in re.split(r",|;|and", marker.strip("[]")):
        ends = [int(n) for n in re.findall(r"\d+", part)]
        last = min(ends[-1], ends[0] + _WIDEST_RANGE)
        numbers.update(dict.fromkeys(range(ends[0], last + 1) if last > ends[0] else ends))
    return list(numbers)


def cite(passage: Passage, start: int, end: int) -> Citation:
    """A citation of characters `start` to `end` of a passage's text."""
    return Citation(
        passage.number,
        passage.chunk,
        passage.document,
        passage.start + start,
        passage.start + end,
        passage.line + passage.text.count("\n", 0, start),
        passage.text[start:end],
    )


@dataclass(frozen=True)
class _Window:
    start: int
    end: int
    stems: frozenset[str]


class Checker:
    """Finds in a passage what supports a claim.

    A claim is supported by one sentence of the passage, or two neighbours, that hold all its numbers and at least the
    share `support` of its content words (by stem); or, with an encoder, that hold all its numbers and whose cosine with
    the claim is at least `similarity`. Of several the one with the most words of the claim counts, then the shortest.
    """

    def __init__(
        self, context: Context, *, support: float, similarity: float = 1.0, encoder: Encoder | None = None
    ) -> None:
        self.passages = {p.number: p for p in context}
        self._support = support
        self._similarity = similarity
        self._encoder = encoder
        self._windows: dict[int, list[_Window]] = {}

    def find(self, claim: str, number: int) -> Citation | None:
        """The place in passage `number` that supports the claim; None when none does, or there is no such passage."""
        passage = self.passages.get(number)
        stems = content_stems(claim)
        if passage is None or not stems:
            return None
        figures = set(_NUMBER.findall(claim))
        windows = [
            w for w in self._windows_of(passage) if figures <= set(_NUMBER.findall(passage.text[w.start : w.end]))
        ]
        if not windows:
            return None
        shares = np.array([len(stems & w.stems) / len(stems) for w in windows])
        best = max(range(len(windows)), key=lambda i: (shares[i], windows[i].start - windows[i].end))
        if shares[best] < self._support:
            found = self._alike(claim, passage, windows)
            if found is None:
                return None
            best = found
        return cite(passage, windows[best].start, windows[best].end)

    def _alike(self, claim: str, passage: Passage, windows: Sequence[_Window]) -> int | None:
        """The window nearest in meaning to the claim, if it is near enough."""
        if self._encoder is None or self._similarity >= 1:
            return None
        vectors = self._encoder.encode_documents([claim, *(passage.text[w.start : w.end] for w in windows)])
        cosines = vectors[1:] @ vectors[0]
        best = int(cosines.argmax())
        return best if cosines[best] >= self._similarity else None

    def _windows_of(self, passage: Passage) -> list[_Window]:
        windows = self._windows.get(passage.number)
        if windows is None:
            spans = sentences(passage.text)
            spans += [(a[0], b[1]) for a, b in pairwise(spans)]
            windows = [_Window(a, b, frozenset(content_stems(passage.text[a:b]))) for a, b in spans]
            self._windows[passage.number] = windows
        return windows
