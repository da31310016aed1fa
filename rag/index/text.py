"""From text to index terms: which characters make words, which words are dropped, and their stems."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag._native import Tokens
from rag.errors import InputError, did_you_mean

__all__ = ["languages", "stems", "tokens"]

ENGLISH = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""  # Lucene's list
STOP_WORDS = {"english": frozenset(ENGLISH.split())}

# Scripts that put no spaces between words, and Hangul, whose words carry particles: (first, last) code points.
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul Jamo
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark, zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7FF),  # Hangul syllables
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x20000, 0x3347F),
)
LAST_LETTER = 0x33480  # beyond it Unicode has assigned no letters
BLOCK = 4096


def tokens(texts: Sequence[str]) -> Tokens:
    """Texts split into words, not yet stemmed.

    Text is normalised (NFKC, so that ligatures and full-width letters are found) and put in lower case. Words are runs
    of two or more letters, digits and underscores, as in `bm25s`; a combining mark belongs to the letter before it.
    Runs of Chinese, Japanese, Korean, Thai, Lao, Khmer or Burmese characters become overlapping pairs, a lone
    character itself (as Lucene's CJKBigramFilter does).
    """
    split = Tokens(_classes())
    for start in range(0, len(texts), BLOCK):
        split.add([_normal(text) for text in texts[start : start + BLOCK]])
    return split


def stems(words: list[str], language: str) -> list[str | None]:
    """The index term of each word, None for a stop word: Snowball stems, or the words themselves for "none".

    Raises InputError for an unknown language.
    """
    stemmer = _stemmer(language)
    if stemmer is None:
        return list(words)
    stop = STOP_WORDS.get(language, frozenset())
    return [None if word in stop else stem for word, stem in zip(words, stemmer.stemWords(words), strict=True)]


def languages() -> list[str]:
    """The languages that `stems` knows: those of Snowball, and "none"."""
    import Stemmer

    return ["none", *Stemmer.algorithms()]


def _normal(text: str) -> bytes:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return text.lower().encode("utf-8", "replace")


def _stemmer(language: str) -> Any:
    # A new one for each call: stemmers are cheap to make and not safe to share between threads.
    if language == "none":
        return None
    import Stemmer

    try:
        return Stemmer.Stemmer(language)
    except KeyError:
        raise InputError(f"no stemmer for language {language!r}", hint=did_you_mean(language, languages())) from None


@functools.cache
def _classes() -> NDArray[np.uint8]:
    """The class of each character for `Tokens`: 0 other, 1 letter, 2 letter of an unspaced script, 3 mark."""
    classes = np.zeros(LAST_LETTER, np.uint8)
    for code in chain(range(0xD800), range(0xE000, LAST_LETTER)):
        character = chr(code)
        if character.isalnum():
            classes[code] = 1
        elif code > 0xFF and unicodedata.category(character)[0] == "M":
            classes[code] = 3
    classes[ord("_")] = 1
    for first, last in UNSPACED:
        block = classes[first : last + 1]
        block[block == 1] = 2
    return classes
