"""From pieces to chunks: every chunker cuts a text into small pieces and packs neighbours up to a size.

A text is cut into pieces without gaps; the break behind each piece has a level, higher for a better place to cut
(paragraph > end of a line of sentences > sentence > line > word). A chunk takes as many pieces as fit and ends at the
best break in its second half. So no character is lost, offsets are exact, and the work is linear in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import Self

from rag.errors import ConfigError
from rag.operators.base import Operator
from rag.operators.indexing.chunkers.tokens import CountTokens, word_ends
from rag.types import Chunk, Document

__all__ = [
    "FORCED",
    "LINE",
    "PARAGRAPH",
    "SENTENCE",
    "SENTENCE_LINE",
    "WORD",
    "Chunker",
    "Pieces",
    "cut",
    "make_chunks",
]

WORD, LINE, SENTENCE, SENTENCE_LINE, PARAGRAPH, FORCED = range(6)
"""Levels of a break. No chunk reaches over a FORCED one."""

_BATCH = 1024
_BREAK = np.dtype([("at", np.int64), ("level", np.int8)])


class Chunker(Operator):
    """Base of the chunkers. Sizes are in tokens: of the encoder where one is bound, otherwise words and marks.

    Up to 24 characters of one word are never cut, even where a tokenizer makes more than `size` tokens of them.
    """

    size: int = Field(200, ge=8, description="most tokens a chunk")
    overlap: int | None = Field(
        None, ge=0, description="most tokens that a chunk repeats of the one before, at most size / 2; default size / 8"
    )

    @property
    def overlap_tokens(self) -> int:
        """The overlap in force."""
        return self.size // 8 if self.overlap is None else self.overlap

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        if self.overlap_tokens > self.size // 2:
            raise ConfigError(
                f"operator {self.operator_name}: overlap {self.overlap} is more than half of size {self.size}",
                hint=f"use an overlap of at most {self.size // 2}",
            )
        return self


class Pieces(NamedTuple):
    """A text from `start` on, in pieces that end at `ends`; `levels[i]` is that of the break at `ends[i]`."""

    start: int
    ends: NDArray[np.int64]
    levels: NDArray[np.int8]
    tokens: NDArray[np.int64]


def cut(text: str, start: int, breaks: Iterable[tuple[int, int]], size: int, count: CountTokens) -> Pieces:
    """The pieces between these breaks (position, level), ascending; those of more than `size` tokens are cut finer.

    They are cut into lines, and where a line is too long, into words. The text after the last break is a piece too.
    """
    table = np.fromiter(breaks, _BREAK)
    table = table[(table["at"] > start) & (table["at"] < len(text))]
    table = np.append(table, np.array([(len(text), FORCED)], _BREAK))
    pieces = Pieces(start, table["at"], table["level"], _count(text, start, table["at"], count))
    for ends_in, level in ((_line_ends, LINE), (word_ends, WORD)):
        if pieces.tokens.max() > size:
            pieces = _finer(text, pieces, size, ends_in, level, count)
    return pieces


def make_chunks(
    document: Document, pieces: Pieces, size: int, overlap: int, metadata: Callable[[int], dict[str, Any]] | None = None
) -> list[Chunk]:
    """The chunks of a document; `metadata` gives theirs by the number of the section (between FORCED breaks)."""
    chunks = []
    text = document.text
    first = 0
    for section, last in enumerate(np.flatnonzero(pieces.levels == FORCED).tolist()):
        for a, b in _pack(pieces.tokens[first : last + 1], pieces.levels[first : last + 1], size, overlap):
            begin = pieces.start if first + a == 0 else int(pieces.ends[first + a - 1])
            span = _trim(text, begin, int(pieces.ends[first + b - 1]))
            if span is not None:
                own = metadata(section) if metadata else {}
                chunks.append(Chunk(document.id, text[slice(*span)], *span, metadata=own))
        first = last + 1
    return chunks


def _pack(tokens: NDArray[np.int64], levels: NDArray[np.int8], size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Ranges (first, end) of pieces, one a chunk."""
    n = len(tokens)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens)])
    start = end = 0
    while end < n:
        high = max(int(np.searchsorted(before, before[start] + size, "right")) - 1, end + 1)
        if high < n:
            low = max(int(np.searchsorted(before, before[start] + (size + 1) // 2)), end + 1)
            window = levels[min(low, high) - 1 : high]
            high -= int(np.argmax(window[::-1]))
        previous, end = end, high
        yield start, end
        if end < n:
            back = int(np.searchsorted(before, before[end] - overlap))
            # The piece that comes next must fit in beside what is repeated.
            room = int(np.searchsorted(before, before[end + 1] - size))
            start = min(max(back, room, previous), end)


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span without outer white space, but with the indentation of its first line; None when nothing is left."""
    piece = text[start:end]
    inner = piece.lstrip()
    if not inner:
        return None
    begin = end - len(inner)
    line = text.rfind("\n", start, begin) + 1 or start
    if not text[line:begin].strip(" \t") and (line > start or line == 0 or text[line - 1] == "\n"):
        begin = line
    return begin, end - (len(piece) - len(piece.rstrip()))


def _count(text: str, start: int, ends: NDArray[np.int64], count: CountTokens) -> NDArray[np.int64]:
    tokens = np.empty(len(ends), np.int64)
    for at in range(0, len(ends), _BATCH):
        batch = []
        for end in ends[at : at + _BATCH].tolist():
            batch.append(text[start:end])
            start = end
        tokens[at : at + _BATCH] = count(batch)
    return tokens


def _finer(
    text: str,
    pieces: Pieces,
    size: int,
    ends_in: Callable[[str, int, int], Iterator[int]],
    level: int,
    count: CountTokens,
) -> Pieces:
    """The pieces of more than `size` tokens cut at the ends that `ends_in` finds in them, the others as they are."""
    ends, levels, tokens = [], [], []
    done = 0
    for at in np.flatnonzero(pieces.tokens > size).tolist():
        begin = int(pieces.ends[at - 1]) if at else pieces.start
        inner = np.fromiter(ends_in(text, begin, int(pieces.ends[at])), np.int64)
        ends += [pieces.ends[done:at], inner]
        levels += [pieces.levels[done:at], np.full(len(inner) - 1, level, np.int8), pieces.levels[at : at + 1]]
        tokens += [pieces.tokens[done:at], _count(text, begin, inner, count)]
        done = at + 1
    return Pieces(
        pieces.start,
        np.concatenate([*ends, pieces.ends[done:]]),
        np.concatenate([*levels, pieces.levels[done:]]),
        np.concatenate([*tokens, pieces.tokens[done:]]),
    )


def _line_ends(text: str, start: int, end: int) -> Iterator[int]:
    while (start := text.find("\n", start, end) + 1) and start < end:
        yield start
    yield end
