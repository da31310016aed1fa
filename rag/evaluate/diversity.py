"""How different hits are from one another, and how many aspects of a question they cover."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.index.neighbours import as_points
from rag.types import Hits

__all__ = [
    "Aspects",
    "alpha_ndcg",
    "aspect_recall",
    "intra_list_distance",
    "is_diversity_measure",
    "judge_diversity",
]

_MEASURE = re.compile(r"(ILD|StRecall|alpha_nDCG)@([1-9]\d*)")

Aspects = Mapping[str, Collection[str]]
"""Document id -> the aspects (subtopics, parts of the question) that it answers."""


def intra_list_distance(vectors: NDArray[np.float32], k: int) -> float:
    """Mean of 1 - cosine over all pairs of the first k of vectors float32[n, d]; 0 with fewer than two.

    0 for copies of one thing, about 1 for unrelated ones (Ziegler et al., WWW 2005; Zhang and Hurley, RecSys 2008).
    """
    _check(k)
    points = as_points(vectors[:k], "cosine").astype(np.float64)
    n = len(points)
    if n < 2:
        return 0.0
    total = np.square(points.sum(axis=0)).sum() - np.square(points).sum()
    return float(1 - total / (n * (n - 1)))


def aspect_recall(ranking: Sequence[str], aspects: Aspects, k: int) -> float:
    """Share of the aspects that the first k documents of a ranking cover together; 0 when there are no aspects.

    Also called subtopic recall (Zhai, Cohen and Lafferty, SIGIR 2003).
    """
    _check(k)
    every = {aspect for own in aspects.values() for aspect in own}
    found = {aspect for document in ranking[:k] for aspect in aspects.get(document, ())}
    return len(found) / len(every) if every else 0.0


def alpha_ndcg(ranking: Sequence[str], aspects: Aspects, k: int, alpha: float = 0.5) -> float:
    """alpha-nDCG of the first k documents of a ranking: each further one of an aspect gains 1 - alpha times the last.

    The gain of a document is the sum over its aspects of (1 - alpha)^(documents of it before), discounted by log2(1 +
    rank), and divided by that of the best ranking, which is found greedily, as usual. (Clarke et al., SIGIR 2008,
    "Novelty and diversity in information retrieval evaluation".) 0 when there are no aspects. InputError for an alpha
    below 0 or above 1.
    """
    _check(k)
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}, expected 0 to 1")
    reached = _discounted([aspects.get(document, ()) for document in ranking[:k]], alpha)
    left = [frozenset(own) for own in aspects.values() if own]
    best: list[Collection[str]] = []
    seen: dict[str, int] = {}
    while left and len(best) < k:
        gains = [_gain(own, seen, alpha) for own in left]
        own = left.pop(int(np.argmax(gains)))
        best.append(own)
        _count(own, seen)
    ideal = _discounted(best, alpha)
    return reached / ideal if ideal else 0.0


def is_diversity_measure(name: str) -> bool:
    """Whether it is ILD@k, StRecall@k (aspect recall) or alpha_nDCG@k."""
    return _MEASURE.fullmatch(name) is not None


def judge_diversity(
    names: Sequence[str],
    aspects: Mapping[str, Aspects],
    rankings: Mapping[str, Sequence[str]],
    hits: Mapping[str, Hits],
) -> dict[str, dict[str, float]]:
    """Measure -> query id -> value; ILD by the vectors of the hits, the others for the queries with known aspects.

    Raises InputError where these are not known, and for hits that do not come from a collection.
    """
    values: dict[str, dict[str, float]] = {}
    for name in names:
        measure, depth = name.split("@")
        k = int(depth)
        if measure == "ILD":
            values[name] = {query: intra_list_distance(_vectors(own.top(k)), k) for query, own in hits.items()}
        elif not aspects:
            raise InputError(
                f"{name} needs the aspects that documents answer, and the data set names none",
                hint="add a fourth column to the judgements: query, document, relevance, aspect",
            )
        else:
            judge = aspect_recall if measure == "StRecall" else alpha_ndcg
            values[name] = {query: judge(rankings.get(query, ()), own, k) for query, own in aspects.items()}
    return values


def _vectors(hits: Hits) -> NDArray[np.float32]:
    if not len(hits):
        return np.empty((0, 1), np.float32)
    read = getattr(hits.store, "vectors", None)
    if read is None:
        raise InputError("hits without a collection: their vectors are not known", hint="return hits of a collection")
    return np.asarray(read(hits.ids), np.float32)


def _discounted(covered: Sequence[Collection[str]], alpha: float) -> float:
    seen: dict[str, int] = {}
    total = 0.0
    for rank, own in enumerate(covered, 1):
        total += _gain(own, seen, alpha) / float(np.log2(1 + rank))
        _count(own, seen)
    return total


def _gain(own: Collection[str], seen: Mapping[str, int], alpha: float) -> float:
    return float(sum((1 - alpha) ** seen.get(aspect, 0) for aspect in own))


def _count(own: Collection[str], seen: dict[str, int]) -> None:
    for aspect in own:
        seen[aspect] = seen.get(aspect, 0) + 1


def _check(k: int) -> None:
    if k < 1:
        raise InputError(f"k is {k}, expected at least 1")
