"""The fitted parts of `ExtractiveAnswer`: which sentence answers, which of its words, and whether any does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.operators.generation.passages import sentences_of
from rag.operators.generation.question import Question, analyse
from rag.operators.generation.sentence_features import SENTENCE_FEATURES, Sentence, sentence_features
from rag.operators.generation.span_features import candidate_spans, span_features
from rag.operators.generation.trees import Trees
from rag.operators.generation.words import content_stems
from rag.types import Context

__all__ = ["Candidates", "Found", "Reader", "evidence", "span_table", "with_cosines"]

READ = 3
"""Sentences whose words are looked at for a span."""

_FIRST_TREES, _FIRST_KEPT = 30, 48  # a span has to be among so many by so many trees to be looked at by all of them
_DEFINES = 3.0  # SQuAD has too few such questions to fit it; scores of good and bad sentences are about as far apart
_COVERED = SENTENCE_FEATURES.index("covered")
_EVIDENCE = tuple(
    SENTENCE_FEATURES.index(name)
    for name in ("covered", "covered_with_passage", "passage_covered", "names_missed", "weight", "longest_run")
)


@dataclass(frozen=True)
class Candidates:
    """The sentences of one context that may answer a question, best by their words first, with their features."""

    question: Question
    sentences: list[Sentence]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What the reader found: sentences by falling `scores`, and the best span of one of them.

    `span` is (row of `sentences`, start, end in the sentence's text), `span_sure` the probability that most of it is
    right if the context holds an answer, `support` the probability that it does.
    """

    sentences: list[Sentence]
    scores: NDArray[np.float32]
    span: tuple[int, int, int] | None
    span_sure: float
    support: float


class Reader:
    """Ranks sentences by words, then by words and cosine, then the spans of the best; all by boosted trees."""

    def __init__(self, file: Path) -> None:
        from safetensors.numpy import load_file

        tensors = load_file(file)
        stems = tensors["idf.stems"].tobytes().decode().split(" ")
        self._idf = dict(zip(stems, tensors["idf.values"].astype(np.float64).tolist(), strict=True))
        self._unseen = max(self._idf.values())
        self._by_words = Trees.read(tensors, "by_words")
        self._by_meaning = Trees.read(tensors, "by_meaning")
        self._spans = Trees.read(tensors, "spans")
        self._support = tensors["support"].astype(np.float64)
        self._span_sure = tensors["span_sure"].astype(np.float64)

    @staticmethod
    @cache
    def packaged() -> Reader:
        """The reader that comes with the package, fitted by `benchmarks/fit_reader.py`."""
        return Reader(Path(__file__).with_name("reader.safetensors"))

    def idf(self, stem: str) -> float:
        """How much a word tells: its inverse document frequency; that of the rarest for words not known."""
        return float(self._idf.get(stem, self._unseen))

    def candidates(self, question: str, context: Context, keep: int) -> Candidates:
        """The `keep` best sentences by their words."""
        found = described(question, context, self.idf)
        if not found.sentences:
            return found
        scores = self._by_words.predict(found.features) + _bonus(found.question, found.sentences)
        order = np.argsort(-scores, kind="stable")[:keep]
        return Candidates(found.question, [found.sentences[row] for row in order], found.features[order])

    def read(self, candidates: Candidates, cosines: NDArray[np.float32]) -> Found:
        """Find the sentences and the span that answer best; `cosines` float32[n], one a candidate sentence."""
        features = with_cosines(candidates.features, cosines)
        scores = self._by_meaning.predict(features) + _bonus(candidates.question, candidates.sentences)
        order = np.argsort(-scores, kind="stable")
        sentences = [candidates.sentences[row] for row in order]
        scores, features = scores[order], features[order]
        rows, spans, table = span_table(candidates.question, sentences, scores, features, self.idf)
        span, span_score = None, 0.0
        if len(spans):
            partial = self._spans.predict(table, last=_FIRST_TREES)
            kept = np.argsort(-partial, kind="stable")[:_FIRST_KEPT]
            full = partial[kept] + self._spans.predict(table[kept], first=_FIRST_TREES)
            best = kept[int(full.argmax())]
            span_score = float(full.max())
            words = sentences[rows[best]].words
            span = (int(rows[best]), int(words.starts[spans[best, 0]]), int(words.ends[spans[best, 1]]))
        support = 1 / (1 + np.exp(-self._support @ evidence(scores, features, span_score)))
        sure = 1 / (1 + np.exp(-self._span_sure @ (1.0, span_score))) if span else 0.0
        return Found(sentences, scores, span, float(sure), float(support))


def described(question: str, context: Context, idf: Callable[[str], float]) -> Candidates:
    """All sentences of the context with the features of their words."""
    analysed = analyse(question)
    sentences = sentences_of(context)
    top = max((abs(p.score) for p in context), default=0.0) or 1.0
    titles = [frozenset(content_stems(_above(p.metadata))) for p in context]
    relative = np.array([p.score / top for p in context])
    return Candidates(analysed, sentences, sentence_features(analysed, sentences, relative, titles, idf))


def with_cosines(features: NDArray[np.float32], cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sentence features with two more: the cosine with the question, and how far it is below the highest."""
    return np.column_stack([features, cosines, cosines - cosines.max()]).astype(np.float32)


def span_table(
    question: Question,
    sentences: Sequence[Sentence],
    scores: NDArray[np.float32],
    features: NDArray[np.float32],
    idf: Callable[[str], float],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Candidate spans of the first sentences: row of the sentence, first and last word, features."""
    rows, spans, tables = [], [], []
    for row, sentence in enumerate(sentences[:READ]):
        found = candidate_spans(sentence.words)
        if not len(found):
            continue
        own = span_features(question, sentence.words, found, idf)
        about = (
            row,
            scores[row],
            scores[0] - scores[row],
            features[row, -2],
            sentence.passage,
            features[row, _COVERED],
        )
        rows.append(np.full(len(found), row))
        spans.append(found)
        tables.append(np.column_stack([own, np.tile(np.array(about, np.float32), (len(found), 1))]))
    if not rows:
        return np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros((0, 0), np.float32)
    return np.concatenate(rows), np.concatenate(spans), np.concatenate(tables)


def evidence(scores: NDArray[np.float32], features: NDArray[np.float32], span_score: float) -> NDArray[np.float64]:
    """What tells whether the best sentence answers at all; 1 comes first."""
    second = float(scores[1]) if len(scores) > 1 else float(scores[0])
    own = features[0, list(_EVIDENCE)].astype(np.float64)
    return np.array([1.0, scores[0], scores[0] - second, features[0, -2], span_score, *own])


def _bonus(question: Question, sentences: Sequence[Sentence]) -> NDArray[np.float32]:
    """float32[n]: what a sentence gains for being the definition that is asked for."""
    wanted = question.defines
    return np.array([_DEFINES if wanted and _defines(s, wanted) else 0.0 for s in sentences], np.float32)


def _defines(sentence: Sentence, wanted: frozenset[str]) -> bool:
    """Whether a sentence begins like a definition: "A sheet is", "Hits are", "**sheet** | a rope", "Sheet: a rope"."""
    lower, stems = sentence.words.lower, sentence.words.stems
    at = 0
    while at < len(lower) and (lower[at] in ("a", "an", "the") or not lower[at][0].isalnum()):
        at += 1
    end = at
    while end < len(lower) and stems[end] in wanted:
        end += 1
    if not wanted <= set(stems[at:end]):
        return False
    while end < len(lower) and lower[end] in ("*", "`", '"', "”", ")"):
        end += 1
    return end < len(lower) and lower[end] in ("is", "are", "means", "denotes", "|", ":", "-", "–", "—")


def _above(metadata: Mapping[str, Any]) -> str:
    """Title and headings of a passage."""
    headings = metadata.get("headings") or ()
    return " ".join(str(part) for part in (metadata.get("title") or "", *headings))
