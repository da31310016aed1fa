"""Late interaction for people: which words of a chunk matched which words of the query, on a terminal and as JSON."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from rag.collection import TokenMatch
from rag.index.text import UNSPACED

__all__ = ["WordMatch", "print_matches", "word_matches"]

STRONG, WEAK = 0.75, 0.5
"""Cosines from which a match is shown bold, and at all: below, something has to fit best, but nothing fits."""
LINES, BEFORE = 6, 40
"""Lines of a text that are shown, and characters before the first match where they are not its first lines."""
_JOINERS = "\u200c\u200d"
"""Zero-width: within Persian words and emoji made of several."""
_SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A word of a query, and the word of a text that fits it best: spans (start, end) in characters of each.

    `text` is None when that word stands in what was indexed above the text.
    """

    query: tuple[int, int]
    text: tuple[int, int] | None
    score: float

    @property
    def strength(self) -> Literal["strong", "weak", "none"]:
        """Whether it says something that this word fits best."""
        return "strong" if self.score >= STRONG else "weak" if self.score >= WEAK else "none"


def word_matches(query: str, text: str, matches: Sequence[TokenMatch]) -> list[WordMatch]:
    """The words of the query, in its order, each with the word of the text that a token of it matched best.

    Tokens may be pieces of words; a word is told with its best piece.
    """
    best: dict[tuple[int, int], TokenMatch] = {}
    for match in matches:
        word = _around(query, match.query)
        if word not in best or match.score > best[word].score:
            best[word] = match
    return [
        WordMatch(word, _around(text, match.chunk) if match.chunk else None, match.score)
        for word, match in sorted(best.items())
    ]


def print_matches(console: Console, text: str, query: str, matches: Sequence[TokenMatch], width: int) -> None:
    """The part of the text that shows most of the words that matched, and a line that says what they matched."""
    words = word_matches(query, text, matches)
    places = [match.text for match in words if match.text and match.strength != "none"]
    start, end = _excerpt(text, places, LINES * width)
    shown = Text(text[start:end])
    for match in sorted(words, key=lambda match: match.score):
        if match.text is not None and match.strength != "none" and match.text[1] > start:
            style = "bold yellow" if match.strength == "strong" else "yellow"
            shown.stylize(style, max(match.text[0] - start, 0), match.text[1] - start)
    for line in (Text("… " if start else "") + _collapsed(shown)).wrap(console, width)[:LINES]:
        console.print(Text("     ") + line)
    told = []
    for match in words:
        found = text[slice(*match.text)] if match.text else "(title)"
        asked = query[slice(*match.query)]
        told.append(f"{asked} → -" if match.strength == "none" else f"{asked} → {found} {match.score:.2f}")
    for line in Text("  ".join(told), style="dim").wrap(console, width):
        console.print(Text("     ") + line)


def _excerpt(text: str, places: Sequence[tuple[int, int]], size: int) -> tuple[int, int]:
    """The first part of a text, of `size` characters or fewer, that holds most of these places."""
    size -= BEFORE
    begins = [0, *sorted(begin for begin, _ in places)]
    best = max(begins, key=lambda begin: sum(begin <= start and end <= begin + size for start, end in places))
    if not best:
        return 0, size + BEFORE
    start = max(best - BEFORE, 0)
    if start and (space := text.find(" ", start, best)) >= 0:
        start = space + 1
    return start, best + size


def _around(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """The whole word that a span lies in, with its combining marks; in scripts without spaces, the span itself."""
    start, end = span
    while 0 < start < len(text) and _belong_together(text[start - 1], text[start]):
        start -= 1
    while 0 < end < len(text) and _belong_together(text[end - 1], text[end]):
        end += 1
    return start, end


def _belong_together(before: str, after: str) -> bool:
    """Whether no word, and no character as it is seen, ends between these two."""
    if _is_mark(after) or after in _JOINERS or after in _SKIN_TONES or before in _JOINERS:
        return True
    return _is_spaced_letter(after) and (_is_spaced_letter(before) or _is_mark(before))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _is_spaced_letter(character: str) -> bool:
    """Of a script that puts spaces between its words."""
    if character.isascii():
        return character.isalnum() or character == "_"
    return character.isalnum() and not any(first <= ord(character) <= last for first, last in UNSPACED)


def _collapsed(text: Text) -> Text:
    """On one line, with single spaces, styles kept."""
    return Text(" ").join([text[word.start() : word.end()] for word in re.finditer(r"\S+", text.plain)])
