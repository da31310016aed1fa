"""What a question asks for: its question word, the noun in focus, and the kind of answer that fits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from rag.operators.generation.words import Kind, Words, stem, words_of

__all__ = ["Expects", "Question", "analyse"]


class Expects(IntEnum):
    """Kinds of answers."""

    EXPLANATION = 0
    REASON = 1
    YES_NO = 2
    OTHER = 3
    THING = 4
    PLACE = 5
    PERSON = 6
    GROUP = 7
    TIME = 8
    NUMBER = 9
    DURATION = 10


def _by_stem(words: str) -> frozenset[str]:
    return frozenset(stem(w) for w in words.split())


_FOCUS: tuple[tuple[Expects, frozenset[str]], ...] = (
    (
        Expects.TIME,
        _by_stem("year date month day century decade era time period season week weekday millennium birthday"),
    ),
    (
        Expects.NUMBER,
        _by_stem(
            "number percentage percent amount population rate size length height width depth age cost price distance "
            "area speed temperature weight capacity total ratio share proportion score budget salary"
        ),
    ),
    (
        Expects.PLACE,
        _by_stem(
            "country city state town village region place location island river mountain continent county province "
            "district area nation street building capital ocean "
            "sea lake valley territory neighborhood neighbourhood borough"
        ),
    ),
    (
        Expects.PERSON,
        _by_stem(
            "person man woman king queen president author writer actor actress artist singer composer scientist "
            "general leader philosopher emperor founder director player architect inventor judge character bishop pope"
        ),
    ),
    (
        Expects.GROUP,
        _by_stem(
            "company team band organization organisation group party university school college agency tribe people army"
        ),
    ),
)
_FOCUS_STEMS = frozenset().union(*(stems for _, stems in _FOCUS))
_BEFORE_FOCUS = ("of", "name", "called", "kind", "type", "sort")
_AMOUNT = frozenset(("many", "much"))
_EXTENT = frozenset(("long", "old", "often", "soon", "frequently"))
_MEASURE = frozenset(("far", "tall", "high", "large", "big", "deep", "wide", "fast", "heavy", "hot", "cold", "close"))
_WH = ("who", "whom", "whose", "when", "where", "why", "how", "which", "what", "what's", "who's")


@dataclass(frozen=True)
class Question:
    """An analysed question. `content`: rows of words that carry content, the question word's phrase left out.

    `wh` is the row of the question word (-1: none), `focus` the stem of the noun it asks about ("" when there is none),
    `next` the row of the first content word behind the question phrase (-1: none).
    """

    words: Words
    wh: int
    wh_code: int
    expects: Expects
    focus: str
    next: int
    content: NDArray[np.int64]

    @property
    def defines(self) -> frozenset[str]:
        """The stems of what a definition is asked of, as in "what is a sheet" and "what are hits"; else empty."""
        asked = frozenset(self.words.stems[row] for row in self.content)
        plain = [w for w in self.words.lower[max(self.wh, 0) :] if w != "?"]
        if self.wh_code != _WH.index("what") or not 1 <= len(asked) <= 3:
            return frozenset()
        what_is = plain[1:2] in (["is"], ["are"]) and len(plain) == 2 + (plain[2:3] in (["a"], ["an"])) + len(
            self.content
        )
        what_does_it_mean = plain[1:2] in (["does"], ["do"]) and plain[-1] == "mean"
        return asked - {"mean"} if what_is or what_does_it_mean else frozenset()

    @property
    def factoid(self) -> bool:
        """Whether a few words can answer it."""
        return self.expects not in (Expects.EXPLANATION, Expects.REASON, Expects.YES_NO) and not self.defines


def analyse(text: str) -> Question:
    """Analyse a question; English question words, any other language is `Expects.OTHER`."""
    words = words_of(text)
    lower = words.lower
    wh = next((i for i, w in enumerate(lower) if w in _WH), -1)
    content_mask = words.content()
    content_mask[[i for i, w in enumerate(lower) if w in _WH]] = False
    focus_row = _focus_row(words, wh, content_mask) if wh >= 0 and lower[wh] in ("what", "which", "what's") else -1
    focus = words.stems[focus_row] if focus_row >= 0 else ""
    expects = _expects(words, wh, focus)
    if wh >= 0 and lower[wh] == "how" and wh + 1 < len(lower):
        content_mask[wh + 1] &= lower[wh + 1] not in _AMOUNT | _EXTENT | _MEASURE
    content = np.flatnonzero(content_mask)
    behind = content[content > max(wh, focus_row)]
    return Question(
        words,
        wh,
        _WH.index(lower[wh]) if wh >= 0 else len(_WH),
        expects,
        focus,
        int(behind[0]) if len(behind) else -1,
        content,
    )


def _focus_row(words: Words, wh: int, content: NDArray[np.bool_]) -> int:
    """The row of the noun asked about: "what year", "which of the cities", "what is the population of"."""
    row, n = wh + 1, len(words)
    while row < n and (words.kinds[row] in (Kind.AUXILIARY, Kind.DETERMINER) or words.lower[row] in _BEFORE_FOCUS):
        row += 1
    run = row
    while row < n and content[row] and words.kinds[row] not in (Kind.PARTICIPLE, Kind.NAME):
        row += 1
    if run == row:
        return -1
    known = next((r for r in range(run, row) if words.stems[r] in _FOCUS_STEMS), -1)
    if known >= 0:
        return known
    # Without an auxiliary behind it, the last word of "what famous palace houses" is the verb.
    verb_inside = run == wh + 1 and row - run > 1 and not (row < n and words.kinds[row] == Kind.AUXILIARY)
    return row - 2 if verb_inside else row - 1


def _expects(words: Words, wh: int, focus: str) -> Expects:
    lower = words.lower
    if wh < 0:
        if lower and words.kinds[0] == Kind.AUXILIARY:
            return Expects.YES_NO
        return Expects.EXPLANATION if lower and lower[0] in ("explain", "describe") else Expects.OTHER
    word = lower[wh].removesuffix("'s")
    after = lower[wh + 1] if wh + 1 < len(lower) else ""
    if word in ("who", "whom", "whose"):
        return Expects.PERSON
    if word == "when":
        return Expects.TIME
    if word == "where":
        return Expects.PLACE
    if word == "why":
        return Expects.REASON
    if word == "how":
        if after in _AMOUNT or after in _MEASURE:
            return Expects.NUMBER
        return Expects.DURATION if after in _EXTENT else Expects.EXPLANATION
    for kind, stems in _FOCUS:
        if focus in stems:
            return kind
    return Expects.THING if focus else Expects.OTHER
