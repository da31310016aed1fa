"""Sentences of a context's passages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rag.operators.generation.sentence_features import Sentence
from rag.operators.generation.words import words_of
from rag.operators.indexing import sentences
from rag.types import Context

__all__ = ["sentences_of"]

_OWN_LINE = re.compile(r"[ \t]*#|[^\n|]*\|")  # a heading, a row of a table
# Behind these marks begins a list item, a heading, a table row or a quotation.
_MARKS = re.compile(r"(?:[-*+•>#|]+[ \t]+|\d{1,3}[.)][ \t]+)+")
_HEADER = re.compile(r"[ \t|]*\n[ \t]*\|?[ \t]*:?-{2,}")  # what follows the names of a table's columns
_LONG = 100


def sentences_of(context: Context) -> list[Sentence]:
    """All sentences with a content word, in the order of passages and text; no headings, no header rows of tables."""
    found = []
    for row, passage in enumerate(context):
        for place, (start, end) in enumerate(_units(passage.text)):
            words = words_of(passage.text[start:end])
            stems = frozenset(s for s, content in zip(words.stems, words.content(), strict=True) if content)
            if stems and not _HEADER.match(passage.text, end):
                found.append(Sentence(row, place, start, end, words, stems))
    return found


def _units(text: str) -> Iterator[tuple[int, int]]:
    """Spans of sentences; list items, table rows, and pieces of very long sentences are apart, headings left out."""
    for start, end in sentences(text):
        at = start
        for line in _lines(text, start, end):
            yield from _trimmed(text, at, line)
            at = line
        yield from _trimmed(text, at, end)


def _lines(text: str, start: int, end: int) -> Iterator[int]:
    """Where in a sentence a line begins that is no continuation of the line before."""
    at = text.find("\n", start, end)
    own = bool(_OWN_LINE.match(text, start))
    long = end - start > 8 * _LONG
    while at >= 0:
        if own or long or _MARKS.match(text, at + 1) or _OWN_LINE.match(text, at + 1):
            yield at + 1
        own = bool(_OWN_LINE.match(text, at + 1))
        at = text.find("\n", at + 1, end)


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span without white space, list marks and table borders at its ends; nothing for a heading.

    In pieces of at most `_LONG` words.
    """
    while start < end and text[start].isspace():
        start += 1
    marks = _MARKS.match(text, start, end)
    if marks and "#" in marks[0]:
        return
    start = marks.end() if marks else start
    while end > start and (text[end - 1].isspace() or text[end - 1] == "|"):
        end -= 1
    words = list(re.finditer(r"\S+", text[start:end])) if end - start > 4 * _LONG else []
    for first in range(0, max(len(words), 1), _LONG):
        piece = words[first : first + _LONG]
        if piece:
            yield start + piece[0].start(), start + piece[-1].end()
        elif start < end:
            yield start, end
