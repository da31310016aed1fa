"""Words of a text: where they are, their stems, and what kind of word each is by its look and by closed lists."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FUNCTION_WORDS", "Kind", "Words", "content_stems", "stem", "words_of"]

_TOKEN = re.compile(
    r"(?:[^\W\d_]\.){2,}"  # U.S.
    r"|\d+(?:[.,:]\d+)*(?:st|nd|rd|th|s)?(?![^\W\d_])"  # 1,234.5  21st  1990s
    r"|\w+(?:[-'’]\w+)*"
    r"|[^\w\s]"
)
_YEAR = re.compile(r"(?:1\d\d\d|20\d\d)s?\Z")


class Kind(IntEnum):
    """Kinds of words; the order puts like beside like, since models split on it."""

    BORDER = 0
    PUNCTUATION = 1
    COMMA = 2
    BRACKET = 3
    QUOTE = 4
    CONJUNCTION = 5
    DETERMINER = 6
    PREPOSITION = 7
    PRONOUN = 8
    AUXILIARY = 9
    ADVERB = 10
    LOWER = 11
    GERUND = 12
    PARTICIPLE = 13
    UNIT = 14
    SYMBOL = 15
    NUMBER = 16
    YEAR = 17
    MONTH = 18
    OPENING = 19  # capitalised, but first in its sentence
    NAME = 20
    CAPITALS = 21
    TITLE = 22


def _listed(kind: Kind, words: str) -> dict[str, Kind]:
    return dict.fromkeys(words.split(), kind)


_LISTS: dict[str, Kind] = {
    **_listed(
        Kind.CONJUNCTION, "and or but nor while whereas although though because if unless until whether so yet than"
    ),
    **_listed(Kind.DETERMINER, "the a an this that these those each every some any no both either such another all"),
    **_listed(
        Kind.PREPOSITION,
        "of in on at by for with from to into onto upon about over under between among through during after before "
        "since as against within without toward towards near across "
        "along behind beyond despite per via around above below off",
    ),
    **_listed(
        Kind.PRONOUN,
        "he she it they we i you him her them us me his hers its their theirs our ours your yours my mine who whom "
        "whose which what where when why how there himself herself itself themselves one",
    ),
    **_listed(
        Kind.AUXILIARY,
        "is are was were be been being am do does did done has have had having can could may might must shall should "
        "will would 's 're 've 'd 'll isn't aren't "
        "wasn't weren't don't doesn't didn't can't cannot couldn't won't wouldn't",
    ),
    **_listed(
        Kind.ADVERB,
        "not also only very more most less least just even still already often usually then now thus however therefore "
        "approximately roughly almost nearly too well again once later early earlier mostly mainly primarily",
    ),
    **_listed(
        Kind.UNIT,
        "hundred thousand million billion trillion dozen percent percentage km kilometres kilometers miles mile metres "
        "meters feet foot inches inch cm mm kg kilograms tons tonnes pounds acres hectares years year months weeks "
        "week days day hours hour minutes minute seconds "
        "second degrees dollars euros gallons people century centuries decades",
    ),
    **_listed(
        Kind.NUMBER,
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
        "ninety half quarter twice second third fourth fifth sixth",
    ),
    **_listed(
        Kind.TITLE,
        "mr mrs ms dr sir lord lady king queen prince princess pope saint st president emperor general colonel captain "
        "professor archbishop bishop cardinal duke earl senator governor chancellor justice",
    ),
}
_MONTHS = frozenset(
    "january february march april may june july august september october november december jan feb mar apr jun jul aug "
    "sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday".split()
)
FUNCTION_WORDS = frozenset(
    word for word, kind in _LISTS.items() if Kind.CONJUNCTION <= kind <= Kind.ADVERB
) | frozenset("s t d ll re ve".split())
"""Words that carry grammar rather than content."""


@dataclass(frozen=True)
class Words:
    """The words of a text as columns: offsets int32[n], stems, and kinds int8[n]. Punctuation marks are words too."""

    text: str
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    lower: list[str]
    stems: list[str]
    kinds: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.stems)

    def content(self) -> NDArray[np.bool_]:
        """Which of them carry content."""
        return np.fromiter((_is_content(w) for w in self.lower), np.bool_, len(self.lower))


def words_of(text: str) -> Words:
    """The words of a sentence or question."""
    matches = list(_TOKEN.finditer(text))
    surface = [m[0] for m in matches]
    lower = [w.lower().replace("’", "'") for w in surface]
    kinds = np.zeros(len(matches), np.int8)
    opening = True
    for i, (word, low) in enumerate(zip(surface, lower, strict=True)):
        kinds[i] = _kind(word, low, opening)
        opening = opening and not word[0].isalnum()
    return Words(
        text,
        np.fromiter((m.start() for m in matches), np.int32, len(matches)),
        np.fromiter((m.end() for m in matches), np.int32, len(matches)),
        lower,
        [stem(w) for w in lower],
        kinds,
    )


def content_stems(text: str) -> set[str]:
    """The stems of a text's words that carry content."""
    lower = (m[0].lower().replace("’", "'") for m in _TOKEN.finditer(text))
    return {stem(w) for w in lower if _is_content(w)}


def _is_content(word: str) -> bool:
    return word not in FUNCTION_WORDS and any(c.isalnum() for c in word)


def _kind(word: str, low: str, opening: bool) -> Kind:
    first = word[0]
    if not (first.isalnum() or first == "_"):
        if first == ",":
            return Kind.COMMA
        if first in "()[]{}":
            return Kind.BRACKET
        if first in "\"“”«»„'‘’":
            return Kind.QUOTE
        return Kind.SYMBOL if first in "$€£¥%°₹" else Kind.PUNCTUATION
    if first.isdigit():
        return Kind.YEAR if _YEAR.match(low) else Kind.NUMBER
    capital = first.isupper()
    if low in _MONTHS and capital:
        return Kind.MONTH
    listed = _LISTS.get(low.rstrip("."))
    if listed is Kind.TITLE:
        return Kind.TITLE if capital else Kind.LOWER
    if listed is not None and (not capital or opening or listed in (Kind.UNIT, Kind.NUMBER)):
        return listed
    if capital:
        if len(word) > 1 and word.isupper():
            return Kind.CAPITALS
        return Kind.OPENING if opening else Kind.NAME
    if low.endswith("ing"):
        return Kind.GERUND
    return Kind.PARTICIPLE if low.endswith("ed") else Kind.LOWER


_local = threading.local()  # a stemmer is not safe to share between threads


@lru_cache(65536)
def stem(word: str) -> str:
    """The Snowball (English) stem of a lower-case word."""
    stemmer: Any = getattr(_local, "stemmer", None)
    if stemmer is None:
        from Stemmer import Stemmer

        stemmer = _local.stemmer = Stemmer("english")
    if word.endswith("'s"):
        word = word[:-2]
    return str(stemmer.stemWord(word))
