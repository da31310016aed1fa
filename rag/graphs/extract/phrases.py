"""Names in text by their capitals: what a graph's entities are where no model is at hand."""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache
from itertools import groupby
from typing import NamedTuple

__all__ = ["Phrase", "name_key", "phrases"]

_JOINS = "of the de van von der den la le les and for in du del della di da dos al el on at y e et und & ’s".split()
"""Words within a name that have no capital."""
_SPLITS = frozenset("and for in on at y e et und &".split())
"""Those that may as well stand between two names: both readings count."""
_STOP = frozenset(
    "the a an in on at of it its he she his her him they them their this that these those when where who what "
    "which how why whose after before during while as for from with by and or but if is was are were be been to "
    "i we you your our there here however also although since not no yes one two three first many some most "
    "other such both each all according despite until under over then thus".split()
)
"""Words that begin a sentence with a capital and are no part of a name."""
_LEAST = 3
"""Letters or digits that a name has at least."""


class Phrase(NamedTuple):
    """A name in a text: `key` is what it is known by, text[start:stop] what stands there."""

    key: str
    start: int
    stop: int


def phrases(text: str) -> list[Phrase]:
    """Names in their order: runs of words with a capital, joined by words such as `of`, and years.

    `A and B` gives A, B and `A and B`, since each may be a name. Stop words at the beginning of a sentence are cut off.
    In scripts without capitals there is nothing to go by, and nothing is found.
    """
    found: dict[Phrase, None] = {}
    for match in _pattern().finditer(text):
        start, stop = match.span()
        whole = _trimmed(text, start, stop)
        for phrase in (whole, *(_trimmed(text, a, b) for a, b in _halves(text, start, stop))):
            if phrase is not None:
                found.setdefault(phrase)
    return list(found)


def name_key(name: str) -> str:
    """What a name is known by: lower case, without what stands in parentheses at its end, stop words at its beginning,
    possessives, marks, and the points of abbreviations; an empty string where nothing is left."""
    words = re.sub(r"\s*\([^()]*\)\s*$", "", unicodedata.normalize("NFKC", name)).casefold().replace("’", "'").split()
    while words and words[0].strip("'.,") in _STOP:
        del words[0]
    words = [word.removesuffix("'s").replace(".", "").strip("'\",;:!?–-") for word in words]
    return " ".join(word for word in words if word)


def _trimmed(text: str, start: int, stop: int) -> Phrase | None:
    """A name without the words that are no part of it."""
    words = [(start + word.start(), start + word.end()) for word in re.finditer(r"\S+", text[start:stop])]
    while words and text[slice(*words[0])].casefold().strip("'’.,") in _STOP:
        del words[0]
    while words and text[slice(*words[-1])].casefold() in _STOP:
        del words[-1]
    if not words:
        return None
    start, stop = words[0][0], words[-1][1]
    key = name_key(text[start:stop])
    return Phrase(key, start, stop) if sum(letter.isalnum() for letter in key) >= _LEAST else None


def _halves(text: str, start: int, stop: int) -> list[tuple[int, int]]:
    """What stands before, between and behind words that may join two names."""
    words = list(re.finditer(r"\S+", text[start:stop]))
    runs = [list(run) for splits, run in groupby(words, lambda word: word.group() in _SPLITS) if not splits]
    return [(start + run[0].start(), start + run[-1].end()) for run in runs] if len(runs) > 1 else []


@cache
def _pattern() -> re.Pattern[str]:
    capital = _capitals()
    word = rf"(?:(?:[{capital}]\.)+(?![\w])|[{capital}][\w'’\-]*|\d{{4}}(?!\w))"  # initials, a word, a year
    join = "|".join(re.escape(word) for word in _JOINS)
    return re.compile(rf"(?<![\w'’\-]){word}(?:[ \u00a0](?:(?:{join})[ \u00a0]){{0,2}}{word})*")


def _capitals() -> str:
    """All capital letters as ranges of a character class."""
    codes = [code for code in range(sys.maxunicode) if unicodedata.category(chr(code)) in ("Lu", "Lt")]
    ranges = [[code for _, code in run] for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0])]
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" if len(run) > 1 else chr(run[0]) for run in ranges)
