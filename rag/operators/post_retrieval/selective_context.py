"""A context without the sentences that say least."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from rag.operators.base import Operator
from rag.operators.post_retrieval.pieces import places_of, with_places
from rag.operators.resources import Collection
from rag.types import Context

__all__ = ["SelectiveContext"]

_WORD = re.compile(r"\w+")


class SelectiveContext(Operator, name="post_retrieval.selective_context", waits=True):
    """Drop the sentences of a context whose words are the most common in the collection.

    A sentence's self-information is the mean of -log2 p(word) over its words, with p counted in up to `sample` chunks
    spread evenly over the collection (one added to every count); a sentence without words has 0. The share `drop` of
    the sentences with the least is left out, rounded down. What is kept stays in its order and exact, as in
    `compress`. The counts are made once for each generation of a collection.

    Li et al. 2023, arXiv:2310.06201, "Compressing context to enhance inference efficiency". There a language model
    gives p(token | text before it) and phrases are dropped by their sum; here no model is asked: p is that of the word
    alone, and the unit is the sentence, by its mean, so that length is neutral.
    """

    drop: float = Field(0.3, ge=0, lt=1, description="share of the sentences that is dropped")
    sample: int = Field(5000, ge=1, le=1_000_000, description="chunks in which words are counted, at most")

    def run(self, context: Context, collection: Collection) -> Context:
        places = places_of(context)
        if not places:
            return context
        surprise = _surprise(collection, self.sample)
        texts = [context.passages[row].text[a:b] for row, a, b in places]
        information = np.array([surprise.mean(text) for text in texts])
        least = np.lexsort((-np.arange(len(places)), information))  # of equals the last is dropped first
        kept = set(least[int(self.drop * len(places)) :].tolist())
        return with_places(context, places, kept, collection)


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
