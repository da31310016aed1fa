"""Answers of branches under one numbering of their citations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rag.operators.generation.citations import MARKER, numbers_in
from rag.types import Answer, Citation, Usage

__all__ = ["concatenated", "found_once", "normalised", "renumbered", "usage_of"]

_MARKERS_OR_CODE = re.compile(rf"`[^`]*`|[ \t]*{MARKER.pattern}")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def normalised(text: str) -> str:
    """An answer as SQuAD compares it: lower case, no citations, punctuation and articles, single spaces.

    Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1; punctuation of all scripts is taken out, not ASCII's alone.
    """
    plain = _PUNCTUATION.sub("", MARKER.sub(" ", text).lower())
    return " ".join(_ARTICLES.sub(" ", plain).split())


def found_once(answers: Sequence[Answer]) -> list[Answer]:
    """The answers that were found, the first of those with equal words."""
    found: dict[str, Answer] = {}
    for answer in answers:
        if answer.found and answer.text.strip():
            found.setdefault(normalised(answer.text) or answer.text, answer)
    return list(found.values())


def renumbered(answers: Sequence[Answer]) -> list[Answer]:
    """The same answers, with citations of one chunk under one number in all of them, from 1 in order of appearance.

    A number in a text that no citation of its answer has is taken out; brackets within `code` are no citations.
    """
    numbers: dict[tuple[str, int], int] = {}

    def number_of(citation: Citation) -> int:
        return numbers.setdefault((citation.document, citation.chunk), len(numbers) + 1)

    result = []
    for answer in answers:
        new: dict[int, dict[int, None]] = {}
        for citation in answer.citations:
            new.setdefault(citation.number, {})[number_of(citation)] = None
        citations = tuple(dict.fromkeys(replace(c, number=number_of(c)) for c in answer.citations))
        result.append(replace(answer, text=_with_numbers(answer.text, new), citations=citations))
    return result


def _with_numbers(text: str, new: dict[int, dict[int, None]]) -> str:
    def put(match: re.Match[str]) -> str:
        if match[0].startswith("`"):
            return match[0]
        space, marker = match[0][: match[0].index("[")], match[0].strip()
        numbers = sorted({number for old in numbers_in(marker) for number in new.get(old, ())})
        return f"{space}[{', '.join(map(str, numbers))}]" if numbers else ""

    return _MARKERS_OR_CODE.sub(put, text).strip()


def concatenated(answers: Sequence[Answer], *, numbered: bool, separator: str) -> Answer:
    """All answers that were found, one behind the other; the first that was not when none was."""
    found = renumbered(found_once(answers))
    if not found:
        missing = next((a for a in answers if not a.found), Answer("", found=False))
        return replace(missing, citations=(), usage=usage_of(answers))
    texts = [a.text for a in found]
    if numbered and len(texts) > 1:
        texts = [f"{n}. {text}" for n, text in enumerate(texts, 1)]
    scores = [a.score for a in found if a.score is not None]
    return Answer(
        separator.join(texts),
        tuple(dict.fromkeys(c for a in found for c in a.citations)),
        score=sum(scores) / len(scores) if scores else None,
        usage=usage_of(answers),
    )


def usage_of(answers: Sequence[Answer]) -> Usage:
    """What all of them consumed."""
    return sum((a.usage for a in answers), Usage())
