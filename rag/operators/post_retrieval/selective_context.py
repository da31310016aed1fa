"""A context without the sentences that say least."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.models import ScoringModel, can_score, scoring
from rag.operators.base import Operator
from rag.operators.post_retrieval.pieces import Place, places_of, with_places
from rag.operators.post_retrieval.surprise import self_information
from rag.operators.resources import ChatModel, Collection
from rag.types import Context

__all__ = ["SelectiveContext"]

_WORD = re.compile(r"\w+")


class SelectiveContext(Operator, name="post_retrieval.selective_context", waits=True):
    """Drop the sentences of a context that say least: the share `drop` of them, rounded down.

    A sentence's self-information is the mean of -log2 p(token | passage before it) over its tokens, by the resource
    `scorer` or else the pipeline's language model; the passages of a batch are scored together. Where neither scores
    given text, and with `by="words"`, it is the mean of -log2 p(word) over its words, with p counted in up to `sample`
    chunks spread evenly over the collection (one added to every count), once for each generation of it; a sentence
    without words has 0. What is kept stays in its order and exact, as in `compress`.

    (Li et al. 2023, arXiv:2310.06201, "Compressing context to enhance inference efficiency"; there phrases are dropped
    by their sum, here the unit is the sentence, by its mean, so that length is neutral.)
    """

    drop: float = Field(0.3, ge=0, lt=1, description="share of the sentences that is dropped")
    by: Literal["model", "words"] = Field(
        "model", description="what tells how likely a token is: a language model that can, or counts of words"
    )
    sample: int = Field(5000, ge=1, le=1_000_000, description="chunks in which words are counted, at most")

    def run(self, context: Context, collection: Collection, scorer: ChatModel | None = None) -> Context:
        return self.run_batch([context], collection, scorer)[0]

    def run_batch(
        self, context: list[Context], collection: Collection, scorer: ChatModel | None = None
    ) -> list[Context]:
        places = [places_of(c) for c in context]
        if self.by == "model" and scorer is not None and can_score(scorer):
            informed = _by_model(context, places, scoring(scorer, self.operator_name))
        else:
            informed = _by_words(context, places, collection, self.sample)
        result = []
        for c, own, information in zip(context, places, informed, strict=True):
            least = np.lexsort((-np.arange(len(own)), information))  # of equals the last is dropped first
            kept = set(least[int(self.drop * len(own)) :].tolist())
            result.append(with_places(c, own, kept, collection) if own else c)
        return result


def _by_model(contexts: list[Context], places: list[list[Place]], scorer: ScoringModel) -> list[NDArray[np.float64]]:
    """Bits a token, for each sentence; a token belongs to the sentence that it ends in."""
    texts = [p.text for c in contexts for p in c]
    scored = iter(self_information(texts, scorer))
    found = []
    for context, own in zip(contexts, places, strict=True):
        passages = [next(scored) for _ in context]
        means = []
        for row, start, end in own:
            ends, bits = passages[row]
            inside = bits[(ends > start) & (ends <= end)]
            means.append(float(inside.mean()) if len(inside) else 0.0)
        found.append(np.array(means, np.float64))
    return found


def _by_words(
    contexts: list[Context], places: list[list[Place]], collection: Collection, sample: int
) -> list[NDArray[np.float64]]:
    """Bits a word, for each sentence."""
    if not any(places):
        return [np.zeros(0) for _ in contexts]
    surprise = _surprise(collection, sample)
    return [
        np.array([surprise.mean(context.passages[row].text[a:b]) for row, a, b in own], np.float64)
        for context, own in zip(contexts, places, strict=True)
    ]


class _Surprise:
    """-log2 p of words, by their counts."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._total = sum(counts.values()) + len(counts) + 1  # one more of each, and of one never seen

    def mean(self, text: str) -> float:
        words = _WORD.findall(text.lower())
        if not words:
            return 0.0
        seen = np.array([self._counts.get(word, 0) + 1 for word in words])
        return float(np.mean(np.log2(self._total / seen)))


_counted: dict[tuple[str, int], _Surprise] = {}
_counting = threading.Lock()
_KEPT = 4  # collections


def _surprise(collection: Collection, sample: int) -> _Surprise:
    key = (collection.fingerprint, sample)
    with _counting:
        found = _counted.pop(key, None)
        if found is None:
            ids = collection.chunk_ids()
            rows = np.unique(np.linspace(0, len(ids) - 1, min(sample, len(ids))).astype(np.int64))
            counts: Counter[str] = Counter()
            for chunk in collection.chunks(ids[rows]) if len(ids) else ():
                counts.update(_WORD.findall(chunk.text.lower()))
            found = _Surprise(counts)
        _counted[key] = found
        while len(_counted) > _KEPT:
            del _counted[next(iter(_counted))]
    return found
