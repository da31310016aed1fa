"""An answer in the documents' own words, without a language model."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.operators.base import Operator
from rag.operators.generation.citations import cite
from rag.operators.generation.reader import Found, Reader
from rag.operators.resources import Encoder
from rag.types import Answer, Citation, Context, Query

__all__ = ["ExtractiveAnswer"]

_SPAN_SURE = 0.3
_CLOSE = 0.5


# "What happens ...", "what does X say": a few words would be no answer, though the question begins like one for them.
_ASKS_FOR_AN_ACCOUNT = re.compile(r"\s*what\s+(happens\b|(does|do|did)\s.*\b(say|mean|do|happen)\b)", re.IGNORECASE)


class ExtractiveAnswer(Operator, name="generation.extractive_answer", waits=True):
    """Answer with the words of the documents: the sentence that answers best, and the shortest span of it that does.

    Sentences are ranked by what they share with the question, and the best `compare` of them by their cosine with it
    too; then every span of up to ten words of these (of three at most) by its form, its neighbours and the kind of
    answer that the question asks for. The weights are boosted trees fitted to SQuAD's training questions
    (`benchmarks/fit_reader.py`); they know English question words, and fall back on shared words in other languages.

    The citation is the whole sentence that the answer stands in. The answer's `score` is the estimated probability
    that the context holds an answer; below `min_support`, and with an empty context, the answer is `not_found`.
    """

    form: Literal["auto", "span", "sentence"] = Field(
        "auto",
        description="a few words, whole sentences, or what fits: sentences for how and why, and if no span is sure",
    )
    min_support: float = Field(0.2, ge=0, le=1, description="smallest probability to give an answer")
    compare: int = Field(
        2,
        ge=1,
        le=100,
        description="sentences whose embedding is compared with the question's; most of the time goes here",
    )
    not_found: str = Field(
        "The documents do not answer this question.", min_length=1, description="the answer when there is none"
    )

    def run(self, query: Query, context: Context, encoder: Encoder) -> Answer:
        return self.run_batch([query], [context], encoder)[0]

    def run_batch(self, query: list[Query], context: list[Context], encoder: Encoder) -> list[Answer]:
        reader = Reader.packaged()
        candidates = [reader.candidates(q.text, c, self.compare) for q, c in zip(query, context, strict=True)]
        texts: dict[str, int] = {}
        for found, passages in zip(candidates, context, strict=True):
            for s in found.sentences:
                texts.setdefault(passages.passages[s.passage].text[s.start : s.end], len(texts))
        if not texts:
            return [self._refusal(0.0)] * len(query)
        asked = [q for q, found in zip(query, candidates, strict=True) if found.sentences]
        vectors = encoder.encode_documents(list(texts))
        questions = iter(_question_vectors(asked, encoder))
        answers = []
        for q, found, passages in zip(query, candidates, context, strict=True):
            if not found.sentences:
                answers.append(self._refusal(0.0))
                continue
            rows = [texts[passages.passages[s.passage].text[s.start : s.end]] for s in found.sentences]
            read = reader.read(found, vectors[rows] @ next(questions))
            factoid = found.question.factoid and not _ASKS_FOR_AN_ACCOUNT.match(q.text)
            answers.append(self._answer(read, passages, factoid=factoid))
        return answers

    def _answer(self, read: Found, context: Context, *, factoid: bool) -> Answer:
        if read.support < self.min_support:
            return self._refusal(read.support)
        wants_span = self.form == "span" or (self.form == "auto" and factoid and read.span_sure >= _SPAN_SURE)
        if wants_span and read.span is not None:
            row, start, end = read.span
            citation = _cite(read, row, context)
            return Answer(" ".join(citation.quote[start:end].split()), (citation,), score=read.support)
        rows = [0]
        if not factoid and len(read.scores) > 1 and read.scores[0] - read.scores[1] < _CLOSE:
            first, second = read.sentences[:2]
            if first.passage == second.passage:
                rows = sorted((0, 1), key=lambda r: read.sentences[r].start)
        citations = tuple(_cite(read, row, context) for row in rows)
        return Answer(" ".join(_readable(c.quote) for c in citations), citations, score=read.support)

    def _refusal(self, support: float) -> Answer:
        return Answer(self.not_found, found=False, score=support)


def _readable(quote: str) -> str:
    """A quotation on one line, without the marks of bold text."""
    return " ".join(quote.replace("**", "").split())


def _cite(read: Found, row: int, context: Context) -> Citation:
    sentence = read.sentences[row]
    return cite(context.passages[sentence.passage], sentence.start, sentence.end)


def _question_vectors(queries: list[Query], encoder: Encoder) -> NDArray[np.float32]:
    """float32[n, dim]: the vectors that queries carry, and for the others those of the encoder."""
    to_encode = [q.text for q in queries if q.vector is None]
    encoded = iter(encoder.encode_queries(to_encode) if to_encode else ())
    return np.stack([next(encoded) if q.vector is None else q.vector for q in queries])
