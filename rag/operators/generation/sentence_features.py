"""What tells whether a sentence answers a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.operators.generation.question import Question
from rag.operators.generation.words import Kind, Words

__all__ = ["SENTENCE_FEATURES", "Sentence", "sentence_features"]

SENTENCE_FEATURES = (
    "covered", "covered_best", "covered_with_previous", "covered_with_passage", "covered_by_title", "weight",
    "pairs", "longest_run", "names_missed", "names_covered", "focus_here", "words", "place", "passage_rank",
    "passage_score", "passage_covered", "expects", "wh", "numbers", "years", "months", "new_names", "question_words",
    "bm25", "bm25_best", "verb_covered", "factoid",
)  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """A sentence of a passage: characters `start` to `end` of the passage's text."""

    passage: int
    place: int
    start: int
    end: int
    words: Words
    stems: frozenset[str]


def sentence_features(
    question: Question,
    sentences: Sequence[Sentence],
    passage_scores: NDArray[np.float64],
    passage_titles: Sequence[frozenset[str]],
    idf: Callable[[str], float],
) -> NDArray[np.float32]:
    """float32[sentences, len(SENTENCE_FEATURES)].

    `passage_scores`, `passage_titles`: for each passage its share of the best score (0..1), and the stems of its title.
    """
    rows = question.content
    stems = [question.words.stems[r] for r in rows]
    weights = np.array([idf(s) for s in stems])
    total = max(float(weights.sum()), 1e-9)
    names = np.array([question.words.kinds[r] in _NAME_KINDS for r in rows], bool)
    has = np.array([[s in sentence.stems for s in stems] for sentence in sentences], bool).reshape(
        len(sentences), len(stems)
    )
    by_passage: dict[int, NDArray[np.bool_]] = {}
    for row, sentence in enumerate(sentences):
        known = by_passage.setdefault(sentence.passage, np.zeros(len(stems), bool))
        np.logical_or(known, has[row], out=known)
    titled = {p: np.array([s in passage_titles[p] for s in stems], bool) for p in by_passage}
    covered = has @ weights / total
    best = max(float(covered.max(initial=0.0)), 1e-9)
    lengths = np.array([len(s.stems) for s in sentences])
    norm = 0.6 + 0.4 * lengths / max(float(lengths.mean()) if len(lengths) else 1.0, 1.0)
    frequency = has.sum(axis=0)
    local = np.log1p((len(sentences) - frequency + 0.5) / (frequency + 0.5))
    bm25 = (has * local).sum(axis=1) / norm
    best25 = max(float(bm25.max(initial=0.0)), 1e-9)
    verb = question.words.stems[question.next] if question.next >= 0 else ""
    table = np.zeros((len(sentences), len(SENTENCE_FEATURES)), np.float32)
    question_set = frozenset(stems)
    for row, sentence in enumerate(sentences):
        previous = (
            has[row - 1] if row and sentences[row - 1].passage == sentence.passage else np.zeros(len(stems), bool)
        )
        here, passage = has[row], by_passage[sentence.passage]
        kinds = sentence.words.kinds
        run, pairs = _runs(stems, sentence)
        new_names = sum(
            1
            for kind, s in zip(kinds.tolist(), sentence.words.stems, strict=True)
            if kind in _NAME_KINDS and s not in question_set
        )
        table[row] = (
            covered[row],
            covered[row] / best,
            (here | previous) @ weights / total,
            (here | (passage | titled[sentence.passage])) @ weights / total,
            titled[sentence.passage] @ weights / total,
            covered[row] * total,
            pairs,
            run,
            (names & ~here & ~titled[sentence.passage]).sum(),
            (names & here).sum(),
            question.focus in sentence.stems,
            len(sentence.words),
            sentence.place,
            sentence.passage,
            passage_scores[sentence.passage],
            passage @ weights / total,
            question.expects,
            question.wh_code,
            np.count_nonzero((kinds == Kind.NUMBER) | (kinds == Kind.YEAR)),
            np.count_nonzero(kinds == Kind.YEAR),
            np.count_nonzero(kinds == Kind.MONTH),
            new_names,
            len(stems),
            bm25[row],
            bm25[row] / best25,
            verb in sentence.stems,
            question.factoid,
        )
    return table


_NAME_KINDS = (Kind.NAME, Kind.CAPITALS, Kind.MONTH, Kind.YEAR, Kind.NUMBER)


def _runs(stems: list[str], sentence: Sentence) -> tuple[int, int]:
    """The longest run of question words that stands in the sentence in the same order, and the neighbours kept."""
    there = {s: i for i, s in enumerate(sentence.words.stems)}
    longest = run = pairs = 0
    last = -10
    for s in stems:
        at = there.get(s, -10)
        if at < 0:
            run = 0
        else:
            near = 0 < at - last <= 3
            pairs += near
            run = run + 1 if near else 1
            longest = max(longest, run)
        last = at
    return longest, pairs
