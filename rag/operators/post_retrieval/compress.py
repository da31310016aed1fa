"""The sentences of a context that are nearest to the question."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.operators.base import Operator
from rag.operators.generation.words import content_stems
from rag.operators.post_retrieval.build_context import estimate_tokens
from rag.operators.post_retrieval.pieces import places_of, with_places
from rag.operators.resources import ChatModel, Collection, Encoder
from rag.types import Context, Query

__all__ = ["Compress"]


class Compress(Operator, name="post_retrieval.compress", waits=True):
    """Keep the sentences of a context that are nearest to the question, within a token budget.

    Takes sentence after sentence, the nearest first, as long as each fits; the nearest of all is kept even where it is
    larger than the budget. What is kept stays in its order and exact: neighbouring sentences are one passage, others
    become passages of their own, numbered anew. A passage of which nothing is kept counts as left out. Tokens are
    counted sentence by sentence, by the language model where the pipeline has one, otherwise estimated. A context
    within the budget stays as it is. (Extractive compression: Xu et al. 2023, arXiv:2310.04408, RECOMP, section 3.1;
    here with the pipeline's own encoder, not one trained for it.)
    """

    max_tokens: int = Field(500, ge=16, description="tokens of all sentences together")
    by: Literal["meaning", "words"] = Field(
        "meaning",
        description="nearness: the encoder's cosine, or the rare words of the question that a sentence holds",
    )

    def run(
        self,
        query: Query,
        context: Context,
        encoder: Encoder | None = None,
        llm: ChatModel | None = None,
        collection: Collection | None = None,
    ) -> Context:
        return self.run_batch([query], [context], encoder, llm, collection)[0]

    def run_batch(
        self,
        query: list[Query],
        context: list[Context],
        encoder: Encoder | None = None,
        llm: ChatModel | None = None,
        collection: Collection | None = None,
    ) -> list[Context]:
        count = estimate_tokens if llm is None else llm.count_tokens
        places = [places_of(c) for c in context]
        texts = [[c.passages[row].text[a:b] for row, a, b in own] for c, own in zip(context, places, strict=True)]
        tokens = [[count(text) for text in own] for own in texts]
        large = [i for i, own in enumerate(tokens) if sum(own) > self.max_tokens]
        asked, read = [query[i].text for i in large], [texts[i] for i in large]
        if self.by == "words" or encoder is None:
            nearness = [_by_words(text, own) for text, own in zip(asked, read, strict=True)]
        else:
            nearness = _by_meaning(asked, read, encoder)
        result = list(context)
        for i, near in zip(large, nearness, strict=True):
            result[i] = with_places(context[i], places[i], self._fitting(near, tokens[i]), collection)
        return result

    def _fitting(self, nearness: NDArray[np.float64], tokens: list[int]) -> set[int]:
        kept: set[int] = set()
        left = self.max_tokens
        for index in np.argsort(-nearness, kind="stable").tolist():
            if tokens[index] <= left or not kept:
                kept.add(index)
                left -= tokens[index]
        return kept


def _by_meaning(queries: list[str], texts: list[list[str]], encoder: Encoder) -> list[NDArray[np.float64]]:
    """The cosine of each sentence and its question; all sentences are encoded as one batch."""
    if not queries:
        return []
    asked = encoder.encode_queries(queries)
    vectors = encoder.encode_documents([text for own in texts for text in own])
    ends = np.cumsum([len(own) for own in texts])[:-1]
    return [np.asarray(own @ q, np.float64) for own, q in zip(np.split(vectors, ends), asked, strict=True)]


def _by_words(query: str, texts: list[str]) -> NDArray[np.float64]:
    """The sum over the question's stems in a sentence of log(1 + sentences / sentences with it)."""
    asked = content_stems(query)
    shared = [asked & content_stems(text) for text in texts]
    rarity = {stem: np.log1p(len(texts) / max(sum(stem in own for own in shared), 1)) for stem in sorted(asked)}
    return np.array([sum(rarity[stem] for stem in sorted(own)) for own in shared], np.float64)
