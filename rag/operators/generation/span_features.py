"""Spans of a few words that may answer a question, and what tells whether one does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rag.operators.generation.question import Question
from rag.operators.generation.words import Kind, Words

__all__ = ["LONGEST", "SPAN_FEATURES", "candidate_spans", "span_features"]

LONGEST = 10
"""Words a candidate has at most."""

_FAR = 30.0

SPAN_FEATURES = (
    "length", "characters", "first", "last", "before", "before2", "after", "after2", "before_word", "after_word",
    "capitalised", "numbers", "years", "months", "symbols", "units", "titles", "commas", "prepositions", "conjunctions",
    "auxiliaries", "punctuation", "participles", "lower", "whole_name", "whole_number", "question_share",
    "question_words", "near_left", "near_right", "pull_left", "pull_right", "pull", "to_next", "to_first", "to_last",
    "to_focus", "focus_inside", "clause_pull", "mean_idf", "max_idf", "repeated", "place", "behind_all", "before_all",
    "in_quotes", "in_brackets", "verb_between", "expects", "wh", "focus_expects", "question_length", "next_kind",
    "is_list", "suffix",
)  # fmt: skip

_WORD_CODES = {
    w: i + 1
    for i, w in enumerate(
        "by of in at on from to for with as than about between during until since after before over under because "
        "through the a an and or that which who where when is are was were be been called named known like including "
        'her their per into not around approximately ( ) , . ; : - $ " %'.split()
    )
}
_NO_START = frozenset(
    (Kind.PUNCTUATION, Kind.COMMA, Kind.BRACKET, Kind.QUOTE, Kind.CONJUNCTION, Kind.AUXILIARY)
)  # fmt: skip
_NO_END = frozenset((Kind.PUNCTUATION, Kind.COMMA, Kind.QUOTE, Kind.CONJUNCTION, Kind.DETERMINER, Kind.PREPOSITION))


def candidate_spans(words: Words) -> NDArray[np.int64]:
    """int64[n, 2]: first and last word of every span of up to `LONGEST` words that could be an answer by its ends."""
    n = len(words)
    if not n:
        return np.zeros((0, 2), np.int64)
    kinds = words.kinds
    article = np.fromiter((w in ("the", "a", "an") for w in words.lower), np.bool_, n)
    starts = ~np.isin(kinds, [int(k) for k in _NO_START]) & ~article
    ends = ~np.isin(kinds, [int(k) for k in _NO_END])
    stop = np.fromiter((w in (";", ":", ".", "?", "!") for w in words.lower), np.bool_, n)
    stops = np.concatenate([[0], np.cumsum(stop)])
    first = np.repeat(np.flatnonzero(starts), LONGEST)
    last = first + np.tile(np.arange(LONGEST), len(first) // LONGEST)
    first, last = first[last < n], last[last < n]
    keep = ends[last] & (stops[last + 1] == stops[first])
    return np.stack([first[keep], last[keep]], axis=1)


def span_features(
    question: Question, words: Words, spans: NDArray[np.int64], idf: Callable[[str], float]
) -> NDArray[np.float32]:
    """float32[len(spans), len(SPAN_FEATURES)] for spans of one sentence."""
    n = len(words)
    i, j = spans[:, 0], spans[:, 1]
    length = j - i + 1
    kinds = words.kinds.astype(np.int64)
    padded = np.concatenate([[Kind.BORDER] * 2, kinds, [Kind.BORDER] * 2])
    codes = np.array([0] + [_WORD_CODES.get(w, 0) for w in words.lower] + [0], np.float32)
    weight = np.array([idf(s) if c else 0.0 for s, c in zip(words.stems, words.content(), strict=True)])

    def count(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        sums = np.concatenate([[0.0], np.cumsum(mask)])
        return np.asarray(sums[j + 1] - sums[i])

    asked = {question.words.stems[r] for r in question.content}
    shared = np.fromiter((s in asked for s in words.stems), np.bool_, n) & (weight > 0)
    named = np.isin(kinds, _NAMES)
    number = np.isin(kinds, (Kind.NUMBER, Kind.YEAR))

    at = np.flatnonzero(shared)
    w = weight[at]
    left_gap = i[:, None] - at[None, :]
    right_gap = at[None, :] - j[:, None]
    left, right = left_gap > 0, right_gap > 0
    near_left = np.where(left, left_gap, _FAR).min(axis=1, initial=_FAR)
    near_right = np.where(right, right_gap, _FAR).min(axis=1, initial=_FAR)
    total = max(float(w.sum()), 1e-9)
    pull_left = np.where(left, w / (1 + np.maximum(left_gap, 0)), 0).sum(axis=1)
    pull_right = np.where(right, w / (1 + np.maximum(right_gap, 0)), 0).sum(axis=1)
    clause = np.cumsum(
        np.isin(kinds, (Kind.COMMA, Kind.BRACKET)) | np.fromiter((x == ";" for x in words.lower), np.bool_, n)
    )
    clause_pull = ((clause[i][:, None] == clause[at][None, :]) * w).sum(axis=1) / total

    def gap_to(stem: str) -> NDArray[np.float64]:
        """Signed words between the span and the nearest place of a stem: negative when it stands in front."""
        places = np.array([p for p, s in enumerate(words.stems) if s == stem], np.int64)
        if not stem or not len(places):
            return np.full(len(spans), 2 * _FAR)
        gaps = np.where(
            places[None, :] < i[:, None],
            places[None, :] - i[:, None],
            np.where(places[None, :] > j[:, None], places[None, :] - j[:, None], 0),
        )
        nearest = np.abs(gaps).argmin(axis=1)
        return np.asarray(np.clip(gaps[np.arange(len(spans)), nearest], -_FAR, _FAR), np.float64)

    stems = question.words.stems
    content = question.content
    verb = stems[question.next] if question.next >= 0 else ""
    focus = np.fromiter((s == question.focus for s in words.stems), np.bool_, n)
    quote_marks = np.cumsum(kinds == Kind.QUOTE)
    depth = np.cumsum([(x == "(") - (x == ")") for x in words.lower])
    repeats = {s: words.stems.count(s) for s in set(words.stems)}
    times = np.array([repeats[s] for s in words.stems])
    verbs = np.isin(kinds, (Kind.AUXILIARY, Kind.PARTICIPLE))
    verb_sums = np.concatenate([[0.0], np.cumsum(verbs)])
    last_shared_left = np.where(left, at[None, :], -1).max(axis=1, initial=-1)
    between = np.where(last_shared_left >= 0, verb_sums[i] - verb_sums[np.maximum(last_shared_left, 0)], -1)
    weights_sum = np.concatenate([[0.0], np.cumsum(weight)])
    highest = np.array([weight[a : b + 1].max() for a, b in zip(i.tolist(), j.tolist(), strict=True)])
    before, after = padded[i + 1], padded[j + 3]
    is_name = count(named) == length
    is_number = count(number | np.isin(kinds, (Kind.UNIT, Kind.SYMBOL))) == length
    columns = (
        length,
        words.ends[j] - words.starts[i],
        kinds[i],
        kinds[j],
        before,
        padded[i],
        after,
        padded[j + 4],
        codes[i],
        codes[j + 2],
        count(named) / length,
        count(number),
        count(kinds == Kind.YEAR),
        count(kinds == Kind.MONTH),
        count(kinds == Kind.SYMBOL),
        count(kinds == Kind.UNIT),
        count(kinds == Kind.TITLE),
        count(kinds == Kind.COMMA),
        count(kinds == Kind.PREPOSITION),
        count(kinds == Kind.CONJUNCTION),
        count(kinds == Kind.AUXILIARY),
        count(np.isin(kinds, (Kind.PUNCTUATION, Kind.QUOTE, Kind.BRACKET))),
        count(np.isin(kinds, (Kind.PARTICIPLE, Kind.GERUND))),
        count(kinds == Kind.LOWER),
        is_name * 1 + (is_name & ~np.isin(before, _NAMES) & ~np.isin(after, _NAMES)),
        is_number * 1 + (is_number & ~np.isin(before, _NUMERIC) & ~np.isin(after, _NUMERIC)),
        count(shared) / length,
        count(shared),
        near_left,
        near_right,
        pull_left,
        pull_right,
        pull_left + pull_right,
        gap_to(verb),
        gap_to(stems[content[0]]) if len(content) else np.full(len(spans), 2 * _FAR),
        gap_to(stems[content[-1]]) if len(content) else np.full(len(spans), 2 * _FAR),
        gap_to(question.focus),
        count(focus),
        clause_pull,
        (weights_sum[j + 1] - weights_sum[i]) / length,
        highest,
        times[i],
        i / max(n, 1),
        i > (at.max() if len(at) else n),
        j < (at.min() if len(at) else -1),
        (quote_marks[i] % 2) + (before == Kind.QUOTE) * (after == Kind.QUOTE),
        depth[i],
        between,
        np.full(len(spans), question.expects),
        np.full(len(spans), question.wh_code),
        np.full(len(spans), len(question.focus) > 0),
        np.full(len(spans), len(content)),
        np.full(len(spans), question.words.kinds[question.next] if question.next >= 0 else 0),
        (count(kinds == Kind.COMMA) > 0) & (count(kinds == Kind.CONJUNCTION) > 0),
        np.array([_suffix(s) for s in words.lower], np.int64)[j],
    )
    return np.stack(columns, axis=1).astype(np.float32)


_NAMES = (Kind.NAME, Kind.OPENING, Kind.CAPITALS, Kind.TITLE)
_NUMERIC = (Kind.NUMBER, Kind.YEAR, Kind.MONTH, Kind.SYMBOL, Kind.UNIT)


def _suffix(word: str) -> int:
    for code, ends in enumerate(
        (
            ("tion", "sion", "ment", "ness", "ity", "ism"),
            ("ly",),
            ("er", "or", "ist", "ian"),
            ("s",),
            ("al", "ic", "ive", "ous", "ful", "able"),
        ),
        1,
    ):
        if word.endswith(ends):
            return code
    return 0
