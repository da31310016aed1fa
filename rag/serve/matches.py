"""Late interaction on a terminal: which words of a chunk matched which words of the query."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from rag.collection import TokenMatch

__all__ = ["print_matches", "word_matches"]

_WORD = re.compile(r"\w+")
STRONG, WEAK = 0.75, 0.5
"""Cosines from which a match is shown bold, and at all: below, something has to fit best, but nothing fits."""


def word_matches(query: str, text: str, matches: Sequence[TokenMatch]) -> list[tuple[str, str, float]]:
    """Words of the query, in its order, each with the word of the text that a token of it matched best, and how well.

    Tokens may be pieces of words; a word is told with its best piece. The other word is empty where that stands above
    the text.
    """
    best: dict[tuple[int, int], TokenMatch] = {}
    for match in matches:
        word = _around(query, match.query)
        if word not in best or match.score > best[word].score:
            best[word] = match
    return [
        (query[slice(*word)], text[slice(*_around(text, match.chunk))] if match.chunk else "", match.score)
        for word, match in sorted(best.items())
    ]


def print_matches(console: Console, text: str, query: str, matches: Sequence[TokenMatch], width: int) -> None:
    """The text with the words that matched, and a line that says what they matched."""
    shown = Text(text)
    for match in sorted(matches, key=lambda match: match.score):
        if match.chunk is not None and match.score >= WEAK:
            shown.stylize("bold yellow" if match.score >= STRONG else "yellow", *_around(text, match.chunk))
    for line in _collapsed(shown).wrap(console, width)[:6]:
        console.print(Text("     ") + line)
    told = [
        f"{asked} → {found or '(title)'} {score:.2f}" if score >= WEAK else f"{asked} → -"
        for asked, found, score in word_matches(query, text, matches)
    ]
    for line in Text("  ".join(told), style="dim").wrap(console, width):
        console.print(Text("     ") + line)


def _around(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """The whole word that a span lies in, or the span itself."""
    start, end = span
    while start > 0 and _WORD.fullmatch(text[start - 1]) and _WORD.fullmatch(text[start]):
        start -= 1
    while end < len(text) and _WORD.fullmatch(text[end]) and _WORD.fullmatch(text[end - 1]):
        end += 1
    return start, end


def _collapsed(text: Text) -> Text:
    """On one line, with single spaces, styles kept."""
    return Text(" ").join([text[word.start() : word.end()] for word in re.finditer(r"\S+", text.plain)])
